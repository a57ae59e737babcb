from __future__ import annotations

import numpy as np
import pytest
import torch

from privacy.user_gradients import check_engine
from privacy.user_gradients.engine import LossFn
from recsys_models.errors import DataError
from recsys_models.ratings import RatingBiases, RatingHead, mean_squared_error


def test_squared_error_by_hand() -> None:
    predicted = torch.tensor([[4.0, 3.0], [1.0, 2.0], [5.0, 5.0]])
    rating = torch.tensor([[5.0, 1.0], [2.0, torch.nan], [torch.nan, torch.nan]])
    loss = mean_squared_error(predicted, rating, valid_BL=~rating.isnan())
    assert loss.tolist() == [2.5, 1.0, 0.0]


def test_missing_ratings_give_no_gradient() -> None:
    predicted = torch.tensor([[4.0, 3.0]], requires_grad=True)
    rating = torch.tensor([[5.0, torch.nan]])
    mean_squared_error(predicted, rating, valid_BL=~rating.isnan()).sum().backward()
    assert predicted.grad is not None
    assert predicted.grad.tolist() == [[-2.0, 0.0]]


def test_an_untrained_head_says_the_middle_and_no_head_leaves_the_scale() -> None:
    torch.manual_seed(0)
    head = RatingHead(4, low=1.0, high=5.0)
    users, items = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    assert head(users, items).tolist() == [[3.0] * 3] * 2
    with torch.no_grad():
        head.linear.weight.normal_(std=100.0)
    assert (head(users, items).detach() - 3.0).abs().max() <= 2.0


def test_learns_what_users_and_items_agree_on() -> None:
    torch.manual_seed(0)
    head = RatingHead(4, low=1.0, high=5.0)
    users, items = torch.randn(64, 1, 4), torch.randn(64, 1, 4)
    rating = 3.0 + torch.tanh((users * items).sum(-1))
    valid = torch.ones(64, 1, dtype=torch.bool)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.05)
    losses = []
    for _ in range(80):
        loss = mean_squared_error(head(users, items), rating, valid_BL=valid).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.25 * losses[0]


def test_per_user_gradients_are_exact() -> None:
    torch.manual_seed(0)
    item_ids = torch.randint(0, 9, (5, 3))
    ratings, users = torch.randint(1, 6, (5, 3)).float(), torch.randn(5, 3, 4)

    def losses_of(rows: torch.Tensor) -> LossFn:
        valid = torch.ones(len(rows), 3, dtype=torch.bool)
        return lambda head, vectors: mean_squared_error(
            head(users[rows], vectors), ratings[rows], valid_BL=valid
        )

    found = check_engine(RatingHead(4, low=1.0, high=5.0), torch.randn(9, 4), item_ids, losses_of, 0.05)
    assert found.relative_error < 1e-5


@pytest.mark.parametrize(("low", "high"), [(5.0, 1.0), (1.0, 1.0), (1.0, float("nan")), (0.0, float("inf"))])
def test_refuses_what_is_no_scale(low: float, high: float) -> None:
    with pytest.raises(DataError, match="rating scale"):
        RatingHead(4, low=low, high=high)


def test_an_untrained_head_says_what_it_starts_from_within_the_scale() -> None:
    head = RatingHead(3, low=1.0, high=5.0)
    start = torch.tensor([[1.5, 3.0, 4.9]])
    vectors = torch.randn(1, 3, 3)
    assert torch.allclose(head(vectors, vectors, start), start, atol=1e-5)
    beyond = head(vectors, vectors, torch.tensor([[-9.0, 3.0, 99.0]]))
    assert ((beyond > 1.0) & (beyond < 5.0)).all()


def test_biases_by_hand() -> None:
    items, values = np.array([0, 0, 1, 2]), np.array([5.0, 3.0, 2.0, np.nan])
    biases = RatingBiases.of(items, values, 4)
    mean = 10.0 / 3.0
    assert biases.mean == pytest.approx(mean)
    assert biases.items == pytest.approx([(8.0 - 2 * mean) / 7, (2.0 - mean) / 6, 0.0, 0.0])
    # As others rated it: a user's own rating does not predict itself.
    assert biases.without(np.array([0, 1]), np.array([5.0, 2.0])) == pytest.approx([(3.0 - mean) / 6, 0.0])
    assert biases.user(np.array([1.0, 2.0])) == pytest.approx([1.0 / 6, 3.0 / 7])
    with pytest.raises(DataError, match="no rating"):
        RatingBiases.of(items, values * np.nan, 4)
