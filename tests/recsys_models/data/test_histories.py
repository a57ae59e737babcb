from __future__ import annotations

import numpy as np
import pytest

from recsys_models.data.histories import TimedHistories
from recsys_models.data.splits import leave_last_out, split_at
from recsys_models.errors import DataError
from simulations.synthetic import synthetic_log

ITEMS = [np.array([4, 1, 7]), np.array([3]), np.zeros(0, dtype=np.int64), np.array([2, 5])]
HISTORIES = TimedHistories(ITEMS, [10.0 * items for items in ITEMS])


def pairs(histories: TimedHistories) -> list[list[tuple[int, float]]]:
    """Items and times side by side; in ``HISTORIES`` an item's time is ten times its number."""
    found = []
    for user, items in enumerate(histories):
        times = histories.times_of(user)
        assert times is not None
        found.append(list(zip(items.tolist(), times.tolist(), strict=True)))
    return found


def test_it_is_a_sequence_of_the_items() -> None:
    assert len(HISTORIES) == 4
    assert [items.tolist() for items in HISTORIES] == [[4, 1, 7], [3], [], [2, 5]]
    assert HISTORIES[-1].tolist() == [2, 5]
    assert TimedHistories.of(HISTORIES) is HISTORIES
    assert TimedHistories.of(ITEMS).times_of(0) is None


@pytest.mark.parametrize(
    ("chosen", "items"),
    [
        (HISTORIES.pick(np.array([3, 0, 0])), [[2, 5], [4, 1, 7], [4, 1, 7]]),
        (HISTORIES[1:], [[3], [], [2, 5]]),
        (HISTORIES.at_least(2), [[4, 1, 7], [2, 5]]),
        (HISTORIES.without_newest(), [[4, 1], [], [], [2]]),
    ],
)
def test_times_go_with_their_items(chosen: TimedHistories, items: list[list[int]]) -> None:
    assert pairs(chosen) == [[(item, 10.0 * item) for item in own] for own in items]


def test_times_stay_with_items_that_stay_in_another_catalogue() -> None:
    place = np.array([-1, 5, -1, 0, 2, 1, -1, -1])
    assert pairs(HISTORIES.over(place)) == [[(2, 40.0), (5, 10.0)], [(0, 30.0)], [], [(1, 50.0)]]


def test_without_times_everything_goes_without() -> None:
    plain = TimedHistories(ITEMS)
    for same in (
        plain.pick([0]),
        plain[:1],
        plain.at_least(2),
        plain.without_newest(),
        plain.over(np.arange(8)),
    ):
        assert same.times_of(0) is None


def test_as_many_times_as_items() -> None:
    with pytest.raises(DataError, match="as many times as items"):
        TimedHistories(ITEMS, ITEMS[::-1])


@pytest.mark.parametrize("by_time", [False, True])
def test_a_split_keeps_the_time_of_every_event(by_time: bool) -> None:
    log = synthetic_log(40, 60, seed=1).sequences
    assert log.timestamps is not None
    split = split_at(log, float(np.quantile(log.timestamps, 0.8))) if by_time else leave_last_out(log)
    for stage in ("validation", "test"):
        seen = split.history(stage)
        for user, items in enumerate(seen.histories()):
            events = slice(log.offsets[user], log.offsets[user] + len(items))
            assert np.array_equal(items, log.items[events])
            times = seen.histories().times_of(user)
            assert times is not None and np.array_equal(times, log.timestamps[events])
