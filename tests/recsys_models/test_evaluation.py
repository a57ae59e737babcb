from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from recsys_models.data import Catalogue, Sequences
from recsys_models.errors import DataError
from recsys_models.evaluation import (
    checksum_of_negatives,
    evaluate,
    evaluate_against,
    evaluate_many,
    evaluation_negatives,
)


@pytest.fixture
def history() -> Sequences:
    catalogue = Catalogue([f"i{n}" for n in range(6)])
    return Sequences(["a", "b", "c"], np.array([0, 1, 2, 3, 3]), np.array([0, 2, 4, 5]), catalogue)


def next_item(histories: Sequence[np.ndarray]) -> np.ndarray:
    """Prefers the item after the newest, then the following ones."""
    newest = np.array([each[-1] for each in histories])
    return -((np.arange(6) - newest[:, None] - 1) % 6).astype(float)


def test_ranks_users_that_have_a_target(history: Sequences) -> None:
    result = evaluate(next_item, history, np.array([2, -1, 1]), batch_size=1)
    assert result.users.tolist() == [0, 2]
    assert result.ranks.tolist() == [1, 4]
    assert result.means((1,))["hit@1"] == 0.5


def test_batch_size_changes_nothing(history: Sequences) -> None:
    targets = np.array([4, 5, 1])
    one, all_at_once = (evaluate(next_item, history, targets, batch_size=b).ranks for b in (1, 9))
    np.testing.assert_array_equal(one, all_at_once)


def test_seen_items_can_stay(history: Sequences) -> None:
    kept = evaluate(next_item, history, np.array([5, -1, -1]), remove_seen=False)
    removed = evaluate(next_item, history, np.array([5, -1, -1]))
    assert (kept.ranks.tolist(), removed.ranks.tolist()) == ([4], [4])
    repeat = np.array([-1, 1, -1])
    assert evaluate(next_item, history, repeat, remove_seen=False).ranks.tolist() == [4]
    wrapped = np.array([-1, 4, -1])
    assert evaluate(next_item, history, wrapped).ranks.tolist() == [1]


def test_refuses_scores_of_another_catalogue(history: Sequences) -> None:
    with pytest.raises(DataError, match=r"scorer gave \(3, 2\)"):
        evaluate(lambda h: np.zeros((len(h), 2)), history, np.array([1, 1, 1]))
    with pytest.raises(DataError, match="one target for each of 3"):
        evaluate(next_item, history, np.array([1, 1]))


def test_negatives_are_never_the_users_own(history: Sequences) -> None:
    drawn = evaluation_negatives(history, count=4)
    assert [sorted(row) for row in drawn[:2]] == [[2, 3, 4, 5], [0, 1, 4, 5]]
    assert len(set(drawn[2])) == 4
    assert 3 not in drawn[2]


def test_every_untouched_item_is_drawn_alike() -> None:
    catalogue = Catalogue([f"i{n}" for n in range(7)])
    users = 7000
    log = Sequences(
        [str(n) for n in range(users)], np.tile([1, 5], users), np.arange(users + 1) * 2, catalogue
    )
    drawn = evaluation_negatives(log, count=2)
    counts = np.bincount(drawn.ravel(), minlength=7)
    assert counts[[1, 5]].tolist() == [0, 0]
    # 7000 users x 2 of 5: 2800 expected, standard deviation 41.
    assert np.all(np.abs(counts[[0, 2, 3, 4, 6]] - 2800) < 5 * 41)


def test_negatives_are_published_by_seed_and_checksum(history: Sequences) -> None:
    one, same, other = (evaluation_negatives(history, count=3, seed=seed) for seed in (1, 1, 2))
    assert checksum_of_negatives(one) == checksum_of_negatives(same) != checksum_of_negatives(other)


def test_refuses_more_negatives_than_there_are(history: Sequences) -> None:
    with pytest.raises(DataError, match="4 untouched items of 6, fewer than 5"):
        evaluation_negatives(history, count=5)


def test_ranks_among_negatives_and_counts_ties_against_the_target(history: Sequences) -> None:
    negatives = np.array([[3, 4], [0, 1], [2, 1]])
    targets = np.array([2, -1, 5])
    assert evaluate_against(next_item, history, targets, negatives).ranks.tolist() == [1, 1]
    constant = evaluate_against(lambda h: np.zeros((len(h), 6)), history, targets, negatives)
    assert constant.ranks.tolist() == [3, 3]
    with pytest.raises(DataError, match="NaN"):
        evaluate_against(lambda h: np.full((len(h), 6), np.nan), history, targets, negatives)


def test_many_targets_by_hand(history: Sequences) -> None:
    # Preferred, unseen: a 2 3 4 5; b 4 5 0 1; c 4 5 0 1.
    relevant = Sequences(
        ["a", "b", "c"], np.array([3, 5, 1, 4, 5]), np.array([0, 2, 2, 5]), history.catalogue
    )
    means = evaluate_many(next_item, history, relevant, k=2)
    second = 1 / np.log2(3)
    assert means["users"] == 2.0
    assert means["recall@2"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert means["ndcg@2"] == pytest.approx((second / (1 + second) + 1.0) / 2)


def test_refuses_nobody_with_many_targets(history: Sequences) -> None:
    nobody = Sequences(
        ["a", "b", "c"], np.array([], dtype=np.int64), np.zeros(4, dtype=np.int64), history.catalogue
    )
    with pytest.raises(DataError, match="no user"):
        evaluate_many(next_item, history, nobody)
