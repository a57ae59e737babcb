"""A few ways to blend the channels, and the release that says which of them ranks best.

Which channel deserves trust depends on the data: on MovieLens the order of events says most, on Amazon Beauty titles do, and
under much noise popularity is all that is left. No public fact tells these apart, so every user votes: for each preset
whether its top 10 held her next item. A row of halves is half as long as a row of metrics, and so is its noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_models.errors import DataError
from recsys_models.metrics.intervals import Estimate, proportion_estimate
from recsys_models.metrics.ranking import hit
from recsys_models.metrics.sums import MetricRows
from recsys_models.retrieval.blend import DEFAULT_WEIGHTS

PRESETS: dict[str, tuple[float, ...]] = {
    "transitions": DEFAULT_WEIGHTS,
    "balanced": (0.25, 0.5, 0.25, 0.2, 1.5, 1.0),
    "content": (0.125, 0.25, 0.125, 0.2, 1.5, 1.0),
    "popular items": (0.25, 0.5, 0.25, 1.0, 1.5, 1.0),
    "encoder": (1.5, 0.5, 0.25, 0.1, 0.5, 1.0),
    "popularity": (0.0, 0.0, 0.0, 1.0, 0.0, 1.0),
}
"""Weights in the order of ``CHANNELS``. Own transitions, which only a client that may count them has, are never voted on."""

POPULARITY = "popularity"
"""The preset that is the baseline."""

_CUT = 10
_STANDARD_ERRORS = 1.5
"""By how many of the noise a preset must lead to replace the one that the plan begins with."""
_FEW = 600.0


@dataclass(frozen=True)
class Comparison:
    """What a comparison released.

    Attributes:
        users: number of users who voted, as released (noisy).
        recall: recall@10 of each preset, on the same users and targets.
        chosen: the preset to begin with.
    """

    users: float
    recall: Mapping[str, Estimate]
    chosen: str


def first_preset(users: int, mu: float) -> str:
    """The preset before anything was measured, from public facts.

    A sum over n users under noise of deviation 1/mu is known to one part in n mu. Below about 600 transitions still order the
    popular items, but find no others (MovieLens-100K at epsilon = 1: n mu = 250).

    Args:
        users: enrolled.
        mu: of Gaussian differential privacy that the whole budget comes to; infinite without noise.
    """
    return "popular items" if users * mu < _FEW else "transitions"


def comparison_length() -> int:
    """Cells of a row: a user's vote for each preset, and herself."""
    return len(PRESETS) + 1


def comparison_norm() -> float:
    """Euclidean norm of every user's row: all entries are a half."""
    return math.sqrt(comparison_length()) / 2.0


def comparison_rows(ranks: Mapping[str, NDArray[np.int64]]) -> MetricRows:
    """One row ``[1/2, hit - 1/2 of each preset]`` a user.

    A hit or none is as far from a half, which leaves the row half as long as with 0 and 1 and all hits.

    Args:
        ranks: int64 [users] that each preset gave the user's target; the same users everywhere.

    Raises:
        DataError: the presets are not those of :data:`PRESETS`.
    """
    if list(ranks) != list(PRESETS):
        raise DataError(f"ranks of {list(ranks)}; the presets are {list(PRESETS)}")
    hits = np.stack([hit(each, _CUT) for each in ranks.values()], axis=1)
    dense = np.concatenate([np.full((len(hits), 1), 0.5), hits - 0.5], axis=1)
    users, length = dense.shape
    indices = np.tile(np.arange(length, dtype=np.int64), users)
    return MetricRows(indices, dense.ravel(), np.arange(users + 1, dtype=np.int64) * length, length)


def read_comparison(total: NDArray[np.float64], first: str, *, noise_sd: float = 0.0) -> Comparison:
    """Recall of each preset from a (noisy) sum of rows, and the one to begin with.

    Another preset than ``first`` is chosen only where it leads by more than 1.5 standard deviations of a difference's noise:
    the best of several noisy figures is otherwise often the luckiest.

    Args:
        total: ``[comparison_length()]`` in natural units.
        first: the plan's preset.
        noise_sd: standard deviation of the noise on each entry, natural units.

    Raises:
        DataError: the vector does not fit, or ``first`` is no preset.
    """
    if total.shape != (comparison_length(),):
        raise DataError(f"expected {comparison_length()} sums, got shape {total.shape}")
    if first not in PRESETS:
        raise DataError(f"preset {first!r} is unknown; use one of {', '.join(PRESETS)}")
    users, variance = 2.0 * float(total[0]), noise_sd**2
    hits = dict(zip(PRESETS, total[1:] + total[0], strict=True))
    recall = {
        name: proportion_estimate(
            float(value), users, noise_variance=2.0 * variance, count_noise_variance=4.0 * variance
        )
        for name, value in hits.items()
    }
    best = max(hits, key=lambda name: (hits[name], name == first))
    leads = hits[best] - hits[first] > _STANDARD_ERRORS * math.sqrt(2.0) * noise_sd
    return Comparison(users, recall, best if leads else first)
