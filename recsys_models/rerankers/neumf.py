"""Neural matrix factorisation as a re-ranker of a blend's best candidates (He et al., "Neural Collaborative Filtering",
WWW 2017, section 3.4: GMF and an MLP, fused in one last layer).

What differs from the paper, and why:

* No table of users or items. The user is the vector a client's encoder gives her history, the item its vector in the tower;
  so an item nobody touched can be re-ranked, and nothing of the user side is ever sent.
* It adds to the blend's scores instead of replacing them, and starts by adding nothing: untrained, it keeps the order.
* It learns from a softmax over the candidates instead of from sampled yes and no, for it only ever orders candidates.

Shapes: B users, C candidates, N items, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys_models.metrics.ranking import seen_cells

CANDIDATES = 100


class NeuMF(nn.Module):
    """Additions to the scores of candidates, from user and item vectors alone.

    ``w . [(P u) * (Q v), MLP([P' u, Q' v])] + b``; GMF and MLP have maps of their own, as in the paper. Each parameter lies in
    a called ``nn.Linear``, so per-user gradients by Opacus' hooks are exact.

    Args:
        dim: width of user and item vectors.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = max(1, dim // 2)
        self.user_factors = nn.Linear(dim, dim, bias=False)
        self.item_factors = nn.Linear(dim, dim, bias=False)
        self.user_input = nn.Linear(dim, dim, bias=False)
        self.item_input = nn.Linear(dim, dim)
        self.hidden = nn.Linear(dim, half)
        self.out = nn.Linear(dim + half, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, users_BD: Tensor, items_BCD: Tensor) -> Tensor:
        """Returns addition_BC; zero everywhere before training."""
        users_B1D = users_BD.unsqueeze(1)
        product_BCD = self.user_factors(users_B1D) * self.item_factors(items_BCD)
        # The sum of two maps is the first layer of an MLP on the concatenation, without copying the user for each item.
        first_BCD = torch.relu(self.user_input(users_B1D) + self.item_input(items_BCD))
        hidden_BCH = torch.relu(self.hidden(first_BCD))
        return self.out(torch.cat([product_BCD, hidden_BCH], dim=-1)).squeeze(-1)


def candidates(
    scores_BN: Tensor, seen: Sequence[NDArray[np.int64]], count: int = CANDIDATES
) -> tuple[Tensor, Tensor]:
    """Each user's best items that she has not seen, best first.

    Args:
        scores_BN: of the blend, finite.
        seen: items of each user's history.
        count: how many; all items where there are fewer.

    Returns:
        item_BC, and score_BC: minus infinity where fewer than ``count`` are unseen.
    """
    unseen_BN = scores_BN.clone()
    rows, items = seen_cells(seen)
    unseen_BN[torch.from_numpy(rows), torch.from_numpy(items)] = -torch.inf
    item_BC = unseen_BN.argsort(dim=1, descending=True, stable=True)[:, :count]
    return item_BC, unseen_BN.gather(1, item_BC)


@torch.no_grad()
def reranked(
    reranker: NeuMF,
    scores_BN: Tensor,
    users_BD: Tensor,
    tower_ND: Tensor,
    seen: Sequence[NDArray[np.int64]],
) -> Tensor:
    """The blend's scores, dealt out anew among each user's candidates in the re-ranker's order.

    A user's scores stay the same numbers and her candidates the same items, so nothing beyond them changes its rank. Where
    the additions overflow, her scores stay as they were.

    Returns:
        scores_BN.
    """
    item_BC, score_BC = candidates(scores_BN, seen)
    addition_BC = reranker(users_BD, tower_ND[item_BC])
    is_usable_B1 = addition_BC.isfinite().all(dim=1, keepdim=True)
    order_BC = (score_BC + addition_BC.where(is_usable_B1, 0.0)).argsort(dim=1, descending=True, stable=True)
    reordered_BC = item_BC.gather(1, order_BC)
    # Items she has seen come last, where she has seen nearly all; they keep their own scores.
    kept_BC = score_BC.where(score_BC.isfinite(), scores_BN.gather(1, reordered_BC))
    return scores_BN.scatter(1, reordered_BC, kept_BC)


def candidate_loss(
    reranker: nn.Module, users_BD: Tensor, items_BCD: Tensor, score_BC: Tensor, is_target_BC: Tensor
) -> Tensor:
    """Cross-entropy of the item that came next among the candidates.

    Args:
        reranker: a :class:`NeuMF`, wrapped or not.
        users_BD: user vectors.
        items_BCD: vectors of the candidates.
        score_BC: of the blend; minus infinity where there is no candidate.
        is_target_BC: the candidate that came next, if it is one.

    Returns:
        loss_B; zero for a user whose next item is no candidate.
    """
    logits_BC = score_BC + reranker(users_BD, items_BCD)
    log_probability_BC = torch.log_softmax(logits_BC, dim=-1)
    return -log_probability_BC.masked_fill(~is_target_BC, 0.0).sum(dim=-1)
