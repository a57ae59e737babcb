"""Per-user gradients of a user encoder and of the item rows a user touches, ready to be clipped as one
vector.
"""

from privacy.user_gradients.clipped_sum import (
    ClippedSum,
    Method,
    WrappedEncoder,
    choose_method,
    clipped_sum,
    wrap_for,
)
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
    "ClippedSum",
    "EngineCheck",
    "LossFn",
    "Method",
    "UserGradients",
    "WrappedEncoder",
    "check_engine",
    "choose_method",
    "clipped_sum",
    "encoder_size",
    "per_user_gradients",
    "set_encoder_gradient",
    "wrap_encoder",
    "wrap_for",
]
