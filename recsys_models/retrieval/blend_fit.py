"""Blend weights by maximum a posteriori: a handful of numbers, fitted in one go on what users did next."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_MOST_STEPS = 60
_SMALLEST_ROOT = 0.05


def fit_blend_weights(channels_BNC: Tensor, targets_B: Tensor, hidden_BN: Tensor, start_C: Tensor) -> Tensor:
    """Weights that give the items chosen next the highest probability, none below 0.

    A channel can only speak for an item, never against it: weights are squares of what is fitted. The penalty is that of
    a normal prior around the start with deviation 1, so a client with few users stays near the start.

    Args:
        channels_BNC: standardised scores of every item and channel, one row a user.
        targets_B: the item each user chose next.
        hidden_BN: True for items that cannot be recommended to the user; her target is looked at all the same.
        start_C: where to begin, and the middle of the prior.

    Returns:
        weights_C.
    """
    if not len(targets_B):
        return start_C.clone()
    root_C = start_C.clamp(min=_SMALLEST_ROOT**2).sqrt().clone().requires_grad_(True)
    is_hidden_BN = hidden_BN.scatter(1, targets_B.unsqueeze(1), False)
    optimizer = torch.optim.LBFGS([root_C], max_iter=_MOST_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        weights_C = root_C.square()
        scores_BN = (channels_BNC @ weights_C).masked_fill(is_hidden_BN, -math.inf)
        penalty = (weights_C - start_C).square().sum() / (2.0 * len(targets_B))
        total = functional.cross_entropy(scores_BN, targets_B) + penalty
        total.backward()
        return total

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    return root_C.detach().square()
