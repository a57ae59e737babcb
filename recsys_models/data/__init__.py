"""From behaviour logs to chronological sequences: reading, cleaning, the item catalogue, the split.

The names below need only numpy; reading and cleaning (``readers``, ``cleaning``, ``adapters``) import polars
and are therefore imported where they are used.
"""

from __future__ import annotations

from recsys_models.data.catalogue import Catalogue
from recsys_models.data.cleaning_report import CleaningReport, CleaningStep
from recsys_models.data.dataset import Dataset
from recsys_models.data.sequences import Sequences
from recsys_models.data.splits import LeaveLastOut, leave_last_out

__all__ = [
    "Catalogue",
    "CleaningReport",
    "CleaningStep",
    "Dataset",
    "LeaveLastOut",
    "Sequences",
    "leave_last_out",
]
