"""Losses of the next item against sampled negatives that are built on the logistic function: BPR, BCE and
gBCE.

They take scores, and keep to the rules of :mod:`recsys_models.losses`: ``[B]`` numbers, each the mean over
the user's own valid positions; a negative that equals a position's positive is left out there. None corrects
for how the negatives were drawn, because none estimates a sum over the catalogue.

Shapes: B users, L positions, N negatives.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from recsys_models.errors import DataError
from recsys_models.losses import mean_over_own_positions


def bayesian_personalised_ranking(
    positive_BL: Tensor, negative_BLN: Tensor, *, kept_BLN: Tensor, valid_BL: Tensor
) -> Tensor:
    """BPR: each negative should score below the positive.

    Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009, section 4.1::

        loss_t = - mean_n log sigmoid( s(+) - s(n) )

    Without its L2 penalty, which is the optimiser's weight decay. Only differences of scores count.

    Args:
        positive_BL: scores of what came next.
        negative_BLN: scores of the sampled items.
        kept_BLN: False where a negative is left out.
        valid_BL: True where there is a positive.

    Returns:
        loss_B; zero for a user without a valid position.
    """
    pairs_BLN = functional.softplus(negative_BLN - positive_BL.unsqueeze(-1)).masked_fill(~kept_BLN, 0.0)
    return mean_over_own_positions(pairs_BLN.sum(-1) / kept_BLN.sum(-1).clamp(min=1), valid_BL)


def binary_cross_entropy(
    positive_BL: Tensor, negative_BLN: Tensor, *, kept_BLN: Tensor, valid_BL: Tensor
) -> Tensor:
    """BCE: is this what came next, yes or no, for the positive and k negatives.

    For k = 1 half the loss of SASRec (Kang, McAuley, ICDM 2018)::

        loss_t = -( log sigmoid(s(+)) + sum_n log(1 - sigmoid(s(n))) ) / (k + 1)

    With few negatives the probabilities ``sigmoid(s)`` come out too high; see
    :func:`generalised_binary_cross_entropy`. Arguments and result as there.
    """
    return generalised_binary_cross_entropy(
        positive_BL, negative_BLN, kept_BLN=kept_BLN, valid_BL=valid_BL, beta=1.0
    )


def generalised_binary_cross_entropy(
    positive_BL: Tensor, negative_BLN: Tensor, *, kept_BLN: Tensor, valid_BL: Tensor, beta: float
) -> Tensor:
    """Binary cross-entropy that does not overrate the positives (gBCE).

    Petrov, Macdonald, "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with Negative
    Sampling", RecSys 2023::

        loss_t = -( beta log sigmoid(s(+)) + sum_n log(1 - sigmoid(s(n))) ) / (k + 1)

    Among few negatives a positive is commoner than in the catalogue; ``beta < 1`` takes its surplus weight
    back. The theory is for uniformly drawn negatives.

    Args:
        positive_BL: scores of what came next.
        negative_BLN: scores of the sampled items.
        kept_BLN: False where a negative is left out.
        valid_BL: True where there is a positive.
        beta: weight of the positive, from :func:`gbce_beta`.

    Returns:
        loss_B; zero for a user without a valid position.

    Raises:
        DataError: for a ``beta`` outside (0, 1].
    """
    if not 0.0 < beta <= 1.0:
        raise DataError(f"beta must be in (0, 1], got {beta!r}")
    raised_BL = functional.softplus(-positive_BL)
    lowered_BL = functional.softplus(negative_BLN).masked_fill(~kept_BLN, 0.0).sum(-1)
    return mean_over_own_positions((beta * raised_BL + lowered_BL) / (kept_BLN.sum(-1) + 1), valid_BL)


def gbce_beta(*, negatives: int, n_items: int, calibration: float = 0.75) -> float:
    """``beta = 1 - t (1 - a)``, with the sampling rate ``a = negatives / (n_items - 1)`` and ``t`` the
    calibration: the authors' ``a (t (1 - 1/a) + 1/a)``, multiplied out.

    Args:
        negatives: drawn for each positive.
        n_items: size of the catalogue.
        calibration: ``t`` in [0, 1]. 0 is plain BCE; 1 gives calibrated probabilities, but a positive then
            weighs so little that training is slow. The authors use 0.75.

    Raises:
        DataError: for a setting out of range.
    """
    if n_items < 2 or negatives < 1:
        raise DataError(f"need at least 1 negative and 2 items, got {negatives=}, {n_items=}")
    if not 0.0 <= calibration <= 1.0:
        raise DataError(f"calibration must be in [0, 1], got {calibration!r}")
    sampling_rate = min(1.0, negatives / (n_items - 1))
    return 1.0 - calibration * (1.0 - sampling_rate)
