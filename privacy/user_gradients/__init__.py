"""Per-user gradients of a user encoder and of the item rows a user touches, ready to be clipped as one
vector.
"""

from privacy.user_gradients.engine import (
    LossFn,
    UserGradients,
    encoder_size,
    per_user_gradients,
    set_encoder_gradient,
    wrap_encoder,
)
from privacy.user_gradients.guard import EngineCheck, check_engine

__all__ = [
    "EngineCheck",
    "LossFn",
    "UserGradients",
    "check_engine",
    "encoder_size",
    "per_user_gradients",
    "set_encoder_gradient",
    "wrap_encoder",
]
