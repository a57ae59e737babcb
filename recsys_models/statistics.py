"""Additive statistics of behaviour sequences: what one user adds, and how the sum is read again.

A *row* is one user's contribution as sparse (indices, values); rows are returned in CSR form, user ``u`` owning
``indices[offsets[u]:offsets[u + 1]]``. Every row has Euclidean norm at most 1 (unless counts are asked for, which is for runs
without noise), so a release of the sum over users needs noise for sensitivity 1 under add/remove of one user. Rows are
normalised, not capped: with few users this keeps more of the signal than limiting the number of items.

Three statistics are used:

* popularity: each distinct item of the user, weight ``1 / sqrt(#items)``;
* Gram: ``x x^T`` for the user's normalised item indicator ``x`` over the head items, stored as the upper triangle with
  off-diagonal cells times sqrt(2), so that the stored vector has the Frobenius norm of the matrix (which is 1);
* transitions: decayed ordered pairs (a then b, one to ``orders`` steps apart), normalised to 1. Order is the strongest
  public-free signal for the next item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_models.errors import DataError

Int = NDArray[np.int64]
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Sparse contributions of several users to one vector.

    Attributes:
        indices: position of each non-zero entry, in ``[0, length)``.
        values: its value.
        offsets: user ``u`` owns entries ``offsets[u]`` to ``offsets[u + 1]``; has one more entry than users.
        length: width of the dense vector.
    """

    indices: Int
    values: Float
    offsets: Int
    length: int


def collect_rows(rows: Sequence[tuple[Int, Float]], length: int) -> Rows:
    """Stack one (indices, values) pair per user into CSR form."""
    counts = np.array([len(indices) for indices, _ in rows], dtype=np.int64)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
    if not rows:
        return Rows(np.zeros(0, np.int64), np.zeros(0), offsets, length)
    indices = np.concatenate([indices for indices, _ in rows]).astype(np.int64)
    values = np.concatenate([values for _, values in rows]).astype(np.float64)
    return Rows(indices, values, offsets, length)


def popularity_rows(histories: Sequence[Int], n_items: int) -> Rows:
    """One row per user: each distinct item once, the row normalised to Euclidean norm 1."""
    rows: list[tuple[Int, Float]] = []
    for history in histories:
        items = np.unique(history)
        rows.append((items, np.full(len(items), 1.0 / np.sqrt(max(len(items), 1)))))
    return collect_rows(rows, n_items)


@dataclass(frozen=True)
class StatisticsLayout:
    """Where the Gram triangle and the transition matrix lie in one released vector.

    The user's norm budget of 1 is divided between the two: ``gram_weight^2 + transition_weight^2 = 1``.

    Attributes:
        head: number of head items K; both matrices are K by K.
        gram_share: share of the squared norm given to the Gram part, in ``[0, 1]``.
        orders: transitions up to this many steps apart are counted.
        decay: weight of a pair ``s`` steps apart is ``decay ** (s - 1)``.
        normalised: False leaves each user's transitions as counts. Then no row is bounded, so it is for runs without noise,
            where it is a little better: a user's hundredth transition says as much as her first.
    """

    head: int
    gram_share: float = 0.0
    orders: int = 5
    decay: float = 0.7
    normalised: bool = True

    def __post_init__(self) -> None:
        if self.head < 1:
            raise DataError(f"head={self.head} items: the statistics need at least one popular item")
        if not 0.0 <= self.gram_share <= 1.0:
            raise DataError(f"gram_share={self.gram_share} must lie in [0, 1]")

    @property
    def gram_length(self) -> int:
        """Number of cells in the stored upper triangle; none where the Gram part has no share."""
        return self.head * (self.head + 1) // 2 if self.gram_share > 0.0 else 0

    @property
    def length(self) -> int:
        """Number of cells of the whole vector."""
        return self.gram_length + self.head * self.head

    @property
    def gram_weight(self) -> float:
        """Norm given to the Gram part of one user's row."""
        return float(np.sqrt(self.gram_share))

    @property
    def transition_weight(self) -> float:
        """Norm given to the transition part of one user's row."""
        return float(np.sqrt(1.0 - self.gram_share))


def statistics_rows(histories: Sequence[Int], head_position: Int, layout: StatisticsLayout) -> Rows:
    """One row per user: [Gram triangle, transitions] over the head items.

    Args:
        histories: item indices in time order, one array per user.
        head_position: for each catalogue item its position among the head items, or -1.
        layout: widths and weights.

    Returns:
        rows with norm at most 1 each (0 for a user without head items), unless ``layout.normalised`` is False.
    """
    return collect_rows([_statistics_row(head_position[h], layout) for h in histories], layout.length)


def _statistics_row(positions: Int, layout: StatisticsLayout) -> tuple[Int, Float]:
    seen = positions[positions >= 0]
    if len(seen) == 0:
        return np.zeros(0, np.int64), np.zeros(0)
    pairs_at, pairs = _transition_entries(seen, layout)
    if not layout.gram_length:
        return pairs_at, pairs
    gram_at, gram = _gram_entries(np.unique(seen), layout.head)
    indices = np.concatenate([gram_at, pairs_at + layout.gram_length])
    values = np.concatenate([gram * layout.gram_weight, pairs * layout.transition_weight])
    return indices, values


def _gram_entries(items: Int, head: int) -> tuple[Int, Float]:
    """Upper triangle of ``x x^T`` for ``x`` = indicator of ``items`` (sorted) over its norm; off-diagonal times sqrt 2."""
    rows, columns = np.triu_indices(len(items))
    low, high = items[rows], items[columns]
    at = low * head - low * (low - 1) // 2 + (high - low)
    values = np.where(low == high, 1.0, np.sqrt(2.0)) / len(items)
    return at, values


def _transition_entries(seen: Int, layout: StatisticsLayout) -> tuple[Int, Float]:
    cells: list[Int] = []
    weights: list[Float] = []
    for step in range(1, min(layout.orders, len(seen) - 1) + 1):
        cells.append(seen[:-step] * layout.head + seen[step:])
        weights.append(np.full(len(seen) - step, layout.decay ** (step - 1)))
    if not cells:
        return np.zeros(0, np.int64), np.zeros(0)
    at, inverse = np.unique(np.concatenate(cells), return_inverse=True)
    values = np.bincount(inverse, weights=np.concatenate(weights), minlength=len(at)).astype(np.float64)
    return at, values / np.linalg.norm(values) if layout.normalised else values


def split_statistics(total: Float, layout: StatisticsLayout) -> tuple[Float, Float]:
    """Read a released sum back into (Gram ``[K, K]`` symmetric, transitions ``[K, K]`` from row to column).

    Without a Gram part the Gram matrix is zeros.
    """
    if total.shape != (layout.length,):
        raise DataError(
            f"a statistics vector of {total.shape} does not fit {layout.length} cells for K={layout.head}"
        )
    head = layout.head
    gram = np.zeros((head, head))
    if layout.gram_length:
        gram[np.triu_indices(head)] = total[: layout.gram_length] / layout.gram_weight
        off_diagonal = np.triu(gram, 1) / np.sqrt(2.0)
        gram = np.diag(np.diag(gram)) + off_diagonal + off_diagonal.T
    transitions = total[layout.gram_length :].reshape(head, head) / max(layout.transition_weight, 1e-12)
    return gram, transitions
