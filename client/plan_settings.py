"""The ranges within which a client lets a server choose a plan's settings, checked before any of them meets a log.

A setting out of its range often fails for some users only: a decay of 1e200 overflows for whoever has four head items and
for nobody else. Whether a client answers is visible to the server and carries no noise, so such a plan would turn a refusal
into an exact question about a log. What a client has no range for, it does not agree to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from privacy.errors import PolicyRefusal
from privacy.mechanisms.joint_clip import MAX_CLIP_NORM, MIN_CLIP_NORM
from recsys_models.encoders.registry import ENCODERS, ENCODERS_WITH_HEADS
from recsys_models.metrics.detail import MAX_GROUPS
from recsys_models.negatives import FULL_SOFTMAX_ITEMS
from recsys_models.release_shapes import TrainedTower
from recsys_models.retrieval.presets import PRESETS

_Share = Annotated[float, Field(ge=0.0, le=1.0)]
_Probability = Annotated[float, Field(gt=0.0, le=1.0)]
_Rate = Annotated[float, Field(gt=0.0, le=1e6)]
_ClipNorm = Annotated[float, Field(ge=MIN_CLIP_NORM, le=MAX_CLIP_NORM)]
_Rating = Annotated[float, Field(ge=-1e6, le=1e6)]
_Count = Annotated[int, Field(ge=1, le=2**31)]


class _Settings(BaseModel):
    # Strict: JSON's true, "3" and 2.5 are no whole numbers.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Gradients(_Settings):
    loss: Literal["sampled-softmax", "softmax", "bpr", "bce", "gbce"]
    calibration: _Share
    negatives: Annotated[int, Field(ge=1, le=10_000)]
    l2_clip_norm: _ClipNorm
    adaptive_clip: bool
    target_quantile: Annotated[float, Field(ge=0.01, le=0.99)]
    clip_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    sampling_probability: _Probability
    client_learning_rate: _Rate
    local_learning_rate: _Rate
    item_tower: TrainedTower
    content_width: Annotated[int, Field(ge=0, le=2048)]


class _Fit(_Settings):
    steps: Annotated[int, Field(ge=0, le=100_000)]
    l2_clip_norm: _ClipNorm
    learning_rate: _Rate
    epochs: Annotated[int, Field(ge=0, le=10_000)]
    batch_users: _Count
    dropout: Annotated[float, Field(ge=0.0, le=0.9)]
    own_items: bool


class _Evaluation(_Settings):
    group_bounds: Annotated[list[_Count], Field(max_length=MAX_GROUPS - 1)]
    min_group_users: _Count
    diversity: Literal["item-tower", "attributes"]


class PlanSettings(_Settings):
    """``FederationPlan.settings``, field by field; ``server.plan`` writes them from a scenario of the same ranges."""

    encoder: str
    dim: Annotated[int, Field(ge=2, le=1024)]
    max_length: Annotated[int, Field(ge=1, le=2048)]
    blocks: Annotated[int, Field(ge=1, le=32)]
    heads: Annotated[int, Field(ge=1, le=32)]
    dropout: Annotated[float, Field(ge=0.0, le=0.9)]
    reranker: Literal["none", "neumf"]
    rating_scale: Annotated[list[_Rating], Field(min_length=2, max_length=2)] | None
    head: _Count
    gram_share: _Share
    subspace_rank: Annotated[int, Field(ge=0, le=2048)]
    orders: Annotated[int, Field(ge=1, le=10)]
    decay: _Probability
    users: _Count
    blend: str
    per_user_gradients: Literal["auto", "hooks", "ghost"]
    gradients: _Gradients
    fit: _Fit
    evaluation: _Evaluation

    @field_validator("encoder", "blend")
    @classmethod
    def _is_known(cls, name: str, field: ValidationInfo) -> str:
        known = PRESETS if field.field_name == "blend" else ENCODERS
        if name not in known:
            raise ValueError(f"unknown; this client has {', '.join(known)}")
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> PlanSettings:
        if self.heads > 1 and self.encoder not in ENCODERS_WITH_HEADS:
            raise ValueError(f"{self.heads} heads: {self.encoder} has none")
        if self.dim % self.heads:
            raise ValueError(f"{self.heads} heads do not divide {self.dim} dimensions")
        if self.gradients.loss == "softmax" and self.head > FULL_SOFTMAX_ITEMS:
            raise ValueError(f"a softmax over {self.head} items; at most {FULL_SOFTMAX_ITEMS}")
        tower, width = self.gradients.item_tower, self.gradients.content_width
        if (tower == "ids") is not (width == 0):
            raise ValueError(f"a tower of {tower!r} with content of width {width}")
        if self.rating_scale is not None and not self.rating_scale[0] < self.rating_scale[1]:
            raise ValueError(f"a rating scale from {self.rating_scale[0]} to {self.rating_scale[1]}")
        return self


def check_settings(settings: Mapping[str, Any], *, protects_within_client: bool) -> None:
    """Refuse settings that are missing, unknown or out of range.

    Args:
        settings: the plan's.
        protects_within_client: whether the plan promises that one user of this client shows little in what the others get.

    Raises:
        PolicyRefusal: ``settings-out-of-range``; the text, which stays here, names the field.
    """
    try:
        agreed = PlanSettings.model_validate(dict(settings))
    except ValidationError as error:
        complaints = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise PolicyRefusal("settings-out-of-range", f"the plan's settings: {complaints}") from None
    unprotected = {"reranker": agreed.reranker != "none", "rating_scale": agreed.rating_scale is not None}
    if protects_within_client and any(unprotected.values()):
        names = ", ".join(name for name, asked in unprotected.items() if asked)
        raise PolicyRefusal("settings-out-of-range", f"the plan's settings: {names}: fitted without noise")
