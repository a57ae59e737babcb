"""User encoders: from the item vectors of a history to one user vector after every item.

Every encoder has one signature (:class:`~recsys_models.encoders.base.UserEncoder`) and keeps its parameters
in ``nn.Linear``, ``nn.LayerNorm``, ``nn.Embedding`` and ``nn.Conv1d`` modules that are *called*, the only shape
in which per-user gradients are exact and differentially private training is sound.
"""

from recsys_models.encoders.base import UserEncoder
from recsys_models.encoders.registry import ENCODER_SIZES, ENCODERS, EncoderSize, build_encoder

__all__ = ["ENCODERS", "ENCODER_SIZES", "EncoderSize", "UserEncoder", "build_encoder"]
