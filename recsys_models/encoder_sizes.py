"""Sizes to build an encoder in. Without torch, so that a scenario is checked before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ENCODERS_WITH_HEADS = ("attention", "gated-attention", "hstu")
"""The others have no attention heads: for them a size's ``heads`` is 1."""


@dataclass(frozen=True)
class EncoderSize:
    """Width and depth of an encoder; see :func:`recsys_models.encoders.build_encoder`.

    Attributes:
        dim: width of item and user vectors.
        blocks: hidden layers, GRU layers, transformer blocks, or pairs of convolutions.
        heads: attention heads, a divisor of ``dim``.
        dropout: probability, while it trains.
    """

    dim: int
    blocks: int
    heads: int
    dropout: float = 0.0


ENCODER_SIZES: Mapping[str, EncoderSize] = {
    "S": EncoderSize(dim=32, blocks=1, heads=1),
    "M": EncoderSize(dim=64, blocks=2, heads=2, dropout=0.1),
    "L": EncoderSize(dim=128, blocks=4, heads=4, dropout=0.2),
}
"""S is the default of a federation and bears the noise of private training best; M is about that of the published SASRec; L
asks for much data, no noise and a GPU. ``dim`` is also the width of the item tower."""
