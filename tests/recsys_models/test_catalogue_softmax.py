from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_models import catalogue_softmax
from recsys_models.catalogue_softmax import catalogue_cross_entropy
from recsys_models.errors import DataError


@pytest.fixture
def case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    users = torch.randn(200, 5, dtype=torch.float64)
    return (
        users,
        2 * torch.randn(30, 5, dtype=torch.float64),
        torch.randint(0, 30, (200,)),
        torch.rand(200).double(),
    )


@pytest.mark.parametrize("block_numbers", [1, 30 * 64, 30 * 77, 1 << 20])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradients_are_those_of_the_full_softmax(
    case: tuple[Tensor, Tensor, Tensor, Tensor],
    block_numbers: int,
    weighted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalogue_softmax, "_BLOCK_NUMBERS", block_numbers)
    users, items, positives, weights = case
    ours = [t.clone().requires_grad_() for t in (users, items)]
    plain = [t.clone().requires_grad_() for t in (users, items)]
    each = functional.cross_entropy(plain[0] @ plain[1].T, positives, reduction="none")
    expected = (each * weights).sum() if weighted else each.mean()
    found = catalogue_cross_entropy(*ours, positives, weights if weighted else None)
    torch.testing.assert_close(found, expected)
    (3.0 * found).backward()
    (3.0 * expected).backward()
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_a_frozen_catalogue_takes_no_gradient(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    users, items, positives, _ = case
    users = users.clone().requires_grad_()
    catalogue_cross_entropy(users, items, positives).backward()
    assert users.grad is not None
    assert items.grad is None


def test_large_scores_do_not_overflow() -> None:
    users = nn.Parameter(torch.full((2, 1), 1e3))
    loss = catalogue_cross_entropy(users, torch.tensor([[1.0], [-1.0], [0.5]]), torch.tensor([0, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(1e3)  # the mean of 0 and 2000
    assert users.grad is not None
    assert bool(users.grad.isfinite().all())


def test_no_position_is_no_loss() -> None:
    users = torch.zeros(0, 3, requires_grad=True)
    loss = catalogue_cross_entropy(users, torch.ones(4, 3), torch.zeros(0, dtype=torch.long))
    assert loss.item() == 0.0


@pytest.mark.parametrize(
    ("users", "items", "positives", "weights", "message"),
    [
        (torch.ones(2, 3), torch.ones(4, 2), torch.zeros(2).long(), None, r"\[P, D\] and \[N, D\]"),
        (torch.ones(2, 3), torch.ones(4, 3), torch.zeros(3).long(), None, "one positive for each of 2"),
        (torch.ones(2, 3), torch.ones(4, 3), torch.zeros(2).long(), torch.ones(1), "one weight for each"),
    ],
)
def test_refuses_what_does_not_fit(
    users: Tensor, items: Tensor, positives: Tensor, weights: Tensor | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        catalogue_cross_entropy(users, items, positives, weights)
