"""The closed formula against 50-digit arithmetic and published values."""

from __future__ import annotations

import math

import mpmath
import pytest

from privacy.accounting.analytic_gaussian import gaussian_delta, gaussian_epsilon, gaussian_mu
from privacy.errors import InputError


def exact_delta(mu: float, epsilon: float) -> mpmath.mpf:
    """Hockey-stick divergence by its definition, the integral of (p - e^eps q)+, in 50 digits."""
    with mpmath.workdps(50):
        m, e = mpmath.mpf(mu), mpmath.mpf(epsilon)
        threshold = e / m + m / 2  # p > e^eps q exactly above this point
        p = mpmath.quad(lambda x: mpmath.npdf(x, m, 1), [threshold, threshold + 10, threshold + 60])
        q = mpmath.quad(lambda x: mpmath.npdf(x, 0, 1), [threshold, threshold + 10, threshold + 60])
        return p - mpmath.exp(e) * q


@pytest.mark.parametrize("mu", [0.05, 0.5, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("z", [0.5, 3.0, 6.0])
def test_delta_equals_the_integral(mu: float, z: float) -> None:
    epsilon = max(0.0, mu * z - mu * mu / 2)
    assert gaussian_delta(mu, epsilon) == pytest.approx(float(exact_delta(mu, epsilon)), rel=1e-9)


@pytest.mark.parametrize(("mu", "epsilon"), [(1.0, 45.0), (0.1, 4.5), (0.02, 1.0)])
def test_delta_far_in_the_tail(mu: float, epsilon: float) -> None:
    """Where erfc underflows the asymptotic series takes over; both terms are below 1e-250 here."""
    assert gaussian_delta(mu, epsilon) == pytest.approx(float(exact_delta(mu, epsilon)), rel=1e-6, abs=1e-300)


def test_textbook_values() -> None:
    """mu = 1: delta(0) = P(|Z| < 1/2) = 0.3829; delta(1) = Phi(-1/2) - e Phi(-3/2) = 0.1269."""
    assert gaussian_delta(1.0, 0.0) == pytest.approx(0.382924922548, rel=1e-11)
    assert gaussian_delta(1.0, 1.0) == pytest.approx(0.126936737507, rel=1e-11)


def test_is_better_than_the_classic_formula() -> None:
    """Balle and Wang 2018: less noise than sqrt(2 ln(1.25 / delta)) / epsilon, where that is valid at all."""
    for epsilon, delta in ((0.1, 1e-5), (0.5, 1e-6), (0.99, 1e-8)):
        assert 1 / gaussian_mu(epsilon, delta) < math.sqrt(2 * math.log(1.25 / delta)) / epsilon


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 1.0, 8.0, 100.0, 1000.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-6, 1e-3, 0.4])
def test_inverses_meet_and_never_understate(epsilon: float, delta: float) -> None:
    mu = gaussian_mu(epsilon, delta)
    assert gaussian_delta(mu, epsilon) <= delta
    assert gaussian_delta(mu * (1 + 1e-6), epsilon) > delta
    assert gaussian_epsilon(mu, delta) == pytest.approx(epsilon, rel=1e-6)
    assert gaussian_delta(mu, gaussian_epsilon(mu, delta)) <= delta


def test_edges() -> None:
    assert gaussian_delta(0.0, 0.0) == 0.0
    assert gaussian_delta(math.inf, 5.0) == 1.0
    assert gaussian_delta(1.0, math.inf) == 0.0
    assert gaussian_epsilon(0.0, 1e-5) == 0.0
    assert gaussian_epsilon(math.inf, 1e-5) == math.inf
    assert gaussian_epsilon(1e-7, 1e-5) == 0.0


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf])
def test_what_is_not_a_budget(epsilon: float) -> None:
    with pytest.raises(
        InputError, match="is not a budget: give a positive number, or --privacy off for research"
    ):
        gaussian_mu(epsilon, 1e-5)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_what_is_not_a_delta(delta: float) -> None:
    for call in (lambda: gaussian_mu(1.0, delta), lambda: gaussian_epsilon(1.0, delta)):
        with pytest.raises(InputError, match="not in"):
            call()


@pytest.mark.parametrize(("mu", "epsilon"), [(-1.0, 1.0), (math.nan, 1.0), (1.0, -1.0), (1.0, math.nan)])
def test_delta_refuses_what_is_negative_or_nan(mu: float, epsilon: float) -> None:
    with pytest.raises(InputError, match="non-negative"):
        gaussian_delta(mu, epsilon)
