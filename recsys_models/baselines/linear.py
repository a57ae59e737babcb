"""Linear and matrix-factorisation baselines with closed-form steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys_models.baselines.counting import user_item_matrix
from recsys_models.data.sequences import Sequences
from recsys_models.errors import DataError

Histories = Sequence[NDArray[np.int64]]


class EASE:
    """Item-to-item ridge regression with a zero diagonal, in closed form.

    Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, equation 8. Costs one inverse of
    an n_items x n_items matrix.

    Args:
        train: what to fit.
        l2: ridge strength.
        decay: weight of a history item relative to the next newer one when scoring; 1 treats all alike, as
            published.
    """

    def __init__(self, train: Sequences, *, l2: float = 200.0, decay: float = 1.0) -> None:
        if not 0.0 < l2 < np.inf:
            raise DataError(f"l2 must be positive and finite, got {l2!r}")
        interactions = user_item_matrix(train)
        gram = interactions.T @ interactions
        gram[np.diag_indices_from(gram)] += l2
        precision = np.linalg.inv(gram)
        self.weights = -precision / np.diag(precision)
        np.fill_diagonal(self.weights, 0.0)
        self.decay = decay

    def __call__(self, histories: Histories) -> NDArray[np.floating]:
        """Scores [B, n_items]."""
        users = np.zeros((len(histories), self.weights.shape[0]))
        for row, history in enumerate(histories):
            # Oldest first, so that the newest of several events with an item decides its weight.
            users[row, history] = self.decay ** np.arange(history.size)[::-1]
        return users @ self.weights


class ImplicitALS:
    """Matrix factorisation of implicit feedback by alternating least squares; users are folded in from their
    history.

    Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008, with the
    regularisation scaled by frequency of Rendle et al., "Revisiting the Performance of iALS on Item
    Recommendation Benchmarks", RecSys 2022 (equation 3, nu = 1).

    Args:
        train: what to fit.
        dim: width of the factors.
        unobserved_weight: weight of an absent interaction relative to a present one.
        l2: regularisation, times (interactions + unobserved_weight * opposite side's size).
        iterations: sweeps over users and items.
        seed: of the initial item factors.
    """

    def __init__(
        self,
        train: Sequences,
        *,
        dim: int = 16,
        unobserved_weight: float = 0.1,
        l2: float = 0.003,
        iterations: int = 8,
        seed: int = 0,
    ) -> None:
        self.unobserved_weight, self.l2 = unobserved_weight, l2
        interactions = user_item_matrix(train) > 0.0
        by_user = [np.flatnonzero(row) for row in interactions]
        by_item = [np.flatnonzero(column) for column in interactions.T]
        n_items = train.catalogue.n_items
        self.items = np.random.default_rng(seed).normal(0.0, dim**-0.5, (n_items, dim))
        for _ in range(iterations):
            users = self._solve(by_user, self.items)
            self.items = self._solve(by_item, users)

    def __call__(self, histories: Histories) -> NDArray[np.floating]:
        """Scores [B, n_items]."""
        users = self._solve([np.unique(history) for history in histories], self.items)
        return users @ self.items.T

    def _solve(self, present: Histories, other: NDArray[np.float64]) -> NDArray[np.float64]:
        """Least-squares factors of each row from the factors of the other side."""
        everywhere = self.unobserved_weight * (other.T @ other)
        identity = np.eye(other.shape[1])
        solved = np.zeros((len(present), other.shape[1]))
        for row, columns in enumerate(present):
            mine = other[columns]
            strength = self.l2 * (columns.size + self.unobserved_weight * other.shape[0])
            solved[row] = np.linalg.solve(everywhere + mine.T @ mine + strength * identity, mine.sum(axis=0))
        return solved
