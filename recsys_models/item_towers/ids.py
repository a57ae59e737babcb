"""Towers that know items by their index alone: strong on items with many events, chance on all others."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recsys_models.item_towers.base import ItemTower


class EmbeddingTower(ItemTower):
    """One free vector per item.

    Under Opacus' hooks it costs users x items x dim floats; ``privacy.user_gradients`` trains such a table by gathered rows
    instead.

    Args:
        n_items, dim: of the table.
        present_N: items with a vector of their own; give the trained ones where the tower is part of a fusion, so that
            an untrained vector is not taken for knowledge.
    """

    def __init__(self, n_items: int, dim: int, *, present_N: Tensor | None = None) -> None:
        super().__init__(n_items, dim, present_N=present_N)
        self.table = nn.Embedding(n_items, dim)
        nn.init.normal_(self.table.weight, std=dim**-0.5)

    def vectors_of(self, ids: Tensor) -> Tensor:
        """Rows of the table."""
        return self.table(ids)


class HashedTower(ItemTower):
    """The product of two vectors, one by quotient and one by remainder of the index (Shi et al., "Compositional
    Embeddings Using Complementary Partitions", KDD 2020, section 3 and algorithm 2).

    Every item has a pair of its own, and two tables of about sqrt(n_items) rows stand in for one of n_items: an update is
    that much smaller to noise and to send.
    """

    def __init__(self, n_items: int, dim: int, *, present_N: Tensor | None = None) -> None:
        super().__init__(n_items, dim, present_N=present_N)
        self.base = max(1, math.isqrt(n_items - 1) + 1)
        self.quotients = nn.Embedding(-(-n_items // self.base), dim)
        self.remainders = nn.Embedding(self.base, dim)
        for table in (self.quotients, self.remainders):
            # So that the product has the variance 1 / dim.
            nn.init.normal_(table.weight, std=dim**-0.25)

    def vectors_of(self, ids: Tensor) -> Tensor:
        """Products of the two rows of each index."""
        quotient = torch.div(ids, self.base, rounding_mode="floor")
        return self.quotients(quotient) * self.remainders(ids % self.base)
