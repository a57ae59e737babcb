"""What scores of planted and absent canaries say about epsilon: an estimate and a lower bound, not to be confused.

* The *estimate* fits a Gaussian to the scores of each group and takes their distance for mu (Andrew et al. 2023,
  "One-shot Empirical Privacy Estimation for Federated Learning", Section 3, here with known canary rows). It is close to
  the truth for Gaussian noise, and no proof.
* The *lower bound* counts right guesses in one run (Steinke, Nasr, Jagielski 2023, "Privacy Auditing with One (1)
  Training Run", Theorem 5.2 and Appendix D). It holds with 95 % confidence whatever the mechanism is, and is far below
  the truth: with m canaries it cannot exceed about ln(m).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.analytic_gaussian import gaussian_epsilon
from privacy.errors import InputError

TOLERANCE_SE = 4.0
"""An estimate counts as too large when it exceeds the claim by more than four of its standard errors: once in 30,000
sound audits."""


@dataclass(frozen=True)
class GaussianFit:
    """Distance of two groups of scores.

    Attributes:
        mu: difference of means over the pooled standard deviation.
        standard_error: of ``mu``.
        epsilon: at the delta asked for.
        epsilon_low: epsilon of mu minus four standard errors: what a false alarm would have to exceed.
    """

    mu: float
    standard_error: float
    epsilon: float
    epsilon_low: float


def gaussian_fit(
    planted: NDArray[np.float64], absent: NDArray[np.float64], target_delta: float
) -> GaussianFit:
    """Estimate epsilon from scores; infinite when the scores do not vary at all.

    Raises:
        InputError: fewer than 10 scores in a group.
    """
    if min(planted.size, absent.size) < 10:
        raise InputError(
            f"{planted.size} planted and {absent.size} absent canaries: need at least 10 of each"
        )
    freedom = planted.size + absent.size - 2
    spread = math.sqrt((planted.size * planted.var() + absent.size * absent.var()) / freedom)
    distance = max(float(planted.mean() - absent.mean()), 0.0)
    if spread == 0.0:
        return GaussianFit(math.inf, 0.0, math.inf, math.inf)
    mu = distance / spread
    error = math.sqrt(1 / planted.size + 1 / absent.size + mu * mu / (2 * freedom))
    low = max(mu - TOLERANCE_SE * error, 0.0)
    return GaussianFit(
        mu, error, gaussian_epsilon(mu, target_delta), gaussian_epsilon(low, target_delta) if low else 0.0
    )


def guesses_right(scores: NDArray[np.float64], planted: NDArray[np.bool_], guesses: int) -> int:
    """Right ones among the guesses "planted" for the highest scores and "absent" for the lowest, half each."""
    order = np.argsort(scores)
    half = guesses // 2
    return int(planted[order[-half:]].sum() + (~planted[order[:half]]).sum())


def one_run_lower_bound(
    canaries: int, guesses: int, right: int, target_delta: float, *, confidence: float = 0.95
) -> float:
    """The largest epsilon that so many right guesses refute.

    Args:
        canaries: m, each planted by a fair coin of its own.
        guesses: r of them that were guessed; fixed before the scores are seen.
        right: v guesses that were right.
        target_delta: of the claim.
        confidence: of the bound.

    Raises:
        InputError: the counts do not fit together.
    """
    if not 0 <= right <= guesses <= canaries:
        raise InputError(f"{right} right of {guesses} guesses about {canaries} canaries cannot be")
    low, high = 0.0, 1.0
    while p_value(canaries, guesses, right, high, target_delta) < 1.0 - confidence:
        high += 1.0
    if p_value(canaries, guesses, right, 0.0, target_delta) >= 1.0 - confidence:
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2
        refuted = p_value(canaries, guesses, right, middle, target_delta) < 1.0 - confidence
        low, high = (middle, high) if refuted else (low, middle)
    return low


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Chance of at least so many right guesses under (epsilon, delta)-DP, at most (Appendix D of the source)."""
    density = _binomial(guesses, 1.0 / (1.0 + math.exp(-epsilon)))
    at_least = float(density[right:].sum())
    below = np.cumsum(density[:right][::-1])  # P[right > Binomial >= right - i], i = 1, 2, ...
    steepest = float(np.max(below / np.arange(1, right + 1))) if right else 0.0
    return min(1.0, at_least + 2.0 * canaries * delta * steepest)


def _binomial(n: int, probability: float) -> NDArray[np.float64]:
    counts = range(n + 1)
    log_choose = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in counts]
    log_yes, log_no = math.log(probability), math.log1p(-probability) if probability < 1.0 else -math.inf
    return np.array(
        [math.exp(c + k * log_yes + (n - k) * log_no) for k, c in zip(counts, log_choose, strict=True)]
    )
