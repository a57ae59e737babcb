"""Blend weights fitted on what users did next: first by likelihood, in one go, then by ranks, step by careful step."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_MOST_STEPS = 60
_SMALLEST_ROOT = 0.05
_FACTORS = (0.0, 0.5, 0.7, 1.4, 2.0)
_PASSES = 3
_FROM_NOTHING = 0.1
"""What a weight of almost nothing is tried at."""
_STANDARD_ERRORS = 1.5
"""By how many a change must better the mean of all users to be believed: with few users most changes are luck."""


def fit_blend_weights(channels_BNC: Tensor, targets_B: Tensor, hidden_BN: Tensor, start_C: Tensor) -> Tensor:
    """Weights that rank the items chosen next best, none below 0.

    The likelihood is smooth, and a handful of users is enough for it, but it pays for the probability of every item, and lists
    are judged by ranks. So its weights are where a search by ranks begins, unless the start itself ranks better.

    Args:
        channels_BNC: standardised scores of every item and channel, one row a user.
        targets_B: the item each user chose next.
        hidden_BN: True for items that cannot be recommended to the user; her target is looked at all the same.
        start_C: weights without a fit, and the middle of the prior.

    Returns:
        weights_C.
    """
    start_C = start_C.detach()
    if not len(targets_B):
        return start_C.clone()
    is_hidden_BN = hidden_BN.scatter(1, targets_B.unsqueeze(1), False)
    likely_C = likeliest_weights(channels_BNC, targets_B, is_hidden_BN, start_C)
    return _Search(channels_BNC, targets_B, is_hidden_BN).run(likely_C, start_C)


def likeliest_weights(channels_BNC: Tensor, targets_B: Tensor, hidden_BN: Tensor, start_C: Tensor) -> Tensor:
    """Maximum a posteriori weights of the softmax over the items that are not hidden.

    A channel can only speak for an item, never against it: weights are squares of what is fitted. The penalty is that of
    a normal prior around the start with deviation 1, so a client with few users stays near the start.
    """
    root_C = start_C.clamp(min=_SMALLEST_ROOT**2).sqrt().requires_grad_(True)
    optimizer = torch.optim.LBFGS([root_C], max_iter=_MOST_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        weights_C = root_C.square()
        scores_BN = (channels_BNC @ weights_C).masked_fill(hidden_BN, -math.inf)
        penalty = (weights_C - start_C).square().sum() / (2.0 * len(targets_B))
        total = functional.cross_entropy(scores_BN, targets_B) + penalty
        total.backward()
        return total

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    weights_C = root_C.detach().square()
    return weights_C if bool(weights_C.isfinite().all()) else start_C.clone()


class _Search:
    """Coordinate search for the mean of ``1 / log2(1 + rank)``, over all ranks: smoother than a figure cut at 10."""

    def __init__(self, channels_BNC: Tensor, targets_B: Tensor, hidden_BN: Tensor) -> None:
        self._channels_BNC = channels_BNC
        self._targets_B1 = targets_B.unsqueeze(1)
        self._others_BN = (~hidden_BN).scatter(1, self._targets_B1, False)
        spread_C = channels_BNC.abs().amax(dim=(0, 1))
        self._present = [c for c in range(channels_BNC.shape[2]) if float(spread_C[c]) > 0.0]

    def run(self, likely_C: Tensor, start_C: Tensor) -> Tensor:
        weights_C, gains_B = likely_C, self._gains(likely_C)
        at_start_B = self._gains(start_C)
        if _is_better(at_start_B, gains_B):
            weights_C, gains_B = start_C, at_start_B
        for _ in range(_PASSES):
            before_C = weights_C
            for channel in self._present:
                weights_C, gains_B = self._best_of(channel, weights_C, gains_B)
            if torch.equal(weights_C, before_C):
                break
        return weights_C.clone()

    def _best_of(self, channel: int, weights_C: Tensor, gains_B: Tensor) -> tuple[Tensor, Tensor]:
        best_C, best_B = weights_C, gains_B
        weight = float(weights_C[channel])
        for value in [weight * f for f in _FACTORS] if weight > _FROM_NOTHING / 10.0 else [_FROM_NOTHING]:
            tried_C = weights_C.clone()
            tried_C[channel] = value
            tried_B = self._gains(tried_C)
            if _is_better(tried_B, gains_B) and bool(tried_B.mean() > best_B.mean()):
                best_C, best_B = tried_C, tried_B
        return best_C, best_B

    def _gains(self, weights_C: Tensor) -> Tensor:
        """Each user's gain; a tie counts against the target."""
        scores_BN = self._channels_BNC @ weights_C
        ahead_BN = (scores_BN >= scores_BN.gather(1, self._targets_B1)) & self._others_BN
        return 1.0 / torch.log2(2.0 + ahead_BN.sum(dim=1))


def _is_better(gains_B: Tensor, than_B: Tensor) -> bool:
    """Whether the mean rises by more than chance: paired over users. Of one user's rise nobody knows that."""
    rises_B = gains_B - than_B
    if len(rises_B) < 2:
        return False
    error = rises_B.std() / math.sqrt(len(rises_B))
    return bool(rises_B.mean() > _STANDARD_ERRORS * error)
