from __future__ import annotations

from functools import partial
from math import exp, log, log1p

import pytest
import torch

from recsys_models.errors import DataError
from recsys_models.sampled_losses import ScoreLoss
from recsys_models.sigmoid_losses import (
    bayesian_personalised_ranking,
    binary_cross_entropy,
    gbce_beta,
    generalised_binary_cross_entropy,
)

GBCE = partial(generalised_binary_cross_entropy, beta=0.3)
ALL = pytest.mark.parametrize(
    "loss", [bayesian_personalised_ranking, binary_cross_entropy, GBCE], ids=["bpr", "bce", "gbce"]
)

POSITIVE = torch.tensor([[2.0, -1.0], [0.5, 7.0], [3.0, 3.0]])
NEGATIVE = torch.tensor(
    [[[0.0, 1.0, 9.0], [0.5, -2.0, 1.0]], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[1.0] * 3] * 2]
)
KEPT = torch.ones(3, 2, 3, dtype=torch.bool)
KEPT[0, 0, 2] = False  # the third negative is this position's own positive
VALID = torch.tensor([[True, True], [True, False], [False, False]])


def softplus(x: float) -> float:
    return log1p(exp(x))


def test_bpr_by_hand() -> None:
    loss = bayesian_personalised_ranking(POSITIVE, NEGATIVE, kept_BLN=KEPT, valid_BL=VALID)
    first = (softplus(0.0 - 2.0) + softplus(1.0 - 2.0)) / 2
    second = (softplus(0.5 + 1.0) + softplus(-2.0 + 1.0) + softplus(1.0 + 1.0)) / 3
    third = (softplus(0.5) + softplus(1.5) + softplus(2.5)) / 3
    assert loss.tolist() == pytest.approx([(first + second) / 2, third, 0.0])


def test_bce_by_hand() -> None:
    loss = binary_cross_entropy(POSITIVE, NEGATIVE, kept_BLN=KEPT, valid_BL=VALID)
    first = -(log(1 / (1 + exp(-2.0))) + log(1 - 1 / 2) + log(1 - 1 / (1 + exp(-1.0)))) / 3
    second = (softplus(1.0) + softplus(0.5) + softplus(-2.0) + softplus(1.0)) / 4
    third = (softplus(-0.5) + softplus(1.0) + softplus(2.0) + softplus(3.0)) / 4
    assert loss.tolist() == pytest.approx([(first + second) / 2, third, 0.0])


def test_gbce_weighs_the_positive_by_beta() -> None:
    loss = GBCE(POSITIVE, NEGATIVE, kept_BLN=KEPT, valid_BL=VALID)
    third = (0.3 * softplus(-0.5) + softplus(1.0) + softplus(2.0) + softplus(3.0)) / 4
    assert float(loss[1]) == pytest.approx(third)


@ALL
def test_a_users_loss_does_not_depend_on_the_batch(loss: ScoreLoss) -> None:
    together = loss(POSITIVE, NEGATIVE, kept_BLN=KEPT, valid_BL=VALID)
    for user in range(3):
        own = slice(user, user + 1)
        alone = loss(POSITIVE[own], NEGATIVE[own], kept_BLN=KEPT[own], valid_BL=VALID[own])
        torch.testing.assert_close(together[own], alone)


@ALL
def test_gradients_raise_positives_and_lower_negatives_of_valid_positions_alone(loss: ScoreLoss) -> None:
    positive, negative = POSITIVE.clone().requires_grad_(), NEGATIVE.clone().requires_grad_()
    loss(positive, negative, kept_BLN=KEPT, valid_BL=VALID).sum().backward()
    assert positive.grad is not None
    assert negative.grad is not None
    counted = VALID.unsqueeze(-1) & KEPT
    assert (positive.grad[VALID] < 0).all()
    assert (negative.grad[counted] > 0).all()
    assert not positive.grad[~VALID].any()
    assert not negative.grad[~counted].any()


@ALL
def test_extreme_scores_stay_finite(loss: ScoreLoss) -> None:
    positive = (POSITIVE * -1e4).requires_grad_()
    value = loss(positive, NEGATIVE * 1e4, kept_BLN=KEPT, valid_BL=VALID)
    value.sum().backward()
    assert value.isfinite().all()
    assert positive.grad is not None
    assert positive.grad.isfinite().all()


@ALL
def test_a_position_without_negatives_left_is_finite(loss: ScoreLoss) -> None:
    value = loss(POSITIVE, NEGATIVE, kept_BLN=torch.zeros_like(KEPT), valid_BL=VALID)
    assert value.isfinite().all()


def test_beta_is_the_published_formula() -> None:
    rate, t = 256 / 3415, 0.75
    published = rate * (t * (1 - 1 / rate) + 1 / rate)
    assert gbce_beta(negatives=256, n_items=3416) == pytest.approx(published)
    assert gbce_beta(negatives=256, n_items=3416, calibration=0.0) == 1.0
    assert gbce_beta(negatives=256, n_items=3416, calibration=1.0) == pytest.approx(rate)
    assert gbce_beta(negatives=500, n_items=100, calibration=1.0) == 1.0


def test_full_calibration_recovers_the_true_probability() -> None:
    """Theorem of the paper: with t = 1 the best score's sigmoid is the probability, with BCE it is too high."""
    n_items, negatives, probability = 101, 10, 0.2

    def best(beta: float) -> float:
        # One item among n_items: positive with `probability`, else a uniformly drawn negative.
        score = torch.linspace(-8, 8, 20_001)
        expected = probability * beta * torch.nn.functional.softplus(-score) + (
            1 - probability
        ) * negatives / (n_items - 1) * torch.nn.functional.softplus(score)
        return float(torch.sigmoid(score[expected.argmin()]))

    calibrated = gbce_beta(negatives=negatives, n_items=n_items, calibration=1.0)
    assert best(calibrated) == pytest.approx(probability, abs=1e-3)
    assert best(1.0) > 3 * probability


@pytest.mark.parametrize("beta", [0.0, 1.1, float("nan")])
def test_refuses_an_impossible_weight(beta: float) -> None:
    with pytest.raises(DataError, match="beta must be"):
        generalised_binary_cross_entropy(POSITIVE, NEGATIVE, kept_BLN=KEPT, valid_BL=VALID, beta=beta)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"negatives": 0}, "at least 1 negative"),
        ({"n_items": 1}, "2 items"),
        ({"calibration": 1.1}, "calibration must be"),
        ({"calibration": float("nan")}, "calibration must be"),
    ],
)
def test_refuses_bad_settings(change: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        gbce_beta(**{"negatives": 4, "n_items": 10, **change})
