"""A loaded data set: sequences, catalogue, what is known about users, and how it came to be."""

from __future__ import annotations

from dataclasses import dataclass, field

from recsys_models.data.catalogue import Catalogue
from recsys_models.data.cleaning_report import CleaningReport
from recsys_models.data.sequences import Sequences
from recsys_models.data.splits import leave_last_out
from recsys_models.errors import DataError


@dataclass(frozen=True, eq=False)
class Dataset:
    """What ``recsys_models.data.adapters.load`` and the simulations' generator return.

    Attributes:
        name: short name for tables, e.g. ``"ml-100k"``.
        sequences: every user's events, oldest first.
        catalogue: the items; the same object as ``sequences.catalogue``.
        user_attributes: name -> one value per user (``""`` where unknown), aligned with
            ``sequences.user_ids``; None if the source has none.
        cleaning: what was dropped on the way.
        split_checksum: ``leave_last_out(sequences).checksum``, computed here if left out.
    """

    name: str
    sequences: Sequences
    catalogue: Catalogue
    user_attributes: dict[str, list[str]] | None = None
    cleaning: CleaningReport = field(default_factory=CleaningReport)
    split_checksum: str = ""

    def __post_init__(self) -> None:
        for attribute, values in (self.user_attributes or {}).items():
            if len(values) != self.sequences.n_users:
                raise DataError(
                    f"user attribute '{attribute}' has {len(values)} values for {self.sequences.n_users} "
                    "users: give one each"
                )
        if not self.split_checksum:
            object.__setattr__(self, "split_checksum", leave_last_out(self.sequences).checksum)

    def summary(self) -> str:
        """One line: users, items, events."""
        users, items, events = self.sequences.n_users, self.catalogue.n_items, self.sequences.n_events
        return f"{self.name}: {users:,} users, {items:,} items, {events:,} events"
