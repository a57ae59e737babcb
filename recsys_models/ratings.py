"""Explicit ratings beside the ranking: a head that predicts them, and its squared error."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recsys_models.errors import DataError
from recsys_models.losses import mean_over_own_positions


class RatingHead(nn.Module):
    """Rating of an item by a user, from their vectors.

    ``low + (high - low) sigmoid(w . [u * v, v] + b)``: agreement of user and item, and how well the item is
    liked by everybody. The bounds are those of the public scale, so no prediction leaves it; untrained, the
    head says the middle.

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

    def forward(self, users_BLD: Tensor, items_BLD: Tensor) -> Tensor:
        """Returns rating_BL of the item at each position."""
        logit_BL = self.linear(torch.cat([users_BLD * items_BLD, items_BLD], dim=-1)).squeeze(-1)
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
