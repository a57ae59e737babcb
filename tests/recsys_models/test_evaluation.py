from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from recsys_models.data import Catalogue, Sequences
from recsys_models.errors import DataError
from recsys_models.evaluation import evaluate


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
