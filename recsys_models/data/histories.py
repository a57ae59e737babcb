"""Histories of several users: each one's items, and when they were met, where that is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from recsys_models.errors import DataError

Items = NDArray[np.int64]
Times = NDArray[np.float64]


class TimedHistories(Sequence[Items]):
    """Each user's items, oldest first, that carry their times along.

    It is a sequence of the items alone, so whatever has no use for times takes it, or a list of arrays, alike. Users are
    chosen and histories cut by its methods: a list of some of its arrays has lost the times.

    Args:
        items: item indices of each user.
        times: Unix seconds of each of them, not finite where not known; None where only the order is known.

    Raises:
        DataError: items and times differ in number.
    """

    def __init__(self, items: Sequence[Items], times: Sequence[Times] | None = None) -> None:
        if times is not None and [len(own) for own in items] != [len(own) for own in times]:
            raise DataError(
                "each item of a history has one time: give as many times as items, or none at all"
            )
        self._items = list(items)
        self._times = None if times is None else list(times)

    @classmethod
    def of(cls, histories: Sequence[Items]) -> TimedHistories:
        """The same histories; plain arrays have no times."""
        return histories if isinstance(histories, cls) else cls(histories)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Items]:
        return iter(self._items)

    @overload
    def __getitem__(self, user: SupportsIndex) -> Items: ...
    @overload
    def __getitem__(self, user: slice) -> TimedHistories: ...
    def __getitem__(self, user: SupportsIndex | slice) -> Items | TimedHistories:
        if isinstance(user, slice):
            return self.pick(range(len(self))[user])
        return self._items[user]

    def times_of(self, user: int) -> Times | None:
        """When this user met her items; None where only the order is known."""
        return None if self._times is None else self._times[user]

    def pick(self, users: Iterable[int]) -> TimedHistories:
        """The histories of these users (by position, in this order)."""
        users = list(users)
        times = None if self._times is None else [self._times[user] for user in users]
        return TimedHistories([self._items[user] for user in users], times)

    def at_least(self, events: int) -> TimedHistories:
        """The histories that are no shorter."""
        return self.pick(user for user, own in enumerate(self._items) if len(own) >= events)

    def without_newest(self) -> TimedHistories:
        """Every history but for its newest event."""
        return self._cut(lambda _own: slice(-1))

    def over(self, place: Items) -> TimedHistories:
        """The same histories in another catalogue.

        Args:
            place: index of each item there, or -1 where it is gone.
        """
        kept = self._cut(lambda own: place[own] >= 0)
        return TimedHistories([place[own] for own in kept], kept._times)

    def _cut(self, kept_of: Callable[[Items], slice | NDArray[np.bool_]]) -> TimedHistories:
        kept = [kept_of(own) for own in self._items]
        items = [own[some] for own, some in zip(self._items, kept, strict=True)]
        if self._times is None:
            return TimedHistories(items)
        return TimedHistories(items, [own[some] for own, some in zip(self._times, kept, strict=True)])


def made_up_times(histories: Sequence[Items]) -> list[Times]:
    """Times for made-up users, on whom an engine is tried out: gaps of many lengths, the same at each call."""
    return [np.power(4.0, np.arange(len(own))) for own in histories]
