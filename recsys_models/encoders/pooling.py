"""Recency-weighted mean of a history, at every position at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recsys_models.errors import DataError


class RecencyPool(nn.Module):
    """``u_t = sum_s w(t - s) x_s / sum_s w(t - s)`` over the valid items ``s <= t``, with learnable ``log
    w``.

    The weights start at ``w(age) = decay ** age``, so the untrained pool is the projection encoder of linear
    recommenders with recency decay. They live in an ``nn.Embedding`` over ages, called with one row of ids
    per user, because that is what makes their per-user gradients exact.

    Args:
        max_length: longest history, in items.
        decay: weight of an item relative to the next newer one, in (0, 1].
    """

    def __init__(self, max_length: int, *, decay: float = 0.7) -> None:
        super().__init__()
        if not 0.0 < decay <= 1.0:
            raise DataError(f"decay must be in (0, 1], got {decay!r}")
        self.log_weight = nn.Embedding(max_length, 1)
        with torch.no_grad():
            ages = torch.arange(max_length, dtype=torch.float32)
            self.log_weight.weight.copy_((ages * math.log(decay)).unsqueeze(1))

    def forward(self, items_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Pools ``items_BLD``; rows of masked positions are finite but meaningless.

        Args:
            items_BLD: item vectors, zero where masked.
            mask_BL: True where there is an item; right-aligned.

        Returns:
            pooled_BLD.
        """
        batch, length = mask_BL.shape
        # repeat, not expand: Opacus needs contiguous ids.
        ages_BL = torch.arange(length, device=mask_BL.device).repeat(batch, 1)
        log_weight_BL = self.log_weight(ages_BL).squeeze(-1)
        age_LL = _ages(length, mask_BL.device)
        scores_BLL = log_weight_BL[:, age_LL.clamp(min=0)]
        scores_BLL = scores_BLL.masked_fill(~causal_mask(mask_BL), -torch.inf)
        return torch.softmax(scores_BLL, dim=-1) @ items_BLD


def causal_mask(mask_BL: Tensor) -> Tensor:
    """Which items each position may look at, ``allowed_BLL[b, t, s]``: valid items ``s <= t``, and itself.

    A position always sees itself, even where masked, so that no softmax runs over an empty set (which would
    be NaN).
    """
    length = mask_BL.shape[1]
    age_LL = _ages(length, mask_BL.device)
    return ((age_LL >= 0) & mask_BL.unsqueeze(1)) | (age_LL == 0)


def _ages(length: int, device: torch.device) -> Tensor:
    """``age[t, s] = t - s``; negative in the future."""
    positions = torch.arange(length, device=device)
    return positions.unsqueeze(1) - positions.unsqueeze(0)
