"""Metrics as vectors that can be added over users: one user, one short row of non-negative fixed-point
numbers.

Layout, for rankers r1, r2, ...: ``[users, r1 hit@10, r1 hit@20, r1 ndcg@10, r2 hit@10, ...]``. Values are
multiples of 2^-24, so that a sum over users on a grid of that unit is exact; NDCG is rounded toward zero to
it. The number of users is the first entry, not a message beside it: it is private too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_models.errors import DataError
from recsys_models.metrics.intervals import Estimate, mean_estimate, proportion_estimate
from recsys_models.metrics.ranking import hit, ndcg

METRIC_UNIT = 2.0**-24
_PER_RANKER = ("hit@10", "hit@20", "ndcg@10")


@dataclass(frozen=True)
class MetricRows:
    """Users' rows in CSR form: user u owns ``values[offsets[u]:offsets[u + 1]]``.

    Attributes:
        indices: int64, position in the vector.
        values: float64, multiples of :data:`METRIC_UNIT` in [0, 1].
        offsets: int64 [users + 1].
        length: width of the vector.
    """

    indices: NDArray[np.int64]
    values: NDArray[np.float64]
    offsets: NDArray[np.int64]
    length: int


def metric_names(rankers: Sequence[str]) -> tuple[str, ...]:
    """Names of the entries, in order: ``users``, then ``<ranker>/<metric>``."""
    return ("users", *(f"{ranker}/{metric}" for ranker in rankers for metric in _PER_RANKER))


def metric_l2_bound(n_rankers: int) -> float:
    """Largest L2 norm of one user's row, rounded up to the grid: with it as clip norm, nobody is ever
    clipped.
    """
    return math.ceil(math.sqrt(1 + len(_PER_RANKER) * n_rankers) / METRIC_UNIT) * METRIC_UNIT


def user_metric_rows(ranks: Mapping[str, NDArray[np.int64]]) -> MetricRows:
    """One row per user from the ranks that each ranker gave that user's target.

    Args:
        ranks: int64 [users] for each ranker, in the order of the layout; the same users everywhere.

    Raises:
        DataError: if there is no ranker, or the numbers of users differ.
    """
    sizes = {len(each) for each in ranks.values()}
    if len(sizes) != 1:
        raise DataError(f"need ranks of the same users from every ranker, got sizes {sorted(sizes)}")
    users = sizes.pop()
    columns = [np.ones(users)]
    for each in ranks.values():
        columns += [hit(each, 10), hit(each, 20), np.floor(ndcg(each, 10) / METRIC_UNIT) * METRIC_UNIT]
    dense = np.stack(columns, axis=1)
    rows, indices = np.nonzero(dense)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=users))]).astype(np.int64)
    return MetricRows(indices.astype(np.int64), dense[rows, indices], offsets, dense.shape[1])


def read_metrics(
    total: NDArray[np.float64], rankers: Sequence[str], *, noise_sd: float = 0.0
) -> dict[str, Estimate]:
    """Means with 95 % intervals from a (noisy) sum of rows.

    Args:
        total: [length] in natural units (grid steps times :data:`METRIC_UNIT`).
        rankers: as in the layout.
        noise_sd: standard deviation of the noise on each entry, natural units.

    Returns:
        ``<ranker>/<metric>`` to its estimate.

    Raises:
        DataError: if the vector does not fit the layout.
    """
    names = metric_names(rankers)
    if total.shape != (len(names),):
        raise DataError(f"expected {len(names)} sums {names}, got shape {total.shape}")
    users, variance = float(total[0]), noise_sd**2
    estimates: dict[str, Estimate] = {}
    for name, value in zip(names[1:], total[1:], strict=True):
        estimate = mean_estimate if "ndcg" in name else proportion_estimate
        estimates[name] = estimate(
            float(value), users, noise_variance=variance, count_noise_variance=variance
        )
    return estimates
