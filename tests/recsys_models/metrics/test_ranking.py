from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_models.errors import DataError
from recsys_models.metrics import hit, mean_metrics, ndcg, reciprocal_rank, target_ranks
from recsys_models.metrics.ranking import seen_cells


def test_rank_counts_better_items_and_ties_against_the_target() -> None:
    scores = np.array([[3.0, 1.0, 2.0, 2.0, 0.0]])
    ranks = [int(target_ranks(scores, np.array([item]))[0]) for item in range(5)]
    assert ranks == [1, 4, 3, 3, 5]


def test_a_constant_scorer_gets_the_worst_rank() -> None:
    assert target_ranks(np.zeros((2, 7)), np.array([0, 6])).tolist() == [7, 7]


def test_seen_items_leave_the_ranking_and_the_target_never_does() -> None:
    scores = np.array([[5.0, 4.0, 3.0, 2.0], [5.0, 4.0, 3.0, 2.0]])
    seen = [np.array([0, 1, 1]), np.array([3, 0])]
    assert target_ranks(scores, np.array([3, 3]), seen).tolist() == [2, 3]


def test_minus_infinity_excludes_an_item() -> None:
    assert target_ranks(np.array([[-np.inf, 1.0, 2.0]]), np.array([1])).tolist() == [2]


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_refuses_broken_scores(broken: float) -> None:
    with pytest.raises(DataError, match="NaN or infinity"):
        target_ranks(np.array([[broken, 1.0]]), np.array([1]))


@pytest.mark.parametrize("target", [-1, 2])
def test_refuses_targets_outside_the_catalogue(target: int) -> None:
    with pytest.raises(DataError, match=r"one target in 0\.\.1"):
        target_ranks(np.zeros((1, 2)), np.array([target]))


def test_does_not_change_the_scores() -> None:
    scores = np.arange(4.0).reshape(1, 4)
    target_ranks(scores, np.array([0]), [np.array([3])])
    assert scores.tolist() == [[0.0, 1.0, 2.0, 3.0]]


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.data())
def test_rank_equals_the_definition(scores: list[int], data: st.DataObject) -> None:
    target = data.draw(st.integers(0, len(scores) - 1))
    seen = data.draw(st.lists(st.integers(0, len(scores) - 1), max_size=4))
    expected = 1 + sum(
        1 for j, s in enumerate(scores) if j != target and j not in seen and s >= scores[target]
    )
    got = target_ranks(np.array([scores], dtype=float), np.array([target]), [np.array(seen, dtype=np.int64)])
    assert got.tolist() == [expected]


def test_metrics_of_known_ranks() -> None:
    ranks = np.array([1, 3, 10, 11])
    assert hit(ranks, 10).tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(ndcg(ranks, 10), [1.0, 0.5, 1 / math.log2(11), 0.0])
    np.testing.assert_allclose(reciprocal_rank(ranks), [1, 1 / 3, 0.1, 1 / 11])
    assert mean_metrics(ranks)["hit@10"] == 0.75
    assert mean_metrics(ranks)["hit@20"] == 1.0


def test_ranks_start_at_one() -> None:
    with pytest.raises(DataError, match="start at 1"):
        hit(np.array([0]), 10)
    with pytest.raises(DataError, match="no user"):
        mean_metrics(np.array([], dtype=np.int64))


def test_seen_cells_of_users_with_and_without_a_history() -> None:
    rows, items = seen_cells([np.array([3, 1, 3]), np.zeros(0, np.int64), np.array([0])])
    assert (rows.tolist(), items.tolist()) == ([0, 0, 0, 2], [3, 1, 3, 0])
    rows, items = seen_cells([])
    assert (rows.dtype, items.dtype, rows.size, items.size) == (np.int64, np.int64, 0, 0)
    assert target_ranks(np.zeros((0, 4)), np.zeros(0, np.int64), []).size == 0
