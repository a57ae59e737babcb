"""Causal self-attention over item vectors (Kang, McAuley, "Self-Attentive Sequential Recommendation", ICDM
2018), with layer norms before the branches.

Written from ``nn.Linear`` and ``scaled_dot_product_attention``: ``nn.MultiheadAttention`` has no exact
per-user gradients under Opacus' hooks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_models.encoders.pooling import causal_mask
from recsys_models.errors import DataError


class AttentionTrunk(nn.Module):
    """``blocks`` pre-norm transformer blocks; positions count from the oldest item of the window.

    Counting from the oldest valid item (not from the left edge of the tensor) makes the state after an item
    independent of padding and of later items.

    ``block`` builds a block from ``(dim, heads, dropout)``; called with (hidden_BLD, allowed_B1LL), it
    returns hidden_BLD.
    """

    def __init__(
        self,
        dim: int,
        *,
        max_length: int,
        blocks: int = 2,
        heads: int = 1,
        dropout: float = 0.0,
        block: Callable[[int, int, float], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.position = nn.Embedding(max_length, dim)
        nn.init.normal_(self.position.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList((block or AttentionBlock)(dim, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(self, items_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Returns hidden_BLD."""
        position_BL = (mask_BL.long().cumsum(dim=1) - 1).clamp(min=0).contiguous()
        present = mask_BL.unsqueeze(-1)
        hidden_BLD = self.dropout((items_BLD + self.position(position_BL)) * present)
        return run_blocks(self.blocks, self.norm, hidden_BLD, mask_BL)


class AttentionBlock(nn.Module):
    """Attention and a feed-forward net, each added to what came in."""

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
        """Returns hidden_BLD."""
        projected_BLE = self.query_key_value(self.attention_norm(hidden_BLD))
        mixed_BLD = self.attention_out(attend(projected_BLE, self.heads, allowed_B1LL))
        hidden_BLD = hidden_BLD + self.dropout(mixed_BLD)
        fed_BLD = self.feed_out(torch.relu(self.feed_in(self.feed_norm(hidden_BLD))))
        return hidden_BLD + self.dropout(fed_BLD)


def check_heads(dim: int, heads: int) -> None:
    """Raises DataError where ``dim`` cannot be split into so many heads."""
    if heads < 1 or dim % heads:
        raise DataError(f"heads must divide dim: dim={dim}, heads={heads}")


def run_blocks(
    blocks: nn.ModuleList, norm: nn.Module, hidden_BLD: Tensor, mask_BL: Tensor, *facts: Tensor
) -> Tensor:
    """All blocks, each position seeing itself and what came before, then the norm: hidden_BLD.

    ``facts`` are handed to every block as they are.
    """
    allowed_B1LL = causal_mask(mask_BL).unsqueeze(1)
    for block in blocks:
        hidden_BLD = block(hidden_BLD, allowed_B1LL, *facts)
    normed_BLD: Tensor = norm(hidden_BLD)
    return normed_BLD


def attend(query_key_value_BLE: Tensor, heads: int, allowed_B1LL: Tensor) -> Tensor:
    """Softmax attention of ``heads`` heads on queries, keys and values that lie side by side, ``E = 3 D``.

    Returns mixed_BLD, before the output projection.
    """
    query, key, value = (split_heads(part_BLD, heads) for part_BLD in query_key_value_BLE.chunk(3, dim=-1))
    mixed_BHLK = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed_B1LL)
    return join_heads(mixed_BHLK)


def split_heads(part_BLD: Tensor, heads: int) -> Tensor:
    """[B, L, D] as [B, heads, L, D / heads]."""
    batch, length, dim = part_BLD.shape
    return part_BLD.reshape(batch, length, heads, dim // heads).transpose(1, 2)


def join_heads(part_BHLK: Tensor) -> Tensor:
    """[B, heads, L, K] as [B, L, heads * K]."""
    return part_BHLK.transpose(1, 2).flatten(2)
