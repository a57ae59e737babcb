"""What can go wrong in ``recsys_models``."""

from __future__ import annotations


class DataError(ValueError):
    """A behaviour log, a catalogue or a setting cannot be used; the message names the value and the cure."""
