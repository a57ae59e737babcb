"""Negatives from the catalogue: the only negatives that leave a user's gradient a function of that user
alone.

In-batch negatives would put other users' items into a user's loss, and clipping would no longer bound one
user. So negatives come from a distribution that is public (uniform) or was released with differential privacy
(popularity), and the log-q correction uses that same distribution, never raw counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys_models.data.sequences import Sequences
from recsys_models.errors import DataError

FULL_SOFTMAX_ITEMS = 10_000
"""Most items that a softmax over all of them is offered for: one user's gradient then has a row for each."""


class CatalogueSampler:
    """Draws item indices with replacement from a known distribution ``q``.

    Args:
        n_items: size of the catalogue.
        popularity: public or differentially private counts [n_items]; negative noise is read as zero. None:
            uniform.
        uniform_share: share of ``q`` that is uniform, so that every item can be drawn; in (0, 1].

    Raises:
        DataError: if the arguments do not describe a distribution.
    """

    def __init__(
        self,
        n_items: int,
        popularity: NDArray[np.floating] | NDArray[np.integer] | None = None,
        *,
        uniform_share: float = 0.25,
    ) -> None:
        if n_items < 1:
            raise DataError(f"n_items must be at least 1, got {n_items}")
        if not 0.0 < uniform_share <= 1.0:
            raise DataError(f"uniform_share must be in (0, 1], got {uniform_share!r}")
        probability = np.full(n_items, 1.0 / n_items)
        if popularity is not None:
            probability = _mix(popularity, probability, uniform_share)
        self.n_items = n_items
        self.probability: NDArray[np.float64] = probability
        self._cumulative = np.cumsum(probability)

    def sample(self, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """One item per uniform number in [0, 1), by inverse cumulative distribution; shape kept."""
        if uniform.size and not (uniform.min() >= 0.0 and uniform.max() < 1.0):
            raise DataError("uniform numbers must lie in [0, 1)")
        drawn = np.searchsorted(self._cumulative, uniform * self._cumulative[-1], side="right")
        return np.minimum(drawn, self.n_items - 1).astype(np.int64)

    def log_expected_count(self, item_ids: NDArray[np.int64], draws: int) -> NDArray[np.float32]:
        """``log(draws * q(item))``, the log-q correction of a sample of ``draws`` items."""
        if draws < 1:
            raise DataError(f"draws must be at least 1, got {draws}")
        return np.log(draws * self.probability[item_ids]).astype(np.float32)


class UntouchedSampler:
    """Draws, for a user, from the items she has not in a given log, uniformly with replacement.

    Training draws from what is not in the *training* log, so that held-out items can be drawn like any other. A sampler
    built on the whole log, as several published harnesses have it, never draws them, and so tells a model which they are.

    Args:
        touched: the log whose items are left out.

    Raises:
        DataError: if a user has every item of the catalogue.
    """

    def __init__(self, touched: Sequences) -> None:
        n_items = touched.catalogue.n_items
        pairs = np.unique(touched.user_of_event() * n_items + touched.items)
        owner, item = pairs // n_items, pairs % n_items
        counts = np.bincount(owner, minlength=touched.n_users)
        self._starts = np.cumsum(counts) - counts
        self.free: NDArray[np.int64] = n_items - counts
        if np.any(self.free < 1):
            raise DataError(f"a user has all {n_items} items of the catalogue: nothing is left to draw")
        # How many untouched items lie before each touched one; kept apart by user so that one search serves all.
        place = np.arange(len(pairs)) - self._starts[owner]
        self._stride = n_items + 1
        self._before = item - place + owner * self._stride

    def sample(self, users: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """One item for each user index and uniform number in [0, 1)."""
        picked = np.minimum((uniform * self.free[users]).astype(np.int64), self.free[users] - 1)
        behind = np.searchsorted(self._before, picked + users * self._stride, side="right")
        drawn: NDArray[np.int64] = picked + behind - self._starts[users]
        return drawn


def _mix(
    popularity: NDArray[np.floating] | NDArray[np.integer], uniform: NDArray[np.float64], share: float
) -> NDArray[np.float64]:
    counts = np.asarray(popularity, dtype=np.float64)
    if counts.shape != uniform.shape or not np.all(np.isfinite(counts)):
        raise DataError(f"popularity must be finite and of shape {uniform.shape}, got shape {counts.shape}")
    counts = np.maximum(counts, 0.0)
    total = counts.sum()
    if total == 0.0:
        return uniform
    return (1.0 - share) * counts / total + share * uniform
