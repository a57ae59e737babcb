"""Alternating least squares on noisy sums: the central, differentially private matrix factorisation of the field.

Chien, Jain, Krichene, Rendle, Song, Thakurta, Zhang, "Private Alternating Least Squares", ICML 2021, Algorithm 1, for
implicit feedback. The choice of head items by noisy counts is theirs as well (section 5). A
trusted curator sees everybody's log. What it releases are item factors; every user's own factor is solved
from them and from her history, by herself (joint differential privacy).

The noise is passed in: this module knows what a user can change (at most 1 in the L2 norm of each named sum), and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_models.data.sequences import Sequences
from recsys_models.errors import DataError

Histories = Sequence[NDArray[np.int64]]
Noise = Callable[[str, tuple[int, ...]], NDArray[np.float64]]
"""``noise(kind, shape)``: independent Gaussian noise for a sum of kind ``"counts"``, ``"gram"``, ``"matrices"`` or
``"vectors"``, each of L2 sensitivity 1 under adding or removing a user."""


@dataclass(frozen=True)
class DpalsSettings:
    """What is tuned.

    Attributes:
        head: how many of the most popular items, by noisy counts, get factors; the others rank below by noisy counts.
        dim: width of the factors.
        steps: times the item side is released.
        most_items: newest distinct items of a user that count.
        user_l2: regularisation of a user's factor, relative to the mean of the diagonal of her system's shared part.
        item_l2: regularisation of an item's factor; holds down what is mostly noise.
        unobserved_weight: weight of an absent interaction relative to a present one.
        decay: weight of a history item relative to the next newer one when a user is scored.
    """

    head: int = 400
    dim: int = 16
    steps: int = 2
    most_items: int = 50
    user_l2: float = 0.1
    item_l2: float = 1.0
    unobserved_weight: float = 0.1
    decay: float = 1.0

    def __post_init__(self) -> None:
        if min(self.head, self.dim, self.steps, self.most_items) < 1:
            raise DataError(f"head, dim, steps and most_items must be at least 1: {self}")
        positive = 0.0 < self.user_l2 < np.inf and 0.0 < self.item_l2 < np.inf
        if not (positive and 0.0 <= self.unobserved_weight < np.inf and 0.0 < self.decay <= 1.0):
            raise DataError(
                f"user_l2 and item_l2 must be positive, unobserved_weight not negative, decay in (0, 1]: {self}"
            )


class DPALS:
    """Item factors from noisy sums.

    Each step (Algorithm 1, lines 5 to 12): every user's factor ``u`` is solved from the item factors and clipped to norm 1;
    with weights ``w = 1 / sqrt(n)`` on her n counted items, the curator releases for each head item
    ``A = sum w u u'`` and ``b = sum w u``, and ``K = sum u u'`` over all users, all with noise; then
    ``v = (A + c K + item_l2 I)^-1 b``, with A and K first made positive semi-definite. One user's contribution to the A of all
    items together has norm ``sqrt(sum w^2) |u|^2 <= 1``, likewise b and K.

    Args:
        train: everybody's log.
        settings: see :class:`DpalsSettings`.
        noise: see :data:`Noise`.
        seed: of the public start.
    """

    def __init__(self, train: Sequences, settings: DpalsSettings, noise: Noise, *, seed: int = 0) -> None:
        self.settings = settings
        weights = newest_items_matrix(train, settings.most_items)
        self.counts = noisy_popularity(weights, noise)
        head = min(settings.head, train.catalogue.n_items)
        # Sorted by count, ties by index: the choice is made on what was released.
        self.head = np.sort(np.argsort(-self.counts, kind="stable")[:head])
        self._column = np.full(train.catalogue.n_items, -1)
        self._column[self.head] = np.arange(head)
        start = np.random.default_rng(seed).normal(0.0, settings.dim**-0.5, (head, settings.dim))
        self.items: NDArray[np.float64] = start
        present = weights[:, self.head]
        present = _rows_to_unit_norm(present)
        for _ in range(settings.steps):
            users = _clipped(self._solve((present > 0.0).astype(np.float64)))
            self.items = self._released(present, users, noise)

    def __call__(self, histories: Histories) -> NDArray[np.floating]:
        """Scores [B, n_items]; items outside the head below all others, by noisy counts."""
        weights = np.zeros((len(histories), self.head.size))
        for row, history in enumerate(histories):
            columns = self._column[history]
            weight = self.settings.decay ** np.arange(history.size, dtype=np.float64)[::-1]
            # Oldest first, so that the newest of several events with an item decides its weight.
            weights[row, columns[columns >= 0]] = weight[columns >= 0]
        found = self._solve(weights) @ self.items.T
        spread = np.ptp(self.counts) + 1.0
        scores = np.tile((self.counts - self.counts.max()) / spread, (len(histories), 1))
        scores += found.min(axis=1, keepdims=True) - 1.0
        scores[:, self.head] = found
        return scores

    def _solve(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Least-squares user factors from weighted present items, [B, dim]."""
        dim = self.items.shape[1]
        shared = self.items.T @ self.items
        ridge = self.settings.user_l2 * np.trace(shared) / dim + np.finfo(np.float64).tiny
        everywhere = self.settings.unobserved_weight * shared + ridge * np.eye(dim)
        outer = (self.items[:, :, None] * self.items[:, None, :]).reshape(-1, dim * dim)
        grams = (weights @ outer).reshape(-1, dim, dim) + everywhere
        solved: NDArray[np.float64] = np.linalg.solve(grams, (weights @ self.items)[..., None])[..., 0]
        return solved

    def _released(
        self, weights: NDArray[np.float64], users: NDArray[np.float64], noise: Noise
    ) -> NDArray[np.float64]:
        """The item side of one step, from noisy sums alone."""
        dim = users.shape[1]
        matrices, gram, vectors = item_sums(weights, users)
        matrices = matrices + _symmetric(noise, "matrices", len(self.head), dim)
        gram = gram + _symmetric(noise, "gram", 1, dim)[0]
        vectors = vectors + noise("vectors", vectors.shape)
        # Weights of present items are about 1 / sqrt(n): an absent one is measured in the same coin.
        scale = self.settings.unobserved_weight / np.sqrt(self.settings.most_items)
        systems = _semidefinite(matrices) + scale * _semidefinite(gram[None])
        systems += self.settings.item_l2 * np.eye(dim)
        solved: NDArray[np.float64] = np.linalg.solve(systems, vectors[..., None])[..., 0]
        return solved


def item_sums(
    weights: NDArray[np.float64], users: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What a step sums over users: ``A`` [n_items, dim, dim], ``K`` [dim, dim] and ``b`` [n_items, dim].

    One user with a row of weights of norm at most 1 and a factor of norm at most 1 adds at most norm 1 to each.
    """
    dim = users.shape[1]
    outer = (users[:, :, None] * users[:, None, :]).reshape(-1, dim * dim)
    return (weights.T @ outer).reshape(-1, dim, dim), users.T @ users, weights.T @ users


def newest_items_matrix(train: Sequences, most_items: int) -> NDArray[np.float64]:
    """[n_users, n_items], each user's newest distinct items with equal weight, rows of norm 1 (or 0)."""
    matrix = np.zeros((train.n_users, train.catalogue.n_items))
    for user in range(train.n_users):
        newest = list(dict.fromkeys(train.of(user)[::-1].tolist()))[:most_items]
        matrix[user, newest] = 1.0
    return _rows_to_unit_norm(matrix)


def noisy_popularity(weights: NDArray[np.float64], noise: Noise) -> NDArray[np.float64]:
    """Sum of users' rows, each of norm at most 1, with noise of kind ``"counts"``: [n_items]."""
    counts: NDArray[np.float64] = weights.sum(axis=0) + noise("counts", (weights.shape[1],))
    return counts


def _rows_to_unit_norm(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.divide(matrix, norms, out=np.zeros_like(matrix), where=norms > 0.0)


def _clipped(users: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of norm at most 1."""
    return users / np.maximum(1.0, np.linalg.norm(users, axis=1, keepdims=True))


def _symmetric(noise: Noise, kind: str, count: int, dim: int) -> NDArray[np.float64]:
    """Symmetric noise [count, dim, dim] for a sum whose sensitivity is in the Frobenius norm.

    The mean of a square of noise and its transpose: off the diagonal half the variance, which is independent Gaussian
    noise in the orthonormal coordinates of symmetric matrices.
    """
    square = noise(kind, (count, dim, dim))
    return (square + square.transpose(0, 2, 1)) / 2.0


def _semidefinite(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nearest positive semi-definite matrices, by dropping negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrices)
    return (vectors * np.maximum(values, 0.0)[:, None, :]) @ vectors.transpose(0, 2, 1)
