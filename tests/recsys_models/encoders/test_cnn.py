from __future__ import annotations

import pytest
import torch

from recsys_models.encoders.cnn import CnnTrunk, dilations_of


@pytest.mark.parametrize(
    ("layers", "max_length", "expected"),
    [(6, 50, [1, 2, 4, 8, 16, 32]), (7, 50, [1, 2, 4, 8, 16, 32, 1]), (4, 5, [1, 2, 4, 1]), (2, 1, [1, 1])],
)
def test_dilations_double_and_stay_within_a_history(
    layers: int, max_length: int, expected: list[int]
) -> None:
    assert dilations_of(layers, max_length) == expected


@pytest.mark.parametrize(("blocks", "sees"), [(1, 7), (2, 31)])
def test_a_trunk_sees_as_far_back_as_it_says(blocks: int, sees: int) -> None:
    torch.manual_seed(0)
    trunk = CnnTrunk(4, max_length=40, blocks=blocks)
    items = torch.randn(1, 40, 4, requires_grad=True)
    trunk(items, torch.ones(1, 40, dtype=torch.bool))[0, -1].square().sum().backward()
    assert items.grad is not None
    assert items.grad[0].any(dim=-1).sum() == sees


def test_padding_is_zero_at_every_convolution() -> None:
    """Norms and biases write into padding; a first item must not see that."""
    torch.manual_seed(0)
    trunk = CnnTrunk(4, max_length=12, blocks=2)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(torch.randn_like(parameter))
    item = torch.randn(1, 1, 4)
    padded = torch.cat([torch.zeros(1, 6, 4), item], dim=1)
    mask = torch.tensor([[False] * 6 + [True]])
    torch.testing.assert_close(trunk(padded, mask)[:, -1:], trunk(item, mask[:, -1:]))
