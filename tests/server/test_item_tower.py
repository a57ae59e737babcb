from __future__ import annotations

import numpy as np
import pytest

from recsys_models.statistics import StatisticsLayout, statistics_rows
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


def test_statistics_become_a_tower_and_transitions_with_the_noise_each_cell_has() -> None:
    settings = {"gram_share": 0.5, "orders": 1, "decay": 1.0, "dim": 4}
    layout = StatisticsLayout(3, 0.5, 1, 1.0)
    head = np.array([2, 5, 6])
    position = np.array([-1, -1, 0, -1, -1, 1, 2])
    rows = statistics_rows([np.array([2, 5, 6])] * 40, position, layout)
    total = np.bincount(rows.indices, weights=rows.values, minlength=layout.length)
    arrays = statistics_arrays(total, 0.0, head, 7, settings)
    assert arrays["item_tower"].shape == (7, 4)
    assert np.flatnonzero(arrays["item_tower"].any(axis=1)).tolist() == [2, 5, 6]
    wanted = np.zeros((3, 3))
    wanted[0, 1] = wanted[1, 2] = 40 / np.sqrt(2)
    np.testing.assert_allclose(arrays["transitions_sparse"], wanted, atol=1e-5)
    # Cells carry the noise of the sum over their weight: a cell of 40 / sqrt 2 stands out of 2 sd until sd = 10.
    for noise_sd, stands_out in ((9.5, True), (10.5, False)):
        noisy = statistics_arrays(total, noise_sd, head, 7, settings)
        assert bool(noisy["transitions_sparse"].any()) == stands_out
    assert all(array.dtype == np.float32 for array in arrays.values())
