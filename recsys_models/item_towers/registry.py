"""Item towers by name."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from recsys_models.errors import DataError
from recsys_models.item_towers.audio_cnn import AudioCnnTower
from recsys_models.item_towers.base import ItemTower
from recsys_models.item_towers.content import ContentTower
from recsys_models.item_towers.fusion import FusionTower
from recsys_models.item_towers.ids import EmbeddingTower, HashedTower
from recsys_models.item_towers.image_cnn import ImageCnnTower
from recsys_models.item_towers.text_cnn import TextCnnTower

TOWERS = ("embedding", "hashed", "content", "text-cnn", "image-cnn", "audio-cnn", "fusion")


@dataclass(frozen=True)
class ItemFeatures:
    """What is publicly known about the items of a catalogue; every part may be missing.

    Attributes:
        n_items: N.
        content: float ``[N, F]``, frozen vectors (``text.content_vectors``); zero rows: nothing known.
        tokens: int64 ``[N, T]`` (``text_cnn.hashed_tokens``); zero rows: no text.
        images: float ``[N, C, H, W]``.
        has_image: bool ``[N]``; None: all.
        sounds: float ``[N, M, T]`` (``audio_cnn.log_mel``).
        has_sound: bool ``[N]``; None: all.
        trained: bool ``[N]``, items whose index a fusion may know them by; None: all.
    """

    n_items: int
    content: Tensor | None = None
    tokens: Tensor | None = None
    images: Tensor | None = None
    has_image: Tensor | None = None
    sounds: Tensor | None = None
    has_sound: Tensor | None = None
    trained: Tensor | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor) and len(value) != self.n_items:
                raise DataError(f"{field.name} has {len(value)} rows for {self.n_items} items")


def build_tower(
    name: str, features: ItemFeatures, dim: int, *, hidden: int = 0, modality_dropout: float = 0.3
) -> ItemTower:
    """Builds a tower; initial weights come from torch's global generator.

    Args:
        name: one of :data:`TOWERS`. "fusion" joins hashed indices with whatever else ``features`` has.
        features: the public facts the tower is made of.
        dim: width of the item vectors.
        hidden: of a content tower's second branch; 0 leaves its map linear.
        modality_dropout: of a fusion.

    Raises:
        DataError: an unknown name, a missing feature, or a setting out of range.
    """
    if name == "fusion":
        parts = {part: build_tower(part, features, dim, hidden=hidden) for part in _available(features)}
        parts["hashed"] = HashedTower(features.n_items, dim, present_N=features.trained)
        return FusionTower(parts, dim, modality_dropout=modality_dropout)
    if name == "embedding":
        return EmbeddingTower(features.n_items, dim)
    if name == "hashed":
        return HashedTower(features.n_items, dim)
    if name == "content":
        return ContentTower(_needed(features.content, name, "content"), dim, hidden=hidden)
    if name == "text-cnn":
        tokens = _needed(features.tokens, name, "tokens")
        return TextCnnTower(tokens, dim, buckets=max(8192, int(tokens.max()) + 1))
    if name == "image-cnn":
        return ImageCnnTower(_needed(features.images, name, "images"), dim, present_N=features.has_image)
    if name == "audio-cnn":
        return AudioCnnTower(_needed(features.sounds, name, "sounds"), dim, present_N=features.has_sound)
    raise DataError(f"unknown item tower {name!r}; choose one of {', '.join(TOWERS)}")


def _available(features: ItemFeatures) -> list[str]:
    parts = {
        "content": features.content,
        "text-cnn": features.tokens,
        "image-cnn": features.images,
        "audio-cnn": features.sounds,
    }
    return [name for name, feature in parts.items() if feature is not None]


def _needed(feature: Tensor | None, name: str, what: str) -> Tensor:
    if feature is None:
        raise DataError(f"the tower {name!r} needs ItemFeatures.{what}")
    if feature.is_floating_point():
        return feature.to(torch.float32)
    return feature
