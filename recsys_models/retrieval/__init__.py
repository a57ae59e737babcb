"""Turning a user's history into a ranked list: channels, their blend, recall strategies."""
