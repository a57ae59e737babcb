"""Noise: every mechanism returns what it released together with the event to account for."""
