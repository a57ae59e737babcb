"""The Gaussian mechanism in closed form: exact, and independent of every numerical accountant.

Source: Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy", ICML 2018, Theorem 8 and
Algorithm 1; in the words of Dong, Roth, Su, "Gaussian Differential Privacy", JRSS B 2022, Corollary 2.13,
where mu is the L2 bound over the standard deviation. Releases compose by adding mu^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from privacy.errors import InputError


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Returns the smallest delta of a mu-GDP release: Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu).

    Raises:
        InputError: ``mu`` or ``epsilon`` is NaN or negative.
    """
    if not mu >= 0.0 or not epsilon >= 0.0:
        raise InputError(f"mu={mu} and epsilon={epsilon} must be non-negative")
    if mu == 0.0 or epsilon == math.inf:
        return 0.0
    if mu == math.inf:
        return 1.0
    shift = epsilon / mu
    # e^eps overflows long before the product does, so the product is taken in logarithms.
    return max(0.0, _phi(mu / 2 - shift) - math.exp(epsilon + _log_phi(-mu / 2 - shift)))


def gaussian_epsilon(mu: float, target_delta: float) -> float:
    """Returns the smallest epsilon of a mu-GDP release at ``target_delta``, rounded up by less than 1e-12
    relative.

    Raises:
        InputError: ``mu`` is negative or NaN, or ``target_delta`` is outside (0, 1).
    """
    check_delta(target_delta)
    if gaussian_delta(mu, 0.0) <= target_delta:
        return 0.0
    if mu == math.inf:
        return math.inf
    above = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / target_delta))  # the tail bound: always sufficient
    return _smallest(lambda epsilon: gaussian_delta(mu, epsilon) <= target_delta, above)


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Returns the largest mu whose release is (epsilon, delta)-DP; the noise multiplier to use is 1 / mu.

    Rounded down by less than 1e-12 relative, so the budget holds.

    Raises:
        InputError: ``epsilon`` is not a positive finite number, or ``delta`` is outside (0, 1).
    """
    check_epsilon(epsilon)
    check_delta(delta)
    noise = 1.0
    while gaussian_delta(1.0 / noise, epsilon) > delta:
        noise *= 2.0
    return 1.0 / _smallest(lambda z: gaussian_delta(1.0 / z, epsilon) <= delta, noise)


def check_epsilon(epsilon: float) -> None:
    """Refuses what is not a budget, with the cure.

    Raises:
        InputError: ``epsilon`` is not a positive finite number.
    """
    if not 0.0 < epsilon < math.inf:
        raise InputError(
            f"epsilon={epsilon:g} is not a budget: give a positive number, or --privacy off for research"
        )


def check_delta(delta: float) -> None:
    """Refuses what is not a delta.

    Raises:
        InputError: ``delta`` is not in (0, 1).
    """
    if not 0.0 < delta < 1.0:
        raise InputError(
            f"delta={delta:g} is not in (0, 1): take less than 1 / (number of users), for example 1e-6"
        )


def _smallest(holds: Callable[[float], bool], above: float) -> float:
    """Returns the least positive number at which a monotone condition holds, given one at which it does."""
    below = 0.0
    while above - below > 1e-13 * above:
        middle = (below + above) / 2
        below, above = (below, middle) if holds(middle) else (middle, above)
    return above


def _phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _log_phi(x: float) -> float:
    if x > -35.0:
        return math.log(_phi(x))
    # erfc underflows soon: the asymptotic series (Abramowitz and Stegun 26.2.12), here below 1e-12.
    y = 1 / (x * x)
    return (
        -x * x / 2
        - math.log(-x * math.sqrt(2 * math.pi))
        + math.log1p(-y * (1 - y * (3 - y * (15 - y * 105))))
    )
