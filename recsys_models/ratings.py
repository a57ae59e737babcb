"""Explicit ratings beside the ranking: a head that predicts them, and its squared error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys_models.errors import DataError
from recsys_models.losses import mean_over_own_positions

_SHRINKAGE = 5.0
_EDGE = 0.01  # a start is kept this share of the scale away from its ends, where a sigmoid no longer moves


@dataclass(frozen=True)
class RatingBiases:
    """Mean, and how far items and users are from it (Koren, "Factor in the Neighbors", TKDD 2010, section 2.1).

    Deviations are shrunk as if five more ratings had been average. A user's deviation is computed from her own ratings
    alone, whenever it is needed, so that no table of users exists.

    Attributes:
        mean: of all ratings.
        sums: float64 [n_items], of each item's ratings less the mean.
        counts: int64 [n_items].
    """

    mean: float
    sums: NDArray[np.float64]
    counts: NDArray[np.int64]

    @staticmethod
    def of(items: NDArray[np.int64], values: NDArray[np.float64], n_items: int) -> RatingBiases:
        """From ratings; those that are NaN do not count.

        Raises:
            DataError: there is no rating.
        """
        rated = np.isfinite(values)
        if not rated.any():
            raise DataError("no rating to take a mean of")
        mean = float(values[rated].mean())
        sums = np.bincount(items[rated], values[rated] - mean, minlength=n_items).astype(np.float64)
        return RatingBiases(mean, sums, np.bincount(items[rated], minlength=n_items))

    @property
    def items(self) -> NDArray[np.float64]:
        """Deviation of each item, [n_items]."""
        return self.sums / (self.counts + _SHRINKAGE)

    def without(self, items: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Deviations of these items as the others rated them, for ratings that ``of`` has counted."""
        counts = np.maximum(self.counts[items] - 1, 0)
        return (self.sums[items] - (values - self.mean)) / (counts + _SHRINKAGE)

    def user(self, residuals: NDArray[np.float64]) -> NDArray[np.float64]:
        """A user's deviation after each of her ratings, from what is left of them without mean and item."""
        return np.cumsum(residuals) / (np.arange(1, len(residuals) + 1) + _SHRINKAGE)


class RatingHead(nn.Module):
    """Rating of an item by a user, from their vectors.

    ``low + (high - low) sigmoid(s + w . [u * v, v] + b)``: agreement of user and item, and how well the item is
    liked by everybody, on top of a start ``s``, such as :class:`RatingBiases`. The bounds are those of the public scale,
    so no prediction leaves it; untrained, the head says what it starts from, or the middle.

    Args:
        dim: width of user and item vectors.
        low: lowest rating of the scale.
        high: highest.

    Raises:
        DataError: if the scale is not a finite interval.
    """

    def __init__(self, dim: int, *, low: float, high: float) -> None:
        super().__init__()
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise DataError(f"a rating scale needs finite bounds, low < high, got {low!r} and {high!r}")
        self.low = low
        self.high = high
        self.linear = nn.Linear(2 * dim, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, users_BLD: Tensor, items_BLD: Tensor, start_BL: Tensor | None = None) -> Tensor:
        """Returns rating_BL of the item at each position, starting from the ratings ``start_BL``."""
        logit_BL = self.linear(torch.cat([users_BLD * items_BLD, items_BLD], dim=-1)).squeeze(-1)
        if start_BL is not None:
            share_BL = ((start_BL - self.low) / (self.high - self.low)).clamp(_EDGE, 1.0 - _EDGE)
            logit_BL = logit_BL + torch.logit(share_BL)
        return self.low + (self.high - self.low) * torch.sigmoid(logit_BL)


def mean_squared_error(predicted_BL: Tensor, rating_BL: Tensor, *, valid_BL: Tensor) -> Tensor:
    """Squared error of each user's ratings, in squared units of the scale.

    Args:
        predicted_BL: from :class:`RatingHead`.
        rating_BL: what was given; may be NaN where there is none.
        valid_BL: True where there is a rating.

    Returns:
        loss_B, the mean over the user's own ratings; zero for a user without any.
    """
    # Filled before squaring: the gradient of a discarded NaN would be NaN.
    error_BL = predicted_BL - torch.where(valid_BL, rating_BL, predicted_BL.detach())
    return mean_over_own_positions(error_BL.square(), valid_BL)
