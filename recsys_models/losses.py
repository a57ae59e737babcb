"""Losses of one user, from that user's own data: ``[B]`` numbers that do not depend on who else is in the
batch.

Each is the mean over the user's own valid positions and never over the batch: a loss divided by the batch's
number of positions would let every user change every other user's gradient.

Shapes: B users, L positions, N negatives, C candidates, D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sampled_softmax(
    users_BLD: Tensor,
    positives_BLD: Tensor,
    negatives_BND: Tensor,
    *,
    positive_ids_BL: Tensor,
    negative_ids_BN: Tensor,
    log_expected_count_BN: Tensor,
    valid_BL: Tensor,
) -> Tensor:
    """Softmax over the positive and sampled negatives, corrected for how the negatives were drawn.

    With ``s`` a dot product and ``E[n]`` how often item ``n`` is expected in the sample::

        loss_t = -s(+) + log( exp s(+) + sum_n exp( s(n) - log E[n] ) )

    The sum is an unbiased estimate of the softmax' normaliser over all other items (Bengio, Senecal 2008,
    importance sampling), so the loss tends to :func:`full_softmax` as N grows. A negative that equals the
    positive of a position is left out there, and the positive, which is there with certainty, takes no
    correction (Khrylchenko et al., "Correcting the LogQ Correction", 2025).

    Args:
        users_BLD: user vectors.
        positives_BLD: vectors of the items that came next.
        negatives_BND: vectors of the sampled items, [B, N, D], or [N, D] if shared by all users.
        positive_ids_BL: item indices of the positives.
        negative_ids_BN: item indices of the negatives, [B, N] or [N].
        log_expected_count_BN: log of the expected number of draws of each negative, [B, N] or [N].
        valid_BL: True where there is a positive.

    Returns:
        loss_B; zero for a user without a valid position.
    """
    positive_BL, negative_BLN, kept_BLN = sampled_scores(
        users_BLD, positives_BLD, negatives_BND, positive_ids_BL, negative_ids_BN
    )
    negative_BLN = negative_BLN - _batched(log_expected_count_BN, 2).unsqueeze(1)
    negative_BLN = negative_BLN.masked_fill(~kept_BLN, -torch.inf)
    logits_BLC = torch.cat([positive_BL.unsqueeze(-1), negative_BLN], dim=-1)
    return mean_over_own_positions(torch.logsumexp(logits_BLC, dim=-1) - positive_BL, valid_BL)


def full_softmax(
    users_BLD: Tensor, candidates_BCD: Tensor, *, positive_columns_BL: Tensor, valid_BL: Tensor
) -> Tensor:
    """Softmax cross-entropy over all candidates.

    Args:
        users_BLD: user vectors.
        candidates_BCD: the catalogue's vectors, [B, C, D], or [C, D] if shared by all users.
        positive_columns_BL: which candidate came next.
        valid_BL: True where there is a positive.

    Returns:
        loss_B; zero for a user without a valid position.
    """
    logits_BLC = users_BLD @ _batched(candidates_BCD, 3).transpose(1, 2)
    columns_BL = positive_columns_BL.masked_fill(~valid_BL, 0)
    positive_BL = logits_BLC.gather(-1, columns_BL.unsqueeze(-1)).squeeze(-1)
    return mean_over_own_positions(torch.logsumexp(logits_BLC, dim=-1) - positive_BL, valid_BL)


def sampled_scores(
    users_BLD: Tensor,
    positives_BLD: Tensor,
    negatives_BND: Tensor,
    positive_ids_BL: Tensor,
    negative_ids_BN: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Dot products of what came next and of the sampled items; see :func:`sampled_softmax`.

    Returns:
        positive_BL, negative_BLN, and kept_BLN: False where a negative is the position's own positive.
    """
    positive_BL = (users_BLD * positives_BLD).sum(-1)
    negative_BLN = users_BLD @ _batched(negatives_BND, 3).transpose(1, 2)
    kept_BLN = _batched(negative_ids_BN, 2).unsqueeze(1) != positive_ids_BL.unsqueeze(-1)
    return positive_BL, negative_BLN, kept_BLN


def mean_over_own_positions(values_BL: Tensor, valid_BL: Tensor) -> Tensor:
    """Mean of each user's valid positions; zero for a user who has none."""
    total_B = values_BL.masked_fill(~valid_BL, 0.0).sum(dim=1)
    return total_B / valid_BL.sum(dim=1).clamp(min=1)


def _batched(tensor: Tensor, dims: int) -> Tensor:
    """Adds the batch axis to a tensor that all users share."""
    return tensor if tensor.dim() == dims else tensor.unsqueeze(0)
