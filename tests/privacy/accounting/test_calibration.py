"""Calibrated noise keeps the budget, by the accountant's own word, and wastes none of it."""

from __future__ import annotations

import math
import time

import pytest

from privacy.accounting import accountant
from privacy.accounting.accountant import epsilon
from privacy.accounting.calibration import gaussian_mu, noise_multiplier_for, scale_to_budget
from privacy.accounting.events import ReleaseEvent
from privacy.errors import InputError


def cost(noise: float, q: float, steps: int, delta: float) -> float:
    return epsilon([ReleaseEvent("x", noise, sampling_probability=q, count=steps)], delta)


@pytest.mark.parametrize(
    ("budget", "delta", "q", "steps"),
    [
        (8.0, 1e-5, 1.0, 1),
        (1.0, 1e-6, 1.0, 52),
        (0.01, 1e-9, 1.0, 1),
        (100.0, 1e-5, 1.0, 1),
        (8.0, 1e-5, 512 / 6040, 300),
        (0.5, 1e-6, 0.01, 2000),
        (30.0, 1e-6, 0.5, 100),
    ],
)
def test_keeps_the_budget_and_uses_it(budget: float, delta: float, q: float, steps: int) -> None:
    noise = noise_multiplier_for(budget, delta, sampling_probability=q, steps=steps)
    assert cost(noise, q, steps, delta) <= budget
    assert cost(noise * (1 - 2e-4), q, steps, delta) > budget


def test_unsampled_is_the_analytic_answer() -> None:
    assert noise_multiplier_for(4.0, 1e-6, steps=9) == pytest.approx(3 / gaussian_mu(4.0, 1e-6), rel=1e-5)


def test_published_calibration() -> None:
    """sigma = 0.910 for eps 8 at delta 1e-6 with Poisson q = 0.05 and T = 300."""
    assert noise_multiplier_for(8.0, 1e-6, sampling_probability=0.05, steps=300) == pytest.approx(
        0.910, abs=2e-3
    )


def test_scales_a_schedule_in_proportion() -> None:
    schedule = [
        ReleaseEvent("popularity", 10.0),
        ReleaseEvent("statistics", 2.0),
        ReleaseEvent("gradients", 1.5, sampling_probability=0.05, count=100),
    ]
    factor = scale_to_budget(schedule, 4.0, 1e-6)
    scaled = [
        ReleaseEvent(
            e.name, e.noise_multiplier * factor, sampling_probability=e.sampling_probability, count=e.count
        )
        for e in schedule
    ]
    assert 4.0 * (1 - 2e-3) < epsilon(scaled, 1e-6) <= 4.0


@pytest.mark.parametrize("unit", [1e-2, 1.0, 1e2])
def test_first_guess_may_be_far_off(unit: float) -> None:
    schedule = [ReleaseEvent("g", unit, sampling_probability=0.1, count=10)]
    assert scale_to_budget(schedule, 2.0, 1e-6) * unit == pytest.approx(
        noise_multiplier_for(2.0, 1e-6, sampling_probability=0.1, steps=10), rel=3e-4
    )


def test_needs_few_looks_at_the_accountant(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    real = accountant._pld_epsilon
    monkeypatch.setattr(accountant, "_pld_epsilon", lambda *a: looks.append(time.time()) or real(*a))
    noise_multiplier_for(5.5, 1e-6, sampling_probability=0.07, steps=123)
    assert len(looks) <= 12


@pytest.mark.parametrize("budget", [0.0, -1.0, math.nan, math.inf])
def test_refuses_what_is_not_a_budget(budget: float) -> None:
    with pytest.raises(InputError, match="not a budget"):
        noise_multiplier_for(budget, 1e-5)


def test_refuses_what_cannot_be_scaled() -> None:
    with pytest.raises(InputError, match="no releases"):
        scale_to_budget([], 1.0, 1e-5)
    with pytest.raises(InputError, match="'x' has noise_multiplier=0"):
        scale_to_budget([ReleaseEvent("x", 0.0)], 1.0, 1e-5)
    with pytest.raises(InputError, match="delta=2"):
        noise_multiplier_for(1.0, 2.0)
