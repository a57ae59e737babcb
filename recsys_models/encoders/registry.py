"""Encoders by name."""

from __future__ import annotations

from torch import nn

from recsys_models.encoder_sizes import ENCODER_SIZES, ENCODERS_WITH_HEADS, EncoderSize
from recsys_models.encoders.attention import AttentionTrunk
from recsys_models.encoders.base import Start, UserEncoder
from recsys_models.encoders.cnn import CnnTrunk
from recsys_models.encoders.gated_attention import GatedAttentionBlock
from recsys_models.encoders.gru import GruTrunk
from recsys_models.encoders.hstu import HstuTrunk
from recsys_models.encoders.mean_pool import MeanPoolTrunk
from recsys_models.errors import DataError

__all__ = ["ENCODERS", "ENCODERS_WITH_HEADS", "ENCODER_SIZES", "EncoderSize", "build_encoder"]

ENCODERS = ("mean-pool", "gru", "attention", "gated-attention", "cnn", "hstu")


def build_encoder(
    name: str,
    dim: int,
    *,
    max_length: int = 50,
    blocks: int = 1,
    heads: int = 1,
    dropout: float = 0.0,
    start: Start = "pooled",
    decay: float = 0.7,
    input_scale: float = 1.0,
) -> UserEncoder:
    """Builds an encoder; initial weights come from torch's global generator.

    Args:
        name: one of :data:`ENCODERS`.
        dim: width of item and user vectors.
        max_length: longest history, in items.
        blocks: hidden layers, GRU layers, transformer blocks, or pairs of convolutions.
        heads: attention heads of "attention", "gated-attention" and "hstu"; ignored by the others.
        dropout: probability, in [0, 1).
        start: ``"pooled"`` (an untrained encoder is the recency-weighted mean) or ``"random"``.
        decay: initial recency weight of the pooled start, in (0, 1].
        input_scale: public factor on item vectors before the trunk.

    Raises:
        DataError: for an unknown name or a setting out of range.
    """
    if dim < 1 or max_length < 1 or blocks < 1:
        raise DataError(
            f"dim, max_length and blocks must be at least 1, got {dim=}, {max_length=}, {blocks=}"
        )
    if not 0.0 <= dropout < 1.0:
        raise DataError(f"dropout must be in [0, 1), got {dropout!r}")
    trunk = _build_trunk(name, dim, max_length, blocks, heads, dropout)
    return UserEncoder(
        trunk, dim=dim, max_length=max_length, start=start, decay=decay, input_scale=input_scale
    )


def _build_trunk(name: str, dim: int, max_length: int, blocks: int, heads: int, dropout: float) -> nn.Module:
    if name == "mean-pool":
        return MeanPoolTrunk(dim, max_length=max_length, blocks=blocks, dropout=dropout)
    if name == "gru":
        return GruTrunk(dim, blocks=blocks, dropout=dropout)
    if name == "attention":
        return AttentionTrunk(dim, max_length=max_length, blocks=blocks, heads=heads, dropout=dropout)
    if name == "gated-attention":
        return AttentionTrunk(
            dim, max_length=max_length, blocks=blocks, heads=heads, dropout=dropout, block=GatedAttentionBlock
        )
    if name == "cnn":
        return CnnTrunk(dim, max_length=max_length, blocks=blocks, dropout=dropout)
    if name == "hstu":
        return HstuTrunk(dim, max_length=max_length, blocks=blocks, heads=heads, dropout=dropout)
    raise DataError(f"unknown encoder {name!r}; choose one of {', '.join(ENCODERS)}")
