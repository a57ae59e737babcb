"""Transitions over the whole catalogue: what forms such a matrix, what is counted, and how a history reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys_models.batches import window
from recsys_models.errors import DataError
from recsys_models.retrieval.transitions import (
    TRANSITION_ARRAYS,
    SmoothTransitions,
    SparseTransitions,
    TransitionReadings,
    count_transitions,
    from_head,
    newest_items,
)

N = 6
RANDOM = np.random.default_rng(0)
histories = st.lists(
    st.lists(st.integers(0, N - 1), max_size=9).map(lambda h: np.array(h, dtype=np.int64)), max_size=5
)


def sparse_of(dense: np.ndarray) -> SparseTransitions:
    return from_head(dense, np.arange(len(dense)), len(dense))


def some() -> SparseTransitions:
    return sparse_of(np.where(RANDOM.random((N, N)) < 0.5, RANDOM.random((N, N)), 0.0))


def readings() -> TransitionReadings:
    left, right = RANDOM.normal(size=(2, N, 3)).astype(np.float32)
    return TransitionReadings(some(), SmoothTransitions(left, right))


def dense_context(users: list[np.ndarray], recent: int, decay: float) -> np.ndarray:
    """Item by item: the newest weighs most, and what is missing is not made up for by the others."""
    rows = np.zeros((len(users), N))
    whole = sum(decay**age for age in range(recent))
    for row, history in zip(rows, users, strict=True):
        for age, item in enumerate(history[::-1][:recent]):
            row[item] += decay**age / whole
    return rows


def test_roots_add_up_what_several_newest_items_lead_to() -> None:
    dense = np.array([[0.0, 0.36, 0.0, 0.0], [0.0, 0.04, 0.09, -0.5], [0.0] * 4, [0.0] * 4])
    matrix = sparse_of(dense)
    context = sparse.csr_array(np.array([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]))
    np.testing.assert_allclose(matrix.root_scores(context), [[0.0, 0.4, 0.15, 0.0], [0.0] * 4], atol=1e-7)
    assert matrix.root_scores(context).dtype == np.float32


# --- a sparse matrix -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("starts", "items", "weights", "message"),
    [
        ([1, 2, 2], [0, 1], 2, "must go from 0 to its 2 entries"),
        ([0, 1, 1], [0, 1], 2, "must go from 0 to its 2 entries"),
        ([0, 1, 3], [0, 1], 2, "must go from 0 to its 2 entries"),
        ([0], [], 0, "must go from 0 to its 0 entries"),
        ([], [], 0, "must go from 0 to its 0 entries"),
        ([[0, 1], [1, 2]], [0, 1], 2, "must go from 0 to its 2 entries"),
        ([0, 2, 1, 2], [0, 1], 2, "row starts of a transition matrix fall"),
        ([0, -1, 2], [0, 1], 2, "row starts of a transition matrix fall"),
        # Each difference wraps around to a positive number; what is read between them lies outside memory.
        ([0, 2**63 - 1, -2, 2], [0, 1], 2, "row starts of a transition matrix fall"),
        ([0, 1, 2], [0, 1], 3, "3 weights for 2 transitions"),
        ([0, 1, 2], [0, 1], 1, "1 weights for 2 transitions"),
        ([0, 1, 2], [0, 2], 2, "outside the catalogue of 2 items"),
        ([0, 1, 2], [-1, 1], 2, "outside the catalogue of 2 items"),
    ],
)
def test_arrays_that_form_no_matrix_are_refused_before_they_are_read(
    starts: list[Any], items: list[int], weights: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        SparseTransitions(
            np.array(starts, np.int64), np.array(items, np.int64), np.ones(weights, dtype=np.float32)
        )


def test_factors_that_do_not_fit_are_refused() -> None:
    for left, right in (((4, 2), (4, 3)), ((4, 2), (5, 2)), ((4,), (4,))):
        with pytest.raises(DataError, match="do not form a transition matrix"):
            SmoothTransitions(np.zeros(left, np.float32), np.zeros(right, np.float32))
    with pytest.raises(DataError, match="transitions over 6 and 5 items"):
        TransitionReadings(some(), SmoothTransitions(*np.zeros((2, 5, 1), np.float32)))


def test_a_matrix_of_the_head_lies_at_the_heads_items() -> None:
    head = np.array([5, 0, 3])
    dense = np.array([[0.0, 1.5, 0.0], [0.25, 0.0, 0.0], [0.0, -2.0, 4.0]])
    found = from_head(dense, head, N)
    wanted = np.zeros((N, N))
    wanted[np.ix_(head, head)] = dense
    assert np.array_equal(found.matrix.toarray(), wanted)
    assert len(found.items) == 4  # and no zeros with it
    assert (found.starts.dtype, found.items.dtype, found.weights.dtype) == (np.int64, np.int64, np.float32)
    assert found.n_items == N


def test_in_another_catalogue_the_same_items_follow_the_same_items() -> None:
    here, place = readings(), np.array([4, -1, 0, 6, -1, 2])
    there = here.over(place, 8)
    stays = np.flatnonzero(place >= 0)
    wanted = np.zeros((8, 8), dtype=np.float32)
    wanted[np.ix_(place[stays], place[stays])] = here.sparse.matrix.toarray()[np.ix_(stays, stays)]
    assert np.array_equal(there.sparse.matrix.toarray(), wanted)
    smooth = np.zeros((8, 8))
    smooth[np.ix_(place[stays], place[stays])] = (here.smooth.left @ here.smooth.right.T)[
        np.ix_(stays, stays)
    ]
    np.testing.assert_allclose(there.smooth.left @ there.smooth.right.T, smooth, atol=1e-6)


# --- counting --------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(histories, st.integers(1, 4), st.sampled_from([0.5, 1.0]), st.sampled_from([0.5, 30.0]))
def test_counts_are_those_of_plain_loops(
    users: list[np.ndarray], orders: int, decay: float, prior_total: float
) -> None:
    found = count_transitions(users, N, orders=orders, decay=decay, prior_total=prior_total)
    counts = np.zeros((N, N))
    for history in users:
        for later in range(len(history)):
            for step in range(1, min(orders, later) + 1):
                counts[history[later - step], history[later]] += decay ** (step - 1)
    wanted = counts / (counts.sum(axis=1, keepdims=True) + prior_total)
    np.testing.assert_allclose(found.matrix.toarray(), wanted, rtol=1e-6)


def test_nobodys_transitions_are_none() -> None:
    for users in ([], [np.zeros(0, np.int64)], [np.array([3]), np.array([3])]):
        assert not len(count_transitions(users, N, orders=3, decay=0.5).items)


# --- reading ---------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(histories.filter(len), st.integers(1, 5), st.sampled_from([0.5, 0.8, 1.0]), st.integers(1, 9))
def test_the_newest_items_are_those_of_plain_loops(
    users: list[np.ndarray], recent: int, decay: float, width: int
) -> None:
    ids, mask = window(users, width, at_least=1)
    found = newest_items(ids, mask, n_items=N, recent=recent, decay=decay).toarray()
    assert found.shape == (len(users), N)
    wanted = dense_context([history[-width:] for history in users], recent, decay)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_weights_of_a_long_history_add_up_to_one_and_the_newest_weighs_most() -> None:
    ids, mask = window([np.array([0, 1, 2, 3, 4])], 5)
    (row,) = newest_items(ids, mask, n_items=N, recent=3, decay=0.5).toarray()
    np.testing.assert_allclose(row, np.array([0, 0, 1, 2, 4, 0]) / 7, rtol=1e-6)


def test_scores_are_the_rows_of_the_newest_items_in_both_readings() -> None:
    both = readings()
    users = [np.array([1, 2, 2]), np.array([5]), np.zeros(0, np.int64), np.array([4, 0, 3, 1, 5])]
    ids, mask = window(users, 5)
    context = newest_items(ids, mask, n_items=N, recent=3, decay=0.8)
    dense = dense_context(users, 3, 0.8)
    for reading, matrix in (
        (both.sparse, both.sparse.matrix.toarray()),
        (both.smooth, both.smooth.left @ both.smooth.right.T),
    ):
        scores = reading.scores(context)
        assert (scores.shape, scores.dtype) == ((4, N), np.float32)
        np.testing.assert_allclose(scores, dense @ matrix, atol=1e-5)
        assert not scores[2].any()  # the user without a history


def test_a_smooth_reading_of_no_rank_says_nothing() -> None:
    nothing = SmoothTransitions(*np.zeros((2, N, 0), np.float32))
    context = sparse.csr_array(np.eye(N, dtype=np.float32))
    assert np.array_equal(nothing.scores(context), np.zeros((N, N)))


# --- as published ----------------------------------------------------------------------------------------------


def test_readings_come_back_from_their_arrays() -> None:
    both = readings()
    arrays = both.to_arrays()
    assert {name: (a.dtype.name, a.ndim) for name, a in arrays.items()} == TRANSITION_ARRAYS
    back = TransitionReadings.from_arrays(arrays | {"popularity": np.zeros(N)}, N)
    assert back is not None
    assert all(np.array_equal(arrays[name], array) for name, array in back.to_arrays().items())
    assert TransitionReadings.from_arrays({"popularity": np.zeros(N)}, N) is None


@pytest.mark.parametrize("missing", TRANSITION_ARRAYS)
def test_part_of_the_arrays_is_refused(missing: str) -> None:
    arrays = readings().to_arrays()
    del arrays[missing]
    with pytest.raises(DataError, match=r"of the transitions only transition_.* were published"):
        TransitionReadings.from_arrays(arrays, N)


def test_transitions_of_another_catalogue_are_refused() -> None:
    with pytest.raises(DataError, match="transitions of 6 items for a catalogue of 7"):
        TransitionReadings.from_arrays(readings().to_arrays(), 7)
