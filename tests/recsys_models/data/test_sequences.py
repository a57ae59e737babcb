from __future__ import annotations

from collections import defaultdict

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_models.data.catalogue import Catalogue
from recsys_models.data.readers import with_row_numbers
from recsys_models.data.sequences import Sequences, sequences_from_frame
from recsys_models.data.splits import leave_last_out
from recsys_models.errors import DataError

CATALOGUE = Catalogue([str(item) for item in range(8)])
EVENTS = st.lists(
    st.tuples(st.sampled_from(["1", "2", "10"]), st.integers(0, 7), st.integers(0, 4)),
    min_size=1,
    max_size=40,
)


def frame_of(events: list[tuple[str, int, int]]) -> pl.DataFrame:
    rows = [(user, str(item), float(time)) for user, item, time in events]
    return with_row_numbers(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))


def sequences_of(*lists: list[int]) -> Sequences:
    offsets = np.cumsum([0, *map(len, lists)])
    items = np.array([item for one in lists for item in one], dtype=np.int64)
    return Sequences([str(k) for k in range(len(lists))], items, offsets, CATALOGUE)


@given(EVENTS)
def test_building_equals_a_stable_sort_by_hand(events: list[tuple[str, int, int]]) -> None:
    expected: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for user, item, time in events:
        expected[user].append((time, item))
    sequences = sequences_from_frame(frame_of(events), CATALOGUE)
    assert sequences.user_ids == sorted(expected, key=int)
    for index, user in enumerate(sequences.user_ids):
        in_time = sorted(expected[user], key=lambda event: event[0])  # Python's sort is stable
        assert sequences.of(index).tolist() == [item for _, item in in_time]
    assert sequences.timestamps is not None
    assert sequences.timestamps.tolist() == [
        time for user in sequences.user_ids for time in sorted(time for time, _ in expected[user])
    ]


def test_ties_follow_the_row_number_even_if_the_frame_was_shuffled() -> None:
    frame = frame_of([("1", 5, 0), ("1", 3, 0), ("1", 4, 0)])
    assert sequences_from_frame(frame[::-1], CATALOGUE).of(0).tolist() == [5, 3, 4]


def test_items_outside_the_catalogue_are_named_and_counted() -> None:
    frame = frame_of([("1", 99, 0), ("2", 99, 0), ("2", 3, 1)])
    with pytest.raises(DataError, match=r"item '99' .* \(2 events, 1 unknown items\)"):
        sequences_from_frame(frame, CATALOGUE)


def test_an_empty_frame_is_refused() -> None:
    with pytest.raises(DataError, match="no events left"):
        sequences_from_frame(frame_of([("1", 1, 1)]).clear(), CATALOGUE)


def test_subset_keeps_order_and_catalogue() -> None:
    sequences = sequences_of([1, 2], [], [3], [4, 5, 6])
    chosen = sequences.subset(np.array([3, 1, 0]))
    assert chosen.user_ids == ["3", "1", "0"]
    assert [chosen.of(k).tolist() for k in range(3)] == [[4, 5, 6], [], [1, 2]]
    assert chosen.catalogue is CATALOGUE
    assert sequences.subset(np.array([], dtype=np.int64)).n_users == 0


@pytest.mark.parametrize(
    ("items", "offsets", "message"),
    [
        ([1, 2], [0, 2, 2], "3 offsets for 1 users"),
        ([1, 2], [0, 1], "offsets must rise from 0 to 2"),
        ([1, 2], [1, 2], "offsets must rise from 0 to 2"),
        ([1, 8], [0, 2], "item indices 1 to 8 do not fit a catalogue of 8"),
        ([-1, 2], [0, 2], "item indices -1 to 2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(items: list[int], offsets: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Sequences(["u"], np.array(items), np.array(offsets), CATALOGUE)


def test_leave_last_out_by_hand() -> None:
    split = leave_last_out(sequences_of([1, 2, 3, 4], [5, 6], [], [7, 0, 1]))
    assert split.validation.tolist() == [3, -1, -1, 0]
    assert split.test.tolist() == [4, -1, -1, 1]
    assert [split.train.of(k).tolist() for k in range(4)] == [[1, 2], [5, 6], [], [7]]
    assert [split.history("validation").of(k).tolist() for k in range(4)] == [[1, 2], [5, 6], [], [7]]
    assert [split.history("test").of(k).tolist() for k in range(4)] == [[1, 2, 3], [5, 6], [], [7, 0]]
    assert split.evaluated.tolist() == [0, 3]
    assert split.target("validation") is split.validation


@given(st.lists(st.lists(st.integers(0, 7), max_size=6), min_size=1, max_size=8))
def test_train_validation_and_test_are_the_sequence(lists: list[list[int]]) -> None:
    split = leave_last_out(sequences_of(*lists))
    for user, one in enumerate(lists):
        held_out = [int(split.validation[user]), int(split.test[user])] if len(one) >= 3 else []
        assert split.train.of(user).tolist() + held_out == one
        assert split.history("test").of(user).tolist() == (one[:-1] if len(one) >= 3 else one)


def test_the_checksum_sees_order_users_and_catalogue_but_not_the_run() -> None:
    base = leave_last_out(sequences_of([1, 2, 3, 4], [5, 6, 7])).checksum
    assert base == leave_last_out(sequences_of([1, 2, 3, 4], [5, 6, 7])).checksum
    assert base != leave_last_out(sequences_of([1, 2, 4, 3], [5, 6, 7])).checksum
    assert base != leave_last_out(sequences_of([1, 2, 3, 5], [5, 6, 7])).checksum, "another test item"
    assert base != leave_last_out(sequences_of([1, 2, 0, 4], [5, 6, 7])).checksum, "another validation item"
    assert base != leave_last_out(sequences_of([2, 1, 3, 4], [5, 6, 7])).checksum
    assert base != leave_last_out(sequences_of([1, 2, 3, 4, 5], [6, 7])).checksum
    other = Sequences(["0", "1"], *_arrays([1, 2, 3, 4], [5, 6, 7]), Catalogue([f"i{k}" for k in range(8)]))
    assert base != leave_last_out(other).checksum


def _arrays(*lists: list[int]) -> tuple[np.ndarray, np.ndarray]:
    sequences = sequences_of(*lists)
    return sequences.items, sequences.offsets
