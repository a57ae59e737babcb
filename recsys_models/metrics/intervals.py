"""95 % intervals around means that are known only as sums, possibly with noise added for privacy.

The interval covers both who happened to be a user (sampling) and the noise. Noise of known variance in the
sum and in the count enters by the delta method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from recsys_models.errors import DataError

Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float


def proportion_estimate(
    successes: float, n: float, *, noise_variance: float = 0.0, count_noise_variance: float = 0.0
) -> Estimate:
    """A share of users, by Wilson's score interval (1927), widened for noise; within [0, 1].

    Args:
        successes: the (noisy) sum of hits.
        n: the (noisy) number of users; below 1 nothing is known and the interval is [0, 1].
        noise_variance: variance of the noise in ``successes``.
        count_noise_variance: variance of the noise in ``n``.

    Raises:
        DataError: for NaN or a negative variance.
    """
    _check(successes, n, noise_variance, count_noise_variance)
    if n < 1.0:
        return Estimate(0.0, 0.0, 1.0)
    share = _unit(successes / n)
    shrink = 1.0 / (1.0 + Z_95**2 / n)
    centre = shrink * (share + Z_95**2 / (2.0 * n))
    half = shrink * Z_95 * math.sqrt(share * (1.0 - share) / n + Z_95**2 / (4.0 * n * n))
    half = math.hypot(half, Z_95 * _noise_sd(share, n, noise_variance, count_noise_variance))
    return Estimate(share, _unit(centre - half), _unit(centre + half))


def mean_estimate(
    total: float,
    n: float,
    *,
    total_of_squares: float | None = None,
    noise_variance: float = 0.0,
    count_noise_variance: float = 0.0,
) -> Estimate:
    """A mean of values in [0, 1], by the normal approximation; within [0, 1].

    Without ``total_of_squares`` the variance is bounded by ``m (1 - m)``, the largest a mean of m allows in
    [0, 1], so the interval is too wide rather than too narrow.
    """
    _check(total, n, noise_variance, count_noise_variance)
    if n < 1.0:
        return Estimate(0.0, 0.0, 1.0)
    mean = _unit(total / n)
    variance = mean * (1.0 - mean)
    if total_of_squares is not None:
        variance = min(variance, max(0.0, total_of_squares / n - mean * mean))
    sd = math.hypot(math.sqrt(variance / n), _noise_sd(mean, n, noise_variance, count_noise_variance))
    return Estimate(mean, _unit(mean - Z_95 * sd), _unit(mean + Z_95 * sd))


def _noise_sd(mean: float, n: float, noise_variance: float, count_noise_variance: float) -> float:
    """Standard deviation that the noise gives ``total / n``."""
    return math.sqrt(noise_variance + mean * mean * count_noise_variance) / n


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))


def _check(total: float, n: float, *variances: float) -> None:
    if not (math.isfinite(total) and math.isfinite(n)):
        raise DataError(f"sums must be finite, got {total!r} over {n!r}")
    if not all(0.0 <= variance < math.inf for variance in variances):
        raise DataError(f"variances must be finite and not negative, got {variances!r}")
