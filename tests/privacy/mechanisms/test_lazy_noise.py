"""Owed noise has the law of noise that was drawn each step; near misses are told apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from privacy.errors import InputError
from privacy.mechanisms.discrete_gaussian import sample
from privacy.mechanisms.lazy_noise import LazyNoise
from privacy.randomness import SeededRandomness

SIGMA, STEPS, ROWS, WIDTH = 20.0, 21, 400, 250


def _read_on(row: int) -> range:
    """Rows are read every so many steps: some never, some always."""
    return range(row % 8, STEPS, 1 + row % 11) if row % 5 else range(0)


def _lazy(seed: int, sigma: float = SIGMA) -> NDArray[np.int64]:
    noise = LazyNoise(ROWS, WIDTH, sigma, SeededRandomness(seed))
    table = np.zeros((ROWS, WIDTH), dtype=np.int64)
    for step in range(STEPS):
        rows = np.array([row for row in range(ROWS) if step in _read_on(row)], dtype=np.int64)
        table[rows] += noise.settle(rows)
        noise.step()
    return table + noise.settle_all()


def _dense(seed: int, sigma: float = SIGMA, steps: int = STEPS) -> NDArray[np.int64]:
    randomness = SeededRandomness(seed)
    drawn = sum(sample(sigma, ROWS * WIDTH, randomness) for _ in range(steps))
    return np.asarray(drawn).reshape(ROWS, WIDTH)


def _differ(one: NDArray[np.int64], other: NDArray[np.int64]) -> bool:
    """Two-sample Kolmogorov-Smirnov at 1e-4, and the energy, which sees a step more or less."""
    a, b = np.sort(one.reshape(-1)), np.sort(other.reshape(-1))
    grid = np.concatenate([a, b])
    gap = np.abs(np.searchsorted(a, grid, "right") - np.searchsorted(b, grid, "right")).max() / a.size
    critical = math.sqrt(-math.log(1e-4 / 2) / 2) * math.sqrt(2 / a.size)
    energy = (one.astype(float) ** 2).mean() / (other.astype(float) ** 2).mean()
    spread = math.sqrt(2 * 2 / a.size)
    return bool(gap > critical) or abs(energy - 1.0) > 5 * spread


def test_lazy_noise_has_the_law_of_dense_noise():
    for seed in range(3):
        assert not _differ(_lazy(seed), _dense(seed + 100))


def test_dense_noise_has_its_own_law():
    assert not _differ(_dense(1), _dense(2))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda seed: _dense(seed, steps=STEPS - 1),
        lambda seed: _dense(seed, steps=STEPS + 1),
        lambda seed: _dense(seed, steps=1) * STEPS,
        lambda seed: sample(SIGMA, ROWS * WIDTH, SeededRandomness(seed)).reshape(ROWS, WIDTH),
        lambda seed: np.round(_dense(seed) * 0.9).astype(np.int64),
    ],
    ids=["a step short", "a step too many", "one draw times k", "one draw", "a tenth too small"],
)
def test_the_comparison_rejects_wrong_laws(wrong):
    assert _differ(wrong(3), _dense(4))


def test_every_row_has_it_however_often_it_was_read():
    table = np.concatenate([_lazy(seed) for seed in range(2)], axis=1).astype(float)
    expected = STEPS * SIGMA**2
    for kind in range(5):
        rows = table[[row for row in range(ROWS) if row % 5 == kind]]
        assert (rows**2).mean() == pytest.approx(expected, rel=5 * math.sqrt(2 / rows.size))
    neighbours = np.corrcoef(table[:-1].reshape(-1), table[1:].reshape(-1))[0, 1]
    assert abs(neighbours) < 5 / math.sqrt(table.size)


def test_a_settled_row_owes_nothing_and_a_debt_beyond_the_sampler_is_paid_in_parts():
    noise = LazyNoise(3, 2000, 2.0**16, SeededRandomness(1))
    assert not noise.settle(np.array([0])).any()
    for _ in range(9):
        noise.step()
    first = noise.settle(np.array([2, 0]))
    assert first.std() == pytest.approx(3 * 2.0**16, rel=0.08)
    assert not noise.settle(np.array([0, 2])).any()
    assert noise.settle_all()[1].std() == pytest.approx(3 * 2.0**16, rel=0.08)
    assert noise.steps == 9


def test_refusals():
    with pytest.raises(InputError, match="twice"):
        LazyNoise(3, 2, 5.0, SeededRandomness(0)).settle(np.array([1, 1]))
    for sigma in (math.nan, 2.9, 2.0**18):
        with pytest.raises(InputError, match="sigma="):
            LazyNoise(3, 2, sigma, SeededRandomness(0))
    with pytest.raises(InputError, match="no rows"):
        LazyNoise(0, 2, 5.0, SeededRandomness(0))
