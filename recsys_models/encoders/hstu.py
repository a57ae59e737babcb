"""Hierarchical sequential transduction units (Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter
Sequential Transducers for Generative Recommendations", ICML 2024, section 3, equations 1-3).

Attention without a softmax: its weights do not add up to one, so a user vector keeps how *much* of a taste
there was, which a softmax divides away. What differs from the paper, and why:

* The relative bias is over positions only. The paper adds one over time gaps; batches here hold no
  timestamps.
* Weights are divided by the number of items seen so far instead of the longest length: the layer norm behind
  them makes the two equal but for its epsilon, which would otherwise swallow short histories.
* Each head has its own bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_models.encoders.attention import check_heads, join_heads, run_blocks, split_heads


class HstuTrunk(nn.Module):
    """``blocks`` HSTU layers of width ``dim``; order enters through relative positions alone."""

    def __init__(
        self, dim: int, *, max_length: int, blocks: int = 2, heads: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_HstuBlock(dim, heads, max_length, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(self, items_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Returns hidden_BLD."""
        return run_blocks(self.blocks, self.norm, self.dropout(items_BLD), mask_BL)


class _HstuBlock(nn.Module):
    def __init__(self, dim: int, heads: int, max_length: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.input_norm = nn.LayerNorm(dim)
        self.gate_value_query_key = nn.Linear(dim, 4 * dim)
        self.age_bias = nn.Embedding(max_length, heads)
        nn.init.normal_(self.age_bias.weight, std=0.02)
        self.mixed_norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_BLD: Tensor, allowed_B1LL: Tensor) -> Tensor:
        projected_BLE = functional.silu(self.gate_value_query_key(self.input_norm(hidden_BLD)))
        gate_BLD, value_BLD, query_BLD, key_BLD = projected_BLE.chunk(4, dim=-1)
        query, key, value = (split_heads(part, self.heads) for part in (query_BLD, key_BLD, value_BLD))
        scores_BHLL = query @ key.transpose(2, 3) + self._bias(allowed_B1LL)
        weights_BHLL = functional.silu(scores_BHLL).masked_fill(~allowed_B1LL, 0.0)
        mixed_BHLK = (weights_BHLL @ value) / allowed_B1LL.sum(dim=-1, keepdim=True)
        mixed_BLD = self.mixed_norm(join_heads(mixed_BHLK)) * gate_BLD
        return hidden_BLD + self.out(self.dropout(mixed_BLD))

    def _bias(self, allowed_B1LL: Tensor) -> Tensor:
        """Bias by how many positions ago an item stands, [B, heads, L, L]; meaningless in the future."""
        batch, length = allowed_B1LL.shape[0], allowed_B1LL.shape[-1]
        positions = torch.arange(length, device=allowed_B1LL.device)
        # One row of ids for each user, repeated and not expanded: per-user gradients need contiguous ids.
        bias_BHL = self.age_bias(positions.repeat(batch, 1)).transpose(1, 2)
        age_LL = (positions.unsqueeze(1) - positions.unsqueeze(0)).clamp(min=0)
        return bias_BHL[:, :, age_LL]
