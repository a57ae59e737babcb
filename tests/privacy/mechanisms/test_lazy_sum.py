"""Several steps on one table: exact sums, the law of dense noise, one event for all steps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from privacy.bounded import BoundedSum
from privacy.errors import InputError
from privacy.mechanisms.lazy_sum import LazilyNoisedSum
from privacy.randomness import SeededRandomness

BOUND, UNIT, SIGMA, ROWS, WIDTH, STEPS = 50, 0.25, 20.0, 60, 400, 7


def part(values: np.ndarray) -> BoundedSum:
    return BoundedSum(values.reshape(-1), BOUND, UNIT, 1)


def change(sigma: float | None = SIGMA, rows: int = ROWS, seed: int = 1) -> LazilyNoisedSum:
    return LazilyNoisedSum(
        rows, WIDTH, l2_bound=BOUND, unit=UNIT, sigma=sigma, randomness=SeededRandomness(seed)
    )


def test_without_noise_it_is_the_sum_of_the_steps() -> None:
    running, expected = change(None), np.zeros((ROWS, WIDTH), dtype=np.int64)
    random = np.random.default_rng(0)
    for _ in range(STEPS):
        rows = np.sort(random.choice(ROWS, 9, replace=False))
        assert np.array_equal(running.read(rows), expected[rows])
        step = random.integers(-5, 6, (9, WIDTH))
        running.add(rows, part(step))
        expected[rows] += step
    assert np.array_equal(running.settled(), expected.reshape(-1))
    with pytest.raises(InputError, match="without noise"):
        running.release(name="x")


def _noise(touched: bool, *, steps: int, seed: int) -> np.ndarray:
    """The noise of rows that are read in every step, or in none."""
    running = change(seed=seed)
    rows = np.arange(ROWS, dtype=np.int64) if touched else np.zeros(0, dtype=np.int64)
    for _ in range(steps):
        running.read(rows)
        running.add(rows, part(np.zeros((rows.size, WIDTH), dtype=np.int64)))
    return running.settled()


def _fits(noise: np.ndarray, variance: float) -> bool:
    """Against N(0, variance): the sum of squares within 4.5 standard errors, and Kolmogorov-Smirnov at 1e-5."""
    size = noise.size
    if abs((noise.astype(float) ** 2).mean() / variance - 1.0) > 4.5 * math.sqrt(2.0 / size):
        return False
    ordered = np.sort(noise)
    normal = np.array(
        [0.5 * (1.0 + math.erf((x + 0.5) / math.sqrt(2.0 * variance))) for x in np.unique(ordered)]
    )
    empirical = np.searchsorted(ordered, np.unique(ordered), side="right") / size
    return float(np.abs(normal - empirical).max()) < math.sqrt(math.log(2.0 / 1e-5) / 2.0 / size)


@pytest.mark.parametrize("touched", [False, True])
def test_the_noise_of_rows_has_the_law_of_noise_at_every_step(touched: bool) -> None:
    noise = _noise(touched, steps=STEPS, seed=3)
    assert _fits(noise, STEPS * SIGMA**2)
    for wrong in (STEPS - 1, STEPS + 1, STEPS * 1.1, 1.0):
        assert not _fits(noise, wrong * SIGMA**2)


def test_a_row_that_was_read_keeps_what_was_read() -> None:
    """Noise that was seen by a step is part of the release: not drawn anew at the end."""
    running, row = change(), np.array([4])
    running.add(np.zeros(0, dtype=np.int64), part(np.zeros(0, dtype=np.int64)))
    seen = running.read(row).copy()
    assert seen.any()
    assert np.array_equal(running.read(row), seen)
    assert np.array_equal(running.settled().reshape(ROWS, WIDTH)[row], seen)


def test_one_event_covers_all_steps() -> None:
    running = change()
    for _ in range(3):
        running.add(np.array([1, 2]), part(np.ones(2 * WIDTH, dtype=np.int64)))
    released = running.release(name="gradients")
    assert (released.event.count, released.event.noise_multiplier) == (3, SIGMA / BOUND)
    assert released.event.detail["simulated"] == 1
    assert released.unit == UNIT
    assert released.values.shape == (ROWS * WIDTH,)


def test_a_table_settled_in_pieces_is_settled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privacy.mechanisms.lazy_sum._SETTLED_AT_ONCE", 7 * WIDTH)
    running = change()
    running.add(np.array([0]), part(np.zeros(WIDTH, dtype=np.int64)))
    first = running.settled().copy()
    assert first.reshape(ROWS, WIDTH).any(axis=1).all()
    assert np.array_equal(running.settled(), first)


@pytest.mark.parametrize(
    "wrong",
    [
        BoundedSum(np.zeros(WIDTH, dtype=np.int64), BOUND + 1, UNIT, 1),
        BoundedSum(np.zeros(WIDTH, dtype=np.int64), BOUND, 2 * UNIT, 1),
    ],
)
def test_refuses_a_step_on_another_bound_or_grid(wrong: BoundedSum) -> None:
    with pytest.raises(InputError, match="clip every step alike"):
        change().add(np.array([0]), wrong)


def test_refuses_a_table_of_nothing_and_noise_out_of_range() -> None:
    with pytest.raises(InputError, match="no rows"):
        change(rows=0)
    with pytest.raises(InputError, match="sigma=nan"):
        change(math.nan)
