"""Recommender models on plain tensors: data, encoders, item towers, losses, metrics, retrieval."""
