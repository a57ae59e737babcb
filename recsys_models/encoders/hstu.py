"""Hierarchical sequential transduction units (Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter
Sequential Transducers for Generative Recommendations", ICML 2024, section 3, equations 1-3).

Attention without a softmax: its weights do not add up to one, so a user vector keeps how *much* of a taste
there was, which a softmax divides away. What differs from the paper, and why:

* The relative bias is a sum of one over positions and one over time gaps, as in the paper. A gap is that
  between two items of the history; the authors' code takes the time of the item to be predicted in place of
  the newest one's, which is known in training but not when serving.
* Gaps are told apart by powers of two of a second, and one bucket stands for a gap that is not known, so
  that logs without times have an encoder too. The bias over gaps starts at zero.
* Weights are divided by the number of items seen so far instead of the longest length: the layer norm behind
  them makes the two equal but for its epsilon, which would otherwise swallow short histories.
* Each head of each block has its own biases.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_models.encoders.attention import check_heads, join_heads, run_blocks, split_heads

GAP_BUCKETS = 32
"""Not known, less than a second, less than 2, less than 4, ... seconds; the last from 17 years."""


class HstuTrunk(nn.Module):
    """``blocks`` HSTU layers of width ``dim``; order enters through relative positions and times alone."""

    reads_times = True

    def __init__(
        self, dim: int, *, max_length: int, blocks: int = 2, heads: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_HstuBlock(dim, heads, max_length, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(self, items_BLD: Tensor, mask_BL: Tensor, times_BL: Tensor | None = None) -> Tensor:
        """Returns hidden_BLD."""
        if times_BL is None:
            times_BL = torch.full(mask_BL.shape, torch.nan, device=mask_BL.device)
        return run_blocks(self.blocks, self.norm, self.dropout(items_BLD), mask_BL, gap_buckets(times_BL))


def gap_buckets(times_BL: Tensor) -> Tensor:
    """How long before each item (second axis) each other one (third axis) was met, as a bucket: long [B, L, L].

    Defined for whatever a log holds: 0 where either time is not finite, 1 where the other was not met before, which is so
    for equal and for falling times.
    """
    gap_BLL = times_BL.unsqueeze(2) - times_BL.unsqueeze(1)
    # Compared with powers of two and not made by a logarithm, whose last bit may differ from machine to machine.
    edges = 2.0 ** torch.arange(GAP_BUCKETS - 2, dtype=times_BL.dtype, device=times_BL.device)
    bucket_BLL = 1 + torch.bucketize(gap_BLL, edges, right=True)
    return bucket_BLL.masked_fill(~gap_BLL.isfinite(), 0)


class _HstuBlock(nn.Module):
    def __init__(self, dim: int, heads: int, max_length: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.input_norm = nn.LayerNorm(dim)
        self.gate_value_query_key = nn.Linear(dim, 4 * dim)
        self.age_bias = nn.Embedding(max_length, heads)
        nn.init.normal_(self.age_bias.weight, std=0.02)
        self.gap_bias = nn.Embedding(GAP_BUCKETS, heads)
        nn.init.zeros_(self.gap_bias.weight)
        self.mixed_norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_BLD: Tensor, allowed_B1LL: Tensor, bucket_BLL: Tensor) -> Tensor:
        projected_BLE = functional.silu(self.gate_value_query_key(self.input_norm(hidden_BLD)))
        gate_BLD, value_BLD, query_BLD, key_BLD = projected_BLE.chunk(4, dim=-1)
        query, key, value = (split_heads(part, self.heads) for part in (query_BLD, key_BLD, value_BLD))
        scores_BHLL = query @ key.transpose(2, 3) + self._age_bias(allowed_B1LL) + self._gap_bias(bucket_BLL)
        weights_BHLL = functional.silu(scores_BHLL).masked_fill(~allowed_B1LL, 0.0)
        mixed_BHLK = (weights_BHLL @ value) / allowed_B1LL.sum(dim=-1, keepdim=True)
        mixed_BLD = self.mixed_norm(join_heads(mixed_BHLK)) * gate_BLD
        return hidden_BLD + self.out(self.dropout(mixed_BLD))

    def _age_bias(self, allowed_B1LL: Tensor) -> Tensor:
        """Bias by how many positions ago an item stands, [B, heads, L, L]; meaningless in the future."""
        batch, length = allowed_B1LL.shape[0], allowed_B1LL.shape[-1]
        positions = torch.arange(length, device=allowed_B1LL.device)
        # One row of ids for each user, repeated and not expanded: per-user gradients need contiguous ids.
        bias_BHL = self.age_bias(positions.repeat(batch, 1)).transpose(1, 2)
        age_LL = (positions.unsqueeze(1) - positions.unsqueeze(0)).clamp(min=0)
        return bias_BHL[:, :, age_LL]

    def _gap_bias(self, bucket_BLL: Tensor) -> Tensor:
        """Bias by how long ago an item was met, [B, heads, L, L]; meaningless in the future."""
        batch, length = bucket_BLL.shape[:2]
        # Looked up once for each user and dealt out, as above: a look-up for each pair would record L times as much.
        every_B = torch.arange(GAP_BUCKETS, device=bucket_BLL.device).repeat(batch, 1)
        bias_BHG = self.gap_bias(every_B).transpose(1, 2)
        pairs_BHP = bucket_BLL.reshape(batch, 1, -1).expand(-1, self.heads, -1)
        return bias_BHG.gather(2, pairs_BHP).reshape(batch, self.heads, length, length)
