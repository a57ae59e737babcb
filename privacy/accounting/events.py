"""What happened: plain descriptions of releases, from which every epsilon is recomputed.

Compatibility law: a ledger written today must mean the same in five years. Fields are never removed and never
change their meaning, new ones are optional, and an event this version does not know is refused, never
skipped. (The law and the vocabulary follow Google's ``dp_accounting.dp_event``.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from privacy.errors import InputError

DetailValue = str | float | int


@dataclass(frozen=True)
class ReleaseEvent:
    """``count`` releases of a sum over users plus Gaussian noise.

    For vectors v_u with ||v_u||_2 <= C, one vector a user, the mechanism returns sum_u v_u + z with z ~ N(0,
    s^2 I) and ``noise_multiplier`` = s / C. Unit: one user's whole log; relation: add or remove one user.

    Attributes:
        name: of the release, as people know it ("popularity", "metrics/7").
        noise_multiplier: s / C, finite and non-negative; 0 means no noise at all and costs infinity.
        mechanism: "gaussian" stands for the discrete Gaussian as well (``mechanisms.discrete_gaussian`` says
            why).
        sampling_probability: with which each user was included, independently of all others (Poisson
            sampling), in (0, 1]. Anything drawn in another way is 1.
        count: number of releases of this kind, each with fresh noise and fresh sampling.
        left_the_client: False for training whose result stays with the client; it still binds other users
            there, and whatever leaves later (``seen_outside``).
        detail: facts for the reader (grid, clients, "simulated"); no epsilon depends on them.

    Raises:
        InputError: a value is out of its range.
    """

    name: str
    noise_multiplier: float
    mechanism: Literal["gaussian"] = "gaussian"
    sampling_probability: float = 1.0
    count: int = 1
    left_the_client: bool = True
    detail: Mapping[str, DetailValue] = field(default_factory=dict[str, DetailValue])

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("a release needs a name")
        if self.mechanism != "gaussian":  # pyright: ignore[reportUnnecessaryComparison]
            raise InputError(
                f"mechanism={self.mechanism!r} of release {self.name!r} is unknown to this version"
            )
        if not 0.0 <= self.noise_multiplier < math.inf:
            raise InputError(f"noise_multiplier={self.noise_multiplier} of {self.name!r} is not in [0, inf)")
        if not 0.0 < self.sampling_probability <= 1.0:
            raise InputError(
                f"sampling_probability={self.sampling_probability} of {self.name!r} is not in (0, 1]"
            )
        if type(self.count) is not int or self.count < 1:
            raise InputError(f"count={self.count!r} of {self.name!r} is not a positive integer")
        object.__setattr__(self, "detail", _checked_detail(self.name, self.detail))

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object from which ``from_json`` restores an equal event."""
        return {
            "name": self.name,
            "mechanism": self.mechanism,
            "noise_multiplier": float(self.noise_multiplier),
            "sampling_probability": float(self.sampling_probability),
            "count": self.count,
            "left_the_client": self.left_the_client,
            "detail": dict(self.detail),
        }

    @classmethod
    def from_json(cls, document: object) -> ReleaseEvent:
        """Restores an event.

        Raises:
            InputError: the document has unknown or missing fields, wrong types, or values out of range.
        """
        if not isinstance(document, dict):
            raise InputError(f"an event is a JSON object, not {type(document).__name__}")
        fields = cast("dict[str, Any]", document)
        if set(fields) != set(_FIELD_TYPES):
            raise InputError(f"event fields {sorted(fields)} differ from the known {sorted(_FIELD_TYPES)}")
        for name, kind in _FIELD_TYPES.items():
            if type(fields[name]) is not kind:
                raise InputError(
                    f"event field {name!r} is {type(fields[name]).__name__}, expected {kind.__name__}"
                )
        return cls(**fields)


def seen_outside(events: Sequence[ReleaseEvent]) -> list[ReleaseEvent]:
    """The events that bound what somebody outside the clients learns about a user.

    All up to the last that left. A fit that stayed with its client counts too where anything left afterwards: recall is
    computed with the fitted encoder, which holds every user of that client, so one user moves the ranks of all others there and
    only the fit's own noise bounds by how much. The bound on her own row of the sum does not.

    Args:
        events: in the order in which they happened.
    """
    last = max((place for place, event in enumerate(events) if event.left_the_client), default=-1)
    return list(events[: last + 1])


_FIELD_TYPES: dict[str, type] = {
    "name": str,
    "mechanism": str,
    "noise_multiplier": float,
    "sampling_probability": float,
    "count": int,
    "left_the_client": bool,
    "detail": dict,
}


def canonical_bytes(document: object) -> bytes:
    """Returns the one JSON spelling of a document that is hashed: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _checked_detail(release: str, detail: Mapping[str, DetailValue]) -> dict[str, DetailValue]:
    for key, value in cast("Mapping[object, object]", detail).items():
        usable = isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
        if not (isinstance(key, str) and usable):
            raise InputError(f"detail[{key!r}]={value!r} of {release!r} is not a string or a finite number")
    return dict(detail)
