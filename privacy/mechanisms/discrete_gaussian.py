"""Discrete Gaussian noise, exact to 2^-105, on sums whose bound is proven.

The discrete Gaussian N_Z(0, sigma^2) has probability proportional to exp(-x^2 / (2 sigma^2)) on the integers
(Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS 2020). Integer noise on
an integer sum leaves no floating point for an attacker to read (Mironov 2012), and it survives modular secure
aggregation.

Why it is accounted as a Gaussian:

* One release: same zCDP as the Gaussian of equal sigma (CKS20, Theorem 4), and for the grids used here, where
  one user moves the sum by thousands of steps, the same privacy profile to four digits (a test recomputes
  it).
* Sum of k shares of sigma_s >= 3 each: within a factor exp(+-tau), tau = 10 sum_j exp(-2 pi^2 sigma_s^2 j /
  (j + 1)) < 1e-34 for 10^4 shares, of the discrete Gaussian of k sigma_s^2 (Kairouz, Liu, Steinke, "The
  Distributed Discrete Gaussian Mechanism", ICML 2021, Theorem 1). Narrower shares are refused.
* The sampler: magnitudes are read off a table of cumulative probabilities in 127-bit fixed point. The tail
  beyond 2^-110 is cut and each of at most 2^21 entries is rounded down by less than 2^-127: one draw is
  within 2^-105 of the exact law in total variation. A vector of d entries adds at most (1 + e^epsilon) d
  2^-105 to delta, which is below 1e-20 for a million entries at epsilon 12.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.events import DetailValue, ReleaseEvent
from privacy.bounded import BoundedSum, NoisedSum
from privacy.errors import InputError
from privacy.randomness import RandomSource

MIN_SIGMA = 0.5
MAX_SIGMA = 2.0**17
MIN_SHARE_SIGMA = 3.0

_WORK_BITS = 224  # fixed point while the table is built; the recurrence loses fewer than 60 of them
_TAIL_BITS = 110
_CHUNK = 2**15  # draws at a time: bounds the memory, keeps every array in cache
_GUIDE_BITS = 17


@dataclass(frozen=True, eq=False)
class _Table:
    """P(|X| <= m) for m = 0, 1, ... in units of 2^-127, without the last, which is 1."""

    high: NDArray[np.uint64] = field(repr=False)  # upper 63 bits
    low: NDArray[np.uint64] = field(repr=False)  # lower 64 bits
    guide: NDArray[np.int64] = field(
        repr=False
    )  # for each value of the first 17 bits, where the search begins


def sample(sigma: float, n: int, randomness: RandomSource) -> NDArray[np.int64]:
    """Draws ``n`` independent values of the discrete Gaussian.

    Args:
        sigma: scale in grid steps, 0.5..2^17. For sigma >= 1 it is also the standard deviation, to within
            1e-7.
        n: number of draws.
        randomness: 64 bits are used for one draw (and 64 more about once in 2^45 draws).

    Returns:
        Integers ``[n]``. Time does not depend on the values drawn beyond the caching of the table.

    Raises:
        InputError: ``sigma`` is NaN or outside 0.5..2^17.
    """
    table = _table(_checked_sigma(sigma))
    drawn = np.empty(n, dtype=np.int64)
    for start in range(0, n, _CHUNK):
        words = randomness.uint64(min(_CHUNK, n - start))
        magnitude = _magnitudes(table, words >> np.uint64(1), randomness)
        drawn[start : start + _CHUNK] = np.where(words & np.uint64(1), -magnitude, magnitude)
    return drawn


def add_noise(
    total: BoundedSum,
    sigma: float,
    randomness: RandomSource,
    *,
    name: str,
    left_the_client: bool = True,
    detail: Mapping[str, DetailValue] | None = None,
) -> NoisedSum:
    """Adds the whole noise to a sum: for a client that trusts nobody with a part of it.

    Args:
        total: the sum with its proven bound.
        sigma: of the noise, in grid steps.
        randomness: source of the noise; a seeded one marks the event with ``detail["simulated"]``.
        name: of the release.
        left_the_client: False if the result stays with the client.
        detail: further facts for the reader of the ledger.

    Guarantees:
        The event's noise multiplier is ``sigma / total.l2_bound``; there is no way to state another.

    Raises:
        InputError: ``sigma`` is NaN or outside 0.5..2^17.
    """
    return _noised(total, sigma, sigma, randomness, name, left_the_client, dict(detail or {}))


def noise_share(
    total: BoundedSum,
    total_sigma: float,
    honest_survivors: int,
    randomness: RandomSource,
    *,
    name: str,
    detail: Mapping[str, DetailValue] | None = None,
) -> NoisedSum:
    """Adds one client's share of the noise: correct only inside a secure sum, and only for bounded
    contributions.

    The sum over the clients carries at least ``total_sigma`` as soon as ``honest_survivors`` of its terms are
    shares of honest clients. What those fewer clients leave out, or colluding ones subtract, is what the
    number must allow for: threshold minus colluding.

    Args:
        total: this client's sum; every client must use the same bound and unit.
        total_sigma: of the noise on the sum over clients, in grid steps.
        honest_survivors: clients whose noise is certain to be in the sum and unknown to the adversary.
        randomness: source of the noise; a seeded one marks the event with ``detail["simulated"]``.
        name: of the release.
        detail: further facts for the reader of the ledger.

    Returns:
        The noised sum. Its event has the multiplier of the *sum*, ``total_sigma / total.l2_bound``, and in
        ``detail`` the multiplier that protects this client alone if secure aggregation fails
        (``own_view_noise_multiplier``).

    Raises:
        InputError: sigmas out of range, or a share below 3 grid steps (choose a finer unit).
    """
    share = share_sigma(total_sigma, honest_survivors)
    facts: dict[str, DetailValue] = {
        "honest_survivors": honest_survivors,
        "own_view_noise_multiplier": share / total.l2_bound,
    }
    return _noised(total, share, total_sigma, randomness, name, True, {**(detail or {}), **facts})


def share_sigma(total_sigma: float, honest_survivors: int) -> float:
    """Returns total_sigma / sqrt(honest_survivors), the sigma of one client's share.

    Raises:
        InputError: no honest survivor, or a share outside 3..2^17 grid steps.
    """
    if honest_survivors < 1:
        raise InputError(f"honest_survivors={honest_survivors}: no honest share, no noise to count on")
    share = total_sigma / math.sqrt(honest_survivors)
    if not MIN_SHARE_SIGMA <= share <= MAX_SIGMA:
        raise InputError(
            f"total_sigma={total_sigma} over {honest_survivors} clients makes shares of sigma {share:.4g}, "
            f"outside 3..2^17 grid steps: choose a {'finer' if share < MIN_SHARE_SIGMA else 'coarser'} unit"
        )
    return share


def _noised(
    total: BoundedSum,
    sigma: float,
    accounted_sigma: float,
    randomness: RandomSource,
    name: str,
    left_the_client: bool,
    detail: dict[str, DetailValue],
) -> NoisedSum:
    facts: dict[str, DetailValue] = {
        "l2_bound": total.l2_bound,
        "unit": total.unit,
        "entries": total.values.size,
    }
    if randomness.is_simulated:
        facts["simulated"] = 1
    event = ReleaseEvent(
        name,
        noise_multiplier=accounted_sigma / total.l2_bound,
        left_the_client=left_the_client,
        detail={**detail, **facts},
    )
    return NoisedSum(total.values + sample(sigma, total.values.size, randomness), total.unit, event)


def _magnitudes(table: _Table, upper: NDArray[np.uint64], randomness: RandomSource) -> NDArray[np.int64]:
    """Inverts the cumulative table at uniform 127-bit numbers of which the upper 63 bits are given."""
    found = _count_up_to(table, upper)
    # Equal upper bits decide nothing yet: draw the lower 64 bits and compare those as well.
    tied: list[int] = np.flatnonzero((found > 0) & (table.high[found - 1] == upper)).tolist()
    lower: list[int] = randomness.uint64(len(tied)).tolist()
    for position, word in zip(tied, lower, strict=True):
        first = int(np.searchsorted(table.high, np.uint64(upper[position]), side="left"))
        equal = table.low[first : found[position]]
        found[position] = first + int(np.searchsorted(equal, np.uint64(word), side="right"))
    return found


def _count_up_to(table: _Table, upper: NDArray[np.uint64]) -> NDArray[np.int64]:
    """``searchsorted(table.high, upper, side="right")``, six times as fast.

    The guide leads to the first entry that shares the leading bits; it or the next one is nearly always the
    answer, and a binary search settles the rest (Chen and Asau, "On generating random variates from an empirical
    distribution", 1974).
    """
    last = table.high.size - 1
    found = table.guide[(upper >> np.uint64(63 - _GUIDE_BITS)).view(np.int64)]
    found += table.high[np.minimum(found, last)] <= upper
    unsettled = np.flatnonzero(table.high[np.minimum(found, last)] <= upper)
    found[unsettled] = np.searchsorted(table.high, upper[unsettled], side="right")
    return found


@lru_cache(maxsize=16)
def _table(sigma: float) -> _Table:
    """Builds the table in integer arithmetic: about 0.3 s and 6 MB for sigma = 2^15."""
    weights = list(_weights(sigma))
    reciprocal = (1 << (2 * _WORK_BITS)) // sum(weights)
    cumulative: list[int] = []
    running = 0
    for weight in weights[:-1]:
        running += weight
        cumulative.append((running * reciprocal) >> (2 * _WORK_BITS - 127))
    high = np.array([c >> 64 for c in cumulative], dtype=np.uint64)
    low = np.array([c & (2**64 - 1) for c in cumulative], dtype=np.uint64)
    firsts = np.arange(2**_GUIDE_BITS, dtype=np.uint64) << np.uint64(63 - _GUIDE_BITS)
    guide = np.searchsorted(high, firsts, side="left").astype(np.int64)
    high.flags.writeable = low.flags.writeable = guide.flags.writeable = False
    return _Table(high, low, guide)


def _weights(sigma: float) -> Iterator[int]:
    """Yields 1, 2 e^(-1/2s^2), 2 e^(-4/2s^2), ... in fixed point, up to the magnitude where the tail is cut.

    By recurrence: w(m + 1) / w(m) = e^(-(2m + 1) / 2s^2), itself a geometric sequence of ratio e^(-2 / 2s^2).
    """
    step = _exp_minus(1 / (2 * Fraction(sigma) ** 2))
    step_ratio = (step * step) >> _WORK_BITS
    weight = 1 << _WORK_BITS
    yield weight
    for _ in range(math.ceil(sigma * math.sqrt(2 * math.log(2) * _TAIL_BITS))):
        weight = (weight * step) >> _WORK_BITS
        step = (step * step_ratio) >> _WORK_BITS
        yield 2 * weight


def _exp_minus(x: Fraction) -> int:
    """Returns e^-x for 0 < x <= 2 in fixed point, by its Taylor series; off by fewer than 2^8 last places."""
    term = total = 1 << _WORK_BITS
    order = 0
    while term:
        order += 1
        term = -(abs(term) * x.numerator // (x.denominator * order)) * (1 if term > 0 else -1)
        total += term
    return total


def _checked_sigma(sigma: float) -> float:
    if not MIN_SIGMA <= sigma <= MAX_SIGMA:
        cure = "finer" if sigma < MIN_SIGMA else "coarser"
        raise InputError(f"sigma={sigma} is outside 0.5..2^17 grid steps: choose a {cure} unit")
    return float(sigma)
