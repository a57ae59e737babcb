"""Reading the detailed metric release: means with 95 % intervals from (noisy) sums, noise included.

A figure at K is a sum of cells with independent noise, so its noise variance is the number of cells times that of one cell.
Where squares were released, the spread of users is taken from them, read high by their own noise; so an interval is too wide
rather than too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from recsys_models.errors import DataError
from recsys_models.metrics.calibration import log_loss_cap
from recsys_models.metrics.detail import (
    COUNT_WEIGHT,
    EXPOSURE_WEIGHT,
    KS,
    PROPERTIES,
    RESIDUAL_WEIGHT,
    DetailLayout,
    part_of,
    property_of,
    rank_bins,
)
from recsys_models.metrics.intervals import Z_95, Estimate, mean_estimate, proportion_estimate
from recsys_models.metrics.lists import novelty_cap

_MAP_DEPTH = 10


@dataclass(frozen=True)
class GroupSums:
    """The sums over some users: one activity group, or several added up.

    Attributes:
        cells: [layout.group_cells], natural units.
        noise_variance: of the noise in each cell.
        n_items: size of the catalogue; it fixes the scale of novelty.
    """

    cells: NDArray[np.float64] = field(repr=False)
    noise_variance: float
    n_items: int

    def __add__(self, other: GroupSums) -> GroupSums:
        return GroupSums(self.cells + other.cells, self.noise_variance + other.noise_variance, self.n_items)

    @property
    def users(self) -> float:
        """Released number of users; with noise not a whole number, and possibly negative."""
        return float(self.cells[0])

    @property
    def users_margin(self) -> float:
        """Half of the 95 % interval of ``users``."""
        return Z_95 * math.sqrt(self.noise_variance)

    def hits(self, k: int) -> float:
        """Number of users whose target was among the first ``k``."""
        return float(part_of(self.cells, "hit")[: _bins(k)].sum())

    def estimates(self) -> dict[str, Estimate]:
        """Means over the users: ``recall@K`` (which is hit rate@K), ``ndcg@K``, ``mrr``, ``map@10`` and list properties.

        Novelty is in bits, log-loss in nats, the others lie in [0, 1].
        """
        found = {f"recall@{k}": self.recall(k) for k in KS}
        found |= {f"ndcg@{k}": self._mean("gain", "gain2", _bins(k)) for k in KS}
        found["mrr"] = self._mean("rr", "rr2", len(KS) + 1)
        found[f"map@{_MAP_DEPTH}"] = self._mean("rr", "rr2", _bins(_MAP_DEPTH))
        return found | {name: self._property(name) for name in PROPERTIES}

    def recall(self, k: int) -> Estimate:
        """Share of users whose target was among the first ``k``."""
        return proportion_estimate(
            self.hits(k),
            self.users,
            noise_variance=_bins(k) * self.noise_variance,
            count_noise_variance=self.noise_variance,
        )

    def recall_variance(self, k: int) -> float:
        """Variance of ``recall(k)``, noise and sampling of users; not 0 where nobody or everybody hit (Agresti, Coull)."""
        n = max(self.users, 1.0)
        share = min(1.0, max(0.0, (self.hits(k) + Z_95**2 / 2.0) / (n + Z_95**2)))
        noise = (_bins(k) + share**2) * self.noise_variance
        return share * (1.0 - share) / n + noise / n**2

    def rank_quantile(self, share: float) -> tuple[int, int | None]:
        """Ranks (first, last) of the bin in which that share of the users is reached; the last bin has no end."""
        reached = np.cumsum(part_of(self.cells, "hit")) >= share * self.users
        return rank_bins()[int(np.argmax(reached)) if reached.any() else len(KS)]

    def _mean(self, part: str, squares: str, bins: int) -> Estimate:
        total, total_of_squares = (float(part_of(self.cells, p)[:bins].sum()) for p in (part, squares))
        variance = bins * self.noise_variance
        return mean_estimate(
            total,
            self.users,
            total_of_squares=total_of_squares + Z_95 * math.sqrt(variance),
            noise_variance=variance,
            count_noise_variance=self.noise_variance,
        )

    def _property(self, name: str) -> Estimate:
        """Undo the centring: the sum of p is the sum of c plus half the users, and the noise of c stays its own."""
        centred, squares = property_of(self.cells, name)
        n = self.users
        mean = centred / n if n >= 1.0 else 0.0
        squares += Z_95 * math.sqrt(self.noise_variance)
        estimate = mean_estimate(
            centred + n / 2.0,
            n,
            total_of_squares=squares + centred + n / 4.0,
            noise_variance=self.noise_variance * (1.0 + mean**2),
        )
        scale = {"novelty": novelty_cap, "log_loss": log_loss_cap}.get(name, lambda _: 1.0)(self.n_items)
        return Estimate(estimate.value * scale, estimate.low * scale, estimate.high * scale)


@dataclass(frozen=True)
class CalibrationSums:
    """Confidence against outcome, by bins of confidence.

    Attributes:
        users: [bins], how many users' confidence lay in each.
        shortfall: [bins], sums of outcome less confidence.
        noise_sd: of the noise in each entry of ``shortfall``.
    """

    users: NDArray[np.float64] = field(repr=False)
    shortfall: NDArray[np.float64] = field(repr=False)
    noise_sd: float

    def expected_calibration_error(self, users: float) -> Estimate:
        """Mean over users of how far their bin's hit rate is from its mean confidence (Guo et al., ICML 2017, equation 3).

        The released sums' own figure; noise adds to it, so it is rather too large. The interval covers the noise and not
        who happens to be a user: each of the ten cells moves the figure by at most its noise, and the sum of ten such has
        mean ``10 sd sqrt(2 / pi)`` and variance ``10 sd^2 (1 - 2 / pi)``.

        Args:
            users: everybody who was evaluated.
        """
        n, bins = max(users, 1.0), len(self.shortfall)
        value = float(np.abs(self.shortfall).sum()) / n
        spread = Z_95 * math.sqrt(bins * (1.0 - 2.0 / math.pi))
        reach = self.noise_sd * (bins * math.sqrt(2.0 / math.pi) + spread) / n
        return Estimate(min(1.0, value), min(1.0, max(0.0, value - reach)), min(1.0, value + reach))

    def overconfidence(self, users: float) -> Estimate:
        """Mean confidence less hit rate; negative for predictions that are too careful."""
        n = max(users, 1.0)
        value = -float(self.shortfall.sum()) / n
        reach = Z_95 * self.noise_sd * math.sqrt(len(self.shortfall)) / n
        return Estimate(value, value - reach, value + reach)


@dataclass(frozen=True)
class DetailSums:
    """One detailed release, taken apart.

    Attributes:
        groups: sums of each activity group.
        exposure: for each exposure cell the number of lists that showed it.
        exposure_noise_sd: standard deviation of the noise in each of these numbers.
        calibration: confidence against outcome, of all groups together.
    """

    groups: tuple[GroupSums, ...]
    exposure: NDArray[np.float64] = field(repr=False)
    exposure_noise_sd: float
    calibration: CalibrationSums


def read_detail(total: NDArray[np.float64], layout: DetailLayout, *, noise_sd: float = 0.0) -> DetailSums:
    """Take a (noisy) sum of rows apart.

    Args:
        total: [layout.length], natural units.
        layout: the agreed one.
        noise_sd: standard deviation of the noise on each cell, natural units.

    Raises:
        DataError: the vector does not fit the layout.
    """
    if total.shape != (layout.length,):
        raise DataError(f"expected {layout.length} sums, got shape {total.shape}")
    end = layout.n_groups * layout.group_cells
    groups = total[:end].reshape(layout.n_groups, layout.group_cells)
    return DetailSums(
        tuple(GroupSums(cells, noise_sd**2, layout.n_items) for cells in groups),
        total[end : layout.calibration_start] / EXPOSURE_WEIGHT,
        noise_sd / EXPOSURE_WEIGHT,
        CalibrationSums(
            total[layout.calibration_start :: 2] / COUNT_WEIGHT,
            total[layout.calibration_start + 1 :: 2] / RESIDUAL_WEIGHT,
            noise_sd / RESIDUAL_WEIGHT,
        ),
    )


@dataclass(frozen=True)
class Gap:
    """Largest minus smallest recall among groups.

    Attributes:
        estimate: the gap, with a 95 % interval.
        largest, smallest: positions of the two groups.
    """

    estimate: Estimate
    largest: int
    smallest: int


def recall_gap(groups: list[GroupSums], k: int) -> Gap:
    """The gap between the groups with the largest and the smallest recall@k.

    Which groups these are is chosen by the data, and the largest of several noisy differences is too large. So every
    pair's difference gets an interval at the 95 % level of all pairs together (Bonferroni); where they all hold, the true
    gap lies between the largest lower and the largest upper end.

    Raises:
        DataError: fewer than two groups.
    """
    if len(groups) < 2:
        raise DataError(f"{len(groups)} groups have no gap: at least two are needed")
    values = [group.recall(k).value for group in groups]
    variances = [group.recall_variance(k) for group in groups]
    z = NormalDist().inv_cdf(1.0 - 0.05 / (len(groups) * (len(groups) - 1)))
    low, high = 0.0, 0.0
    for i, (value, variance) in enumerate(zip(values, variances, strict=True)):
        for other, other_variance in zip(values[:i], variances[:i], strict=True):
            difference, reach = abs(value - other), z * math.sqrt(variance + other_variance)
            low, high = max(low, difference - reach), max(high, difference + reach)
    largest, smallest = int(np.argmax(values)), int(np.argmin(values))
    gap = values[largest] - values[smallest]
    return Gap(Estimate(gap, low, min(1.0, high)), largest, smallest)


def _bins(k: int) -> int:
    return KS.index(k) + 1
