"""Rounding a sum once: what it costs is in the bound, and batches do not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import InputError
from privacy.rounded_once import RoundedOnceSum, reach_before_rounding, rounding_steps

CELLS, ROWS, BOUND, UNIT = 30, 12, 100, 0.5


def _user(seed: int, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """A user who uses all of her reach, over both blocks."""
    whole = np.random.default_rng(seed).normal(size=CELLS + ROWS)
    whole *= reach / np.linalg.norm(whole)
    return whole[:CELLS], whole[CELLS:]


def _total(users: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    running = RoundedOnceSum(CELLS, CELLS + ROWS, l2_bound=BOUND, unit=UNIT)
    for summed, rows in users:
        running.add(summed, np.arange(ROWS), rows, users=1)
    assert running.total().users == len(users)
    assert (running.total().l2_bound, running.total().unit) == (BOUND, UNIT)
    return running.total().values


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), others=st.integers(0, 4), at=st.integers(0, 4))
def test_a_user_moves_the_sum_by_at_most_the_bound_wherever_she_comes(
    seed: int, others: int, at: int
) -> None:
    reach = RoundedOnceSum(CELLS, CELLS + ROWS, l2_bound=BOUND, unit=UNIT).reach
    crowd = [_user(seed + 1 + k, reach) for k in range(others)]
    moved = _total([*crowd[:at], _user(seed, reach), *crowd[at:]]) - _total(crowd)
    assert sum(int(step) ** 2 for step in moved) <= BOUND**2


def test_rounding_can_use_up_what_is_kept_for_it() -> None:
    """A sum just below the middle of every grid cell, and a user who tips all of them: the proof's worst case, nearly."""
    step = 0.02
    without = np.full(CELLS, 0.5 - step / 2) * UNIT
    moved = np.rint((without / UNIT) + step) - np.rint(without / UNIT)
    gained = float(np.linalg.norm(moved)) - step * math.sqrt(CELLS)
    assert 0.97 * math.sqrt(CELLS) < gained <= rounding_steps(CELLS)


def test_batches_are_rounded_together() -> None:
    running = RoundedOnceSum(1, 1, l2_bound=BOUND, unit=UNIT)
    for _ in range(100):
        running.add(np.array([0.4 * UNIT]), np.zeros(0, dtype=np.int64), np.zeros(0), users=1)
    assert running.total().values.tolist() == [40]


def test_rows_are_truncated_user_by_user() -> None:
    running = RoundedOnceSum(1, 3, l2_bound=BOUND, unit=UNIT)
    cells = np.array([0, 1, 1])
    running.add(np.zeros(1), cells, np.array([0.9, -0.9, 2.9]) * UNIT, users=2)
    assert running.total().values.tolist() == [0, 0, 2]


@pytest.mark.parametrize(("cells", "steps"), [(0, 0), (1, 1), (4, 2), (5, 3), (10_000, 100), (10_001, 101)])
def test_rounding_steps_are_the_root_rounded_up(cells: int, steps: int) -> None:
    assert rounding_steps(cells) == steps


def test_the_reach_is_what_is_left_of_the_bound() -> None:
    assert reach_before_rounding(1000, 0.5, 100) == (1000 - 10) * 0.5 * (1 - 2**-10)
    assert reach_before_rounding(40, 0.5, 100) == 30 * 0.5 * (1 - 2**-10)
    with pytest.raises(InputError, match="more than a quarter of the bound of 39"):
        reach_before_rounding(39, 0.5, 100)


def test_refuses_a_sum_that_is_not_finite_and_sizes_that_do_not_fit() -> None:
    running = RoundedOnceSum(1, 1, l2_bound=BOUND, unit=UNIT)
    with pytest.raises(InputError, match="not finite"):
        running.add(np.array([math.nan]), np.zeros(0, dtype=np.int64), np.zeros(0), users=1)
    assert running.total().users == 0
    for rounded, length in ((0, 3), (4, 3)):
        with pytest.raises(InputError, match="cannot be rounded once"):
            RoundedOnceSum(rounded, length, l2_bound=BOUND, unit=UNIT)
