"""Models that put a short list of candidates into a better order."""
