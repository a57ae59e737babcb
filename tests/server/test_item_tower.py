from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from privacy.wire.federation import Arrays
from recsys_models.item_towers.factorisation import tower_from_gram, tower_from_transitions
from recsys_models.release_shapes import statistics_layout
from recsys_models.retrieval.transitions import PRIOR_TOTAL, TRANSITION_ARRAYS, TransitionReadings
from recsys_models.statistics import split_statistics, statistics_rows
from server.item_tower import (
    SCORE_NORM,
    TowerOptimizer,
    popularity_arrays,
    random_tower,
    statistics_arrays,
    whole_tower,
)

ROWS = np.array([[1.0, -2.0], [0.5, 0.0]])
FIRST = np.array([[0.2, -0.4], [0.0, 1.0]])
SECOND = np.array([[0.1, 0.3], [-1.0, 0.5]])


def test_fedavg_is_a_plain_step() -> None:
    optimizer = TowerOptimizer("fedavg", 0.5)
    after = optimizer.step(optimizer.step(ROWS, FIRST), SECOND)
    np.testing.assert_allclose(after, ROWS - 0.5 * (FIRST + SECOND))


def test_fedadam_takes_the_steps_of_the_paper() -> None:
    # Reddi et al. 2021, Algorithm 2, by hand: no bias correction, tau outside the root.
    optimizer = TowerOptimizer("fedadam", 0.1)
    after_one = optimizer.step(ROWS, FIRST)
    # m = 0.1 g, v = 0.01 g^2: the step is lr * 0.1 g / (0.1 |g| + 0.001)
    assert after_one[0, 0] == pytest.approx(1.0 - 0.1 * 0.02 / (0.02 + 0.001))
    assert after_one[0, 1] == pytest.approx(-2.0 + 0.1 * 0.04 / (0.04 + 0.001))
    assert after_one[1, 0] == 0.5
    after_two = optimizer.step(after_one, SECOND)
    mean = 0.9 * 0.02 + 0.1 * 0.1
    square = 0.99 * 0.01 * 0.2**2 + 0.01 * 0.1**2
    assert after_two[0, 0] == pytest.approx(after_one[0, 0] - 0.1 * mean / (square**0.5 + 1e-3))


def test_popularity_names_the_head() -> None:
    arrays = popularity_arrays(np.array([3.0, -1.0, 7.0, 3.0, 5.0]), 3)
    assert arrays["head"].tolist() == [0, 2, 4]  # of equal items the first
    assert arrays["popularity"].tolist() == [3.0, -1.0, 7.0, 3.0, 5.0]
    assert (arrays["head"].dtype, arrays["popularity"].dtype) == (np.int64, np.float32)


def test_items_outside_the_head_have_no_vector() -> None:
    tower = whole_tower(ROWS, np.array([3, 1]), 5)
    assert tower.dtype == np.float32
    assert tower.tolist() == [[0, 0], [0.5, 0], [0, 0], [1, -2], [0, 0]]


def test_a_random_start_depends_on_the_seed_and_has_the_stated_norm() -> None:
    head = np.arange(300)
    one = random_tower(head, 400, 16, 1)
    assert np.array_equal(one, random_tower(head, 400, 16, 1))
    assert not np.array_equal(one, random_tower(head, 400, 16, 2))
    assert np.linalg.norm(one[:300], axis=1).mean() == pytest.approx(SCORE_NORM, rel=0.05)
    assert not one[300:].any()


HEAD = np.array([2, 5, 6])
POSITION = np.array([-1, -1, 0, -1, -1, 1, 2])


def released(gram_share: float, private: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """Forty users who see 2, then 5, then 6, and one who goes back."""
    settings = {"gram_share": gram_share, "orders": 1, "decay": 1.0, "dim": 4, "subspace_rank": 0}
    layout = statistics_layout(3, settings, private)
    rows = statistics_rows([np.array([2, 5, 6])] * 40 + [np.array([6, 2])], POSITION, layout)
    return np.bincount(rows.indices, weights=rows.values, minlength=layout.length), settings


def transitions_of(arrays: Arrays) -> TransitionReadings:
    readings = TransitionReadings.from_arrays(arrays, 7)
    assert readings is not None
    return readings


@pytest.mark.parametrize("gram_share", [0.0, 0.5])
def test_statistics_without_noise_become_a_tower_and_shares_of_a_row(gram_share: float) -> None:
    total, settings = released(gram_share, private=False)
    arrays = statistics_arrays(total, 0.0, HEAD, 7, settings)
    assert arrays["item_tower"].shape == (7, 4)
    assert np.flatnonzero(arrays["item_tower"].any(axis=1)).tolist() == [2, 5, 6]
    wanted = np.zeros((7, 7))
    wanted[2, 5] = wanted[5, 6] = 40 / (40 + PRIOR_TOTAL)
    wanted[6, 2] = 1 / (1 + PRIOR_TOTAL)
    readings = transitions_of(arrays)
    np.testing.assert_allclose(readings.sparse.matrix.toarray(), wanted, rtol=1e-5)
    assert readings.smooth.left.shape == (7, 0)
    kinds = {name: array.dtype.name for name, array in arrays.items()}
    assert kinds == {name: dtype for name, (dtype, _) in TRANSITION_ARRAYS.items()} | {
        "item_tower": "float32"
    }


@pytest.mark.parametrize(("gram_share", "weight"), [(0.0, 1.0), (0.5, 0.5**0.5)])
def test_cells_carry_the_noise_of_the_sum_over_their_weight(gram_share: float, weight: float) -> None:
    total, settings = released(gram_share, private=True)
    # A cell of 40 / sqrt 2 stands out of 1.5 deviations until its noise is 18.86.
    for cell_sd, stands_out in ((18.0, True), (19.5, False)):
        arrays = statistics_arrays(total, cell_sd * weight, HEAD, 7, settings)
        cells = transitions_of(arrays).sparse
        assert bool(len(cells.items)) == stands_out
        # Both rows have the mean total times 3 / 2: a row over its own and the mean total.
        assert cells.weights.tolist() == pytest.approx([1 / (1 + 2 / 3)] * 2 if stands_out else [])
    # Singular values of 40 / sqrt 2 are above the edge until 2 sd sqrt 3 is.
    for cell_sd, rank in ((8.0, 2), (8.5, 0)):
        smooth = transitions_of(statistics_arrays(total, cell_sd * weight, HEAD, 7, settings)).smooth
        assert smooth.left.shape == smooth.right.shape == (7, rank)
        assert not smooth.left[[0, 1, 3, 4]].any()


def test_the_tower_is_of_the_transitions_unless_the_gram_part_has_a_share() -> None:
    total, settings = released(0.0, private=True)
    _, transitions = split_statistics(total, statistics_layout(3, settings, True))
    tower = statistics_arrays(total, 0.01, HEAD, 7, settings)["item_tower"]
    wanted = tower_from_transitions(transitions, 0.01, 4, score_norm=SCORE_NORM)
    np.testing.assert_allclose(tower[HEAD], wanted, atol=1e-6)
    total, settings = released(0.5, private=True)
    gram, _ = split_statistics(total, statistics_layout(3, settings, True))
    tower = statistics_arrays(total, 0.01, HEAD, 7, settings)["item_tower"]
    # A cell off the diagonal is stored times sqrt 2, and both parts times sqrt of their share.
    wanted = tower_from_gram(gram, 0.01, 4, score_norm=SCORE_NORM)
    np.testing.assert_allclose(tower[HEAD], wanted, atol=1e-6)
    assert not np.allclose(tower[HEAD], tower_from_transitions(transitions, 0.01, 4, score_norm=SCORE_NORM))


def test_where_a_subspace_gives_the_tower_the_statistics_give_none() -> None:
    total, settings = released(0.0, private=True)
    arrays = statistics_arrays(total, 1.0, HEAD, 7, settings | {"subspace_rank": 5})
    assert set(arrays) == set(TRANSITION_ARRAYS)
