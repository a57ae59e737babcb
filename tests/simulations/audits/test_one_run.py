from __future__ import annotations

import math

import numpy as np
import pytest

from privacy.accounting.analytic_gaussian import gaussian_epsilon
from privacy.errors import InputError
from simulations.audits.one_run import gaussian_fit, guesses_right, one_run_lower_bound, p_value


def test_the_fit_finds_the_mu_of_two_gaussians():
    random = np.random.default_rng(0)
    fit = gaussian_fit(random.normal(3.0, 2.0, 20_000), random.normal(0.0, 2.0, 20_000), 1e-5)
    assert fit.mu == pytest.approx(1.5, abs=4 * fit.standard_error)
    assert fit.standard_error < 0.02
    assert fit.epsilon_low < fit.epsilon == pytest.approx(gaussian_epsilon(fit.mu, 1e-5))


def test_scores_without_noise_have_no_finite_epsilon():
    assert gaussian_fit(np.ones(50), np.zeros(50), 1e-5).epsilon == math.inf
    assert gaussian_fit(np.zeros(50) - 1, np.zeros(50), 1e-5).mu == math.inf
    with pytest.raises(InputError, match="at least 10"):
        gaussian_fit(np.ones(5), np.zeros(50), 1e-5)


def test_the_worst_case_of_randomised_response_is_exact_without_delta():
    """With delta = 0 the bound is that of guessing each coin with probability e^eps / (1 + e^eps)."""
    epsilon, guesses = 1.0, 40
    chance = 1.0 / (1.0 + math.exp(-epsilon))
    tail = sum(
        math.comb(guesses, k) * chance**k * (1 - chance) ** (guesses - k) for k in range(35, guesses + 1)
    )
    assert p_value(1000, guesses, 35, epsilon, 0.0) == pytest.approx(tail, rel=1e-9)
    assert p_value(1000, guesses, 35, epsilon, 1e-5) > tail


def test_the_lower_bound_grows_with_right_guesses_and_stays_zero_for_luck():
    bounds = [one_run_lower_bound(1000, 100, right, 1e-5) for right in (50, 65, 80, 95, 100)]
    assert bounds[0] == 0.0
    assert bounds == sorted(bounds)
    assert 2.5 < bounds[-1] < math.log(1000)
    with pytest.raises(InputError):
        one_run_lower_bound(10, 20, 5, 1e-5)


def test_the_bound_holds_for_randomised_response():
    """True epsilon 2: at most 5 % of one-run bounds may exceed it."""
    random = np.random.default_rng(1)
    chance = 1.0 / (1.0 + math.exp(-2.0))
    above = sum(
        one_run_lower_bound(200, 200, int((random.random(200) < chance).sum()), 0.0) > 2.0 for _ in range(200)
    )
    assert above <= 0.05 * 200 + 3 * math.sqrt(0.05 * 0.95 * 200)


def test_guesses_are_the_surest_of_both_kinds():
    scores = np.array([9.0, 8.0, 1.0, 0.5, -7.0, -8.0])
    planted = np.array([True, False, True, False, False, True])
    assert guesses_right(scores, planted, 4) == 2
