"""The gated residual block of eSASRec, in place of the block of :mod:`recsys_models.encoders.attention`.

Block: Borisyuk et al., "From Features to Transformers: Redefining Ranking for Scalable Impact" (LiGR), 2025;
its use in a sequential recommender: Tikhonovich et al., "eSASRec: Enhancing Transformer-based Recommendations
in a Modular Fashion", RecSys 2025. Feed-forward net: SwiGLU of Shazeer, "GLU Variants Improve Transformer",
2020.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_models.encoders.attention import attend

_FEED_FACTOR = 4
"""Hidden width of the feed-forward net over ``dim``, as in eSASRec."""


class GatedAttentionBlock(nn.Module):
    """``x + sigmoid(W x) * branch(norm(x))`` for attention and then for the feed-forward net.

    The gate reads what enters the branch before the layer norm, so the block can decide by item, and by
    coordinate, how much of a branch to let in. About three times the parameters of the ungated block: under
    differential privacy that is noise, so compare the two.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.attention_out = nn.Linear(dim, dim)
        self.attention_gate = nn.Linear(dim, dim)
        self.feed_norm = nn.LayerNorm(dim)
        self.feed_in = nn.Linear(dim, 2 * _FEED_FACTOR * dim, bias=False)
        self.feed_out = nn.Linear(_FEED_FACTOR * dim, dim, bias=False)
        self.feed_gate = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_BLD: Tensor, allowed_B1LL: Tensor) -> Tensor:
        """Returns hidden_BLD."""
        projected_BLE = self.query_key_value(self.attention_norm(hidden_BLD))
        mixed_BLD = self.attention_out(attend(projected_BLE, self.heads, allowed_B1LL))
        hidden_BLD = hidden_BLD + torch.sigmoid(self.attention_gate(hidden_BLD)) * self.dropout(mixed_BLD)
        opened_BLF, passed_BLF = self.feed_in(self.feed_norm(hidden_BLD)).chunk(2, dim=-1)
        fed_BLD = self.feed_out(self.dropout(functional.silu(opened_BLF) * passed_BLF))
        return hidden_BLD + torch.sigmoid(self.feed_gate(hidden_BLD)) * self.dropout(fed_BLD)
