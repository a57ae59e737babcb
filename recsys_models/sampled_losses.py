"""Losses against sampled negatives, by name, all called alike."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from torch import Tensor

from recsys_models.errors import DataError
from recsys_models.losses import sampled_scores, sampled_softmax
from recsys_models.sigmoid_losses import (
    bayesian_personalised_ranking,
    binary_cross_entropy,
    gbce_beta,
    generalised_binary_cross_entropy,
)

SAMPLED_LOSSES = ("sampled-softmax", "bpr", "bce", "gbce")
LOSSES = ("sampled-softmax", "softmax", *SAMPLED_LOSSES[1:])
"""With the full softmax, which takes the whole catalogue instead of samples of it."""


class SampledLoss(Protocol):
    """See :func:`recsys_models.losses.sampled_softmax`, which is one."""

    def __call__(
        self,
        users_BLD: Tensor,
        positives_BLD: Tensor,
        negatives_BND: Tensor,
        *,
        positive_ids_BL: Tensor,
        negative_ids_BN: Tensor,
        log_expected_count_BN: Tensor,
        valid_BL: Tensor,
    ) -> Tensor:
        """Returns loss_B; zero for a user without a valid position."""
        ...


class ScoreLoss(Protocol):
    """See :func:`recsys_models.sigmoid_losses.binary_cross_entropy`, which is one."""

    def __call__(
        self, positive_BL: Tensor, negative_BLN: Tensor, *, kept_BLN: Tensor, valid_BL: Tensor
    ) -> Tensor:
        """Returns loss_B; zero for a user without a valid position."""
        ...


def sampled_loss(name: str, *, negatives: int, n_items: int, calibration: float = 0.75) -> SampledLoss:
    """The loss of that name.

    Args:
        name: one of :data:`SAMPLED_LOSSES`; "sampled-softmax" is the default everywhere.
        negatives: drawn for each position; counts for "gbce" only.
        n_items: size of the catalogue they are drawn from; counts for "gbce" only.
        calibration: ``t`` of "gbce".

    Raises:
        DataError: for an unknown name, or settings that gBCE cannot use.
    """
    if name == "sampled-softmax":
        return sampled_softmax
    if name == "bpr":
        return _OnScores(bayesian_personalised_ranking)
    if name == "bce":
        return _OnScores(binary_cross_entropy)
    if name == "gbce":
        beta = gbce_beta(negatives=negatives, n_items=n_items, calibration=calibration)
        return _OnScores(partial(generalised_binary_cross_entropy, beta=beta))
    raise DataError(f"unknown loss {name!r}; choose one of {', '.join(SAMPLED_LOSSES)}")


class _OnScores:
    """A loss of scores, called with vectors."""

    def __init__(self, loss: ScoreLoss) -> None:
        self._loss = loss

    def __call__(
        self,
        users_BLD: Tensor,
        positives_BLD: Tensor,
        negatives_BND: Tensor,
        *,
        positive_ids_BL: Tensor,
        negative_ids_BN: Tensor,
        log_expected_count_BN: Tensor,
        valid_BL: Tensor,
    ) -> Tensor:
        positive_BL, negative_BLN, kept_BLN = sampled_scores(
            users_BLD, positives_BLD, negatives_BND, positive_ids_BL, negative_ids_BN
        )
        return self._loss(positive_BL, negative_BLN, kept_BLN=kept_BLN, valid_BL=valid_BL)
