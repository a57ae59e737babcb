"""Behaviour sequences: every user's items in the order of time, in one flat array (CSR)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recsys_models.data.catalogue import Catalogue, natural_order, unknown_items_message
from recsys_models.data.histories import TimedHistories
from recsys_models.data.schema import ITEM, ROW, TIMESTAMP, USER, VALUE
from recsys_models.errors import DataError

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, eq=False)
class Sequences:
    """The events of several users; user ``u`` owns ``items[offsets[u]:offsets[u + 1]]``, oldest first.

    Attributes:
        user_ids: the ids as the log writes them, in natural order when built from a log.
        items: int64 [n_events], catalogue indices.
        offsets: int64 [n_users + 1], non-decreasing, from 0 to n_events; a user may have no event.
        catalogue: what the indices mean.
        timestamps: float64 [n_events], Unix seconds, or None where only the order is known.
        values: float64 [n_events], what the log calls ``value`` (a rating); NaN where it says nothing, None without any.

    Raises:
        DataError: if lengths, offsets or indices do not fit together.
    """

    user_ids: list[str]
    items: NDArray[np.int64]
    offsets: NDArray[np.int64]
    catalogue: Catalogue
    timestamps: NDArray[np.float64] | None = None
    values: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        items = np.ascontiguousarray(self.items, dtype=np.int64)
        offsets = np.ascontiguousarray(self.offsets, dtype=np.int64)
        object.__setattr__(self, "items", items)
        object.__setattr__(self, "offsets", offsets)
        if len(offsets) != len(self.user_ids) + 1:
            raise DataError(
                f"sequences: {len(offsets)} offsets for {len(self.user_ids)} users: give users + 1"
            )
        if offsets[0] != 0 or offsets[-1] != len(items) or np.any(np.diff(offsets) < 0):
            raise DataError(
                f"sequences: offsets must rise from 0 to {len(items)}: got {offsets[0]} to {offsets[-1]}"
            )
        if len(items) and not (items.min() >= 0 and items.max() < self.catalogue.n_items):
            raise DataError(
                f"sequences: item indices {items.min()} to {items.max()} do not fit a catalogue of "
                f"{self.catalogue.n_items} items: build both from the same catalogue"
            )
        if self.timestamps is not None and len(self.timestamps) != len(items):
            raise DataError(
                f"sequences: {len(self.timestamps)} timestamps for {len(items)} events: give one per event"
            )
        if self.values is not None and len(self.values) != len(items):
            raise DataError(
                f"sequences: {len(self.values)} values for {len(items)} events: give one per event"
            )

    @property
    def n_users(self) -> int:
        """How many users there are."""
        return len(self.user_ids)

    @property
    def n_events(self) -> int:
        """How many events all users have together."""
        return len(self.items)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Events per user, int64 [n_users]."""
        return np.diff(self.offsets)

    def of(self, user: int) -> NDArray[np.int64]:
        """The items of one user (by index), oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def histories(self, users: Iterable[int] | None = None) -> TimedHistories:
        """Items and times of these users (indices, in this order), or of all."""
        chosen = range(self.n_users) if users is None else [int(user) for user in users]
        return self.spans([slice(self.offsets[user], self.offsets[user + 1]) for user in chosen])

    def spans(self, events: Iterable[slice]) -> TimedHistories:
        """Items and times of stretches of the log (positions of events), each as a history of its own."""
        events = list(events)
        times = None if self.timestamps is None else [self.timestamps[span] for span in events]
        return TimedHistories([self.items[span] for span in events], times)

    def user_of_event(self) -> NDArray[np.int64]:
        """The user index of every event, int64 [n_events]."""
        return np.repeat(np.arange(self.n_users), self.lengths)

    def subset(self, users: NDArray[np.integer]) -> Sequences:
        """The sequences of these users (indices, in this order), over the same catalogue."""
        users = np.asarray(users, dtype=np.int64)
        events, offsets = _gather(self.offsets[users], self.offsets[users + 1])
        return self._pick([self.user_ids[user] for user in users], events, offsets)

    def cut(self, keep: NDArray[np.integer]) -> Sequences:
        """The first ``keep[u]`` events of every user ``u``."""
        keep = np.minimum(np.asarray(keep, dtype=np.int64), self.lengths)
        events, offsets = _gather(self.offsets[:-1], self.offsets[:-1] + keep)
        return self._pick(self.user_ids, events, offsets)

    def _pick(self, user_ids: list[str], events: NDArray[np.int64], offsets: NDArray[np.int64]) -> Sequences:
        timestamps = None if self.timestamps is None else self.timestamps[events]
        values = None if self.values is None else self.values[events]
        return Sequences(user_ids, self.items[events], offsets, self.catalogue, timestamps, values)

    def sha256(self) -> str:
        """Hex SHA-256 of users, offsets, items (little-endian int64) and catalogue; times and values do not count."""
        digest = hashlib.sha256(self.catalogue.sha256.encode())
        for user in self.user_ids:
            digest.update(len(user.encode()).to_bytes(4, "little") + user.encode())
        digest.update(self.offsets.astype("<i8").tobytes())
        digest.update(self.items.astype("<i8").tobytes())
        return digest.hexdigest()


def sequences_from_frame(frame: pl.DataFrame, catalogue: Catalogue, *, keep_times: bool = True) -> Sequences:
    """Sort a log into sequences.

    Args:
        frame: columns ``user_id`` and ``item_id`` (text), ``timestamp`` (seconds) and ``row`` (position in
            the file); see ``recsys_models.data.schema``. Nothing may be missing: clean the frame first.
        catalogue: every item of the frame must be in it.
        keep_times: False if the timestamps are mere positions.

    Returns:
        Users in natural order of their ids; each user's events by time, ties in file order.

    Raises:
        DataError: if the frame is empty or names items the catalogue does not have.
    """
    if frame.is_empty():
        raise DataError("the log has no events left: relax the cleaning rules or check the file")
    users = frame.get_column(USER).unique().to_list()
    user_ids = [users[position] for position in natural_order(users)]
    user_index = _encode(frame, USER, user_ids)
    item_index = _encode(frame, ITEM, catalogue.item_ids)
    unknown = frame.get_column(ITEM).filter(frame.get_column(ITEM).is_in(catalogue.item_ids).not_())
    if len(unknown):
        counts = dict(unknown.value_counts(sort=True).iter_rows())
        raise DataError(unknown_items_message(counts, catalogue.n_items))
    times = frame.get_column(TIMESTAMP).to_numpy().astype(np.float64)
    order = np.lexsort((frame.get_column(ROW).to_numpy(), times, user_index))
    counts = np.bincount(user_index, minlength=len(user_ids))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    values = None
    if VALUE in frame.columns:
        values = frame.get_column(VALUE).cast(float).fill_null(np.nan).to_numpy().astype(np.float64)[order]
    kept_times = times[order] if keep_times else None
    return Sequences(user_ids, item_index[order], offsets, catalogue, kept_times, values)


def _encode(frame: pl.DataFrame, column: str, ids: list[str]) -> NDArray[np.int64]:
    """Index of every row's id in ``ids``; -1 where it is not among them."""
    import polars as pl

    keys = pl.DataFrame({column: ids, "_index": np.arange(len(ids))}, schema_overrides={column: pl.String})
    joined = frame.select(column).join(keys, on=column, how="left", maintain_order="left")
    return joined.get_column("_index").fill_null(-1).to_numpy().astype(np.int64)


def _gather(
    starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions ``starts[k] .. ends[k] - 1`` of all k in a row, and where each k's positions begin."""
    lengths = ends - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths) + np.repeat(starts, lengths)
    return positions.astype(np.int64), offsets
