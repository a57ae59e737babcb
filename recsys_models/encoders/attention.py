"""Causal self-attention over item vectors (Kang, McAuley, "Self-Attentive Sequential Recommendation", ICDM
2018), with layer norms before the branches.

Written from ``nn.Linear`` and ``scaled_dot_product_attention``: ``nn.MultiheadAttention`` has no exact
per-user gradients under Opacus' hooks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_models.encoders.pooling import causal_mask
from recsys_models.errors import DataError


class AttentionTrunk(nn.Module):
    """``blocks`` pre-norm transformer blocks; positions count from the oldest item of the window.

    Counting from the oldest valid item (not from the left edge of the tensor) makes the state after an item
    independent of padding and of later items.
    """

    def __init__(
        self, dim: int, *, max_length: int, blocks: int = 2, heads: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise DataError(f"heads must divide dim: dim={dim}, heads={heads}")
        self.position = nn.Embedding(max_length, dim)
        nn.init.normal_(self.position.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(dim, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(self, items_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Returns hidden_BLD."""
        position_BL = (mask_BL.long().cumsum(dim=1) - 1).clamp(min=0).contiguous()
        present = mask_BL.unsqueeze(-1)
        hidden_BLD = self.dropout((items_BLD + self.position(position_BL)) * present)
        allowed_B1LL = causal_mask(mask_BL).unsqueeze(1)
        for block in self.blocks:
            hidden_BLD = block(hidden_BLD, allowed_B1LL)
        normed_BLD: Tensor = self.norm(hidden_BLD)
        return normed_BLD


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.attention_out = nn.Linear(dim, dim)
        self.feed_norm = nn.LayerNorm(dim)
        self.feed_in = nn.Linear(dim, dim)
        self.feed_out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_BLD: Tensor, allowed_B1LL: Tensor) -> Tensor:
        hidden_BLD = hidden_BLD + self.dropout(self._attend(self.attention_norm(hidden_BLD), allowed_B1LL))
        fed_BLD = self.feed_out(torch.relu(self.feed_in(self.feed_norm(hidden_BLD))))
        return hidden_BLD + self.dropout(fed_BLD)

    def _attend(self, hidden_BLD: Tensor, allowed_B1LL: Tensor) -> Tensor:
        batch, length, dim = hidden_BLD.shape
        query, key, value = (
            part.reshape(batch, length, self.heads, dim // self.heads).transpose(1, 2)
            for part in self.query_key_value(hidden_BLD).chunk(3, dim=-1)
        )
        mixed_BHLK = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed_B1LL)
        return self.attention_out(mixed_BHLK.transpose(1, 2).reshape(batch, length, dim))
