"""The plan of a federation: what every client agrees to before any of its data is read.

The plan is sent once, its hash enters the label of every mask, and a client computes every noise share from it and from
its own policy. A server that later asks for less noise asks for a release that is not in the plan, and is refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from privacy.accounting.events import ReleaseEvent
from privacy.accounting.schedule import ScheduledRelease
from privacy.errors import InputError
from privacy.wire.codec import canonical_json

NoisePlacement = Literal["distributed", "per_client"]

# Up to this many clients the noise that sharing saves is not worth trusting the others (design, section 2).
PER_CLIENT_UP_TO = 4


@dataclass(frozen=True)
class FederationPlan:
    """Public terms of one federation.

    Attributes:
        session: 16 random bytes as hex; two runs never share one.
        cohort: client ids, sorted.
        releases: in the order in which they happen.
        epsilon: budget at ``target_delta`` of everything the plan contains.
        private: False when privacy is off; then no release carries noise.
        noise: where noise is added. "distributed": every client adds a share, calibrated to the honest survivors;
            "per_client": every client adds all of it.
        colluding: clients assumed to tell the server their share.
        protect_within_client: whether the encoder's own fit is private (and charged).
        catalogue_sha256: hex hash of the item catalogue all clients must hold.
        max_users: no client has more users than this; it bounds the words of the masked vector.
        settings: model and training settings, JSON values, read by clients and hashed like the rest.
    """

    session: str
    cohort: tuple[str, ...]
    releases: tuple[ScheduledRelease, ...]
    epsilon: float
    target_delta: float
    private: bool
    noise: NoisePlacement
    colluding: int
    protect_within_client: bool
    catalogue_sha256: str
    max_users: int
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        self._check_numbers()
        if self.noise == "distributed" and self.private and self.honest_survivors < 2:
            raise InputError(
                f"distributed noise with {len(self.cohort)} clients, {self.colluding} of them colluding, leaves "
                f"{self.honest_survivors} honest survivors at the threshold {self.threshold}: use noise = 'per_client'"
            )
        for release in self.releases:
            self._check_local_steps(release)
        names = [r.name for r in self.releases]
        if len(set(names)) != len(names):
            raise InputError(f"release names repeat: {sorted(n for n in set(names) if names.count(n) > 1)}")

    def _check_local_steps(self, release: ScheduledRelease) -> None:
        if release.local_steps == 1:
            return
        if release.kind != "gradients":
            raise InputError(
                f"release {release.name!r} of kind {release.kind!r} has no local steps; only gradients do"
            )
        if self.private and self.noise != "per_client":
            raise InputError(
                f"{release.local_steps} noisy local steps cannot share one distributed noise: the second would start from "
                "weights that carry only a part of it; use privacy.noise = 'per_client', or gradients.local_steps = 1"
            )

    def _check_numbers(self) -> None:
        """A plan comes from a server: what looks like less collusion or another placement means less noise."""
        if self.noise not in get_args(NoisePlacement):
            raise InputError(f"noise={self.noise!r} is none of {', '.join(get_args(NoisePlacement))}")
        for name, least in (("colluding", 0), ("max_users", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise InputError(f"{name}={value!r} of the plan is not an integer of at least {least}")
        for name in ("private", "protect_within_client"):
            if type(getattr(self, name)) is not bool:
                raise InputError(f"{name}={getattr(self, name)!r} of the plan is not true or false")
        for name, most in (("epsilon", math.inf), ("target_delta", 1.0)):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0.0 < value < most):
                raise InputError(f"{name}={value!r} of the plan is not a number in (0, {most})")

    @property
    def threshold(self) -> int:
        """Clients that must survive a round: floor(2n/3) + 1 (``docs/protocol.md``)."""
        return 2 * len(self.cohort) // 3 + 1

    @property
    def honest_survivors(self) -> int:
        """Noise shares the sum is sure to hold against the assumed colluders."""
        return 1 if self.noise == "per_client" else self.threshold - self.colluding

    @property
    def fit_ends_measuring(self) -> bool:
        """Whether encoders are fitted without noise in a plan that has noise.

        Such an encoder carries one user of a client into the ranks of all others there, so that no bound on a
        user's own row bounds what she adds to a sum of ranks: nothing may be released after that fit.
        """
        return self.private and not self.protect_within_client

    def release(self, name: str) -> ScheduledRelease:
        """The release of that name.

        Raises:
            InputError: the plan has none.
        """
        for release in self.releases:
            if release.name == name:
                return release
        raise InputError(f"release {name!r} is not in the plan ({', '.join(r.name for r in self.releases)})")

    def events(self) -> tuple[ReleaseEvent, ...]:
        """All events of the plan, in order; empty when privacy is off."""
        return tuple(r.event() for r in self.releases) if self.private else ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object from which ``from_json`` restores an equal plan."""
        document: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        document["cohort"] = list(self.cohort)
        document["releases"] = [r.to_json() for r in self.releases]
        document["settings"] = dict(self.settings)
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> FederationPlan:
        """Restore a plan.

        Raises:
            InputError: fields are missing, unknown or out of range.
        """
        if set(document) != set(cls.__dataclass_fields__):
            raise InputError(
                f"plan fields {sorted(document)} differ from the known {sorted(cls.__dataclass_fields__)}"
            )
        values = dict(document)
        releases = cast("list[dict[str, Any]]", values["releases"])
        values["releases"] = tuple(ScheduledRelease.from_json(r) for r in releases)
        values["cohort"] = tuple(values["cohort"])
        return cls(**values)

    @property
    def sha256(self) -> bytes:
        """Hash of the whole plan."""
        return hashlib.sha256(canonical_json(self.to_json())).digest()


def assumed_colluders(clients: int) -> int:
    """Clients assumed to tell the server their share of the noise where nobody says otherwise: a fifth, at least one."""
    return max(1, clients // 5)


def choose_noise(
    requested: Literal["auto", "distributed", "per_client"], clients: int, colluding: int | None
) -> tuple[NoisePlacement, int]:
    """Settle where noise is added and how many clients are assumed to collude.

    Raises:
        InputError: distributed noise is asked for where it protects too little.
    """
    assumed = assumed_colluders(clients) if colluding is None else colluding
    if requested == "per_client" or (requested == "auto" and clients <= PER_CLIENT_UP_TO):
        return "per_client", assumed
    if clients <= PER_CLIENT_UP_TO:
        raise InputError(
            f"noise = 'distributed' with {clients} clients: one client that leaves or colludes would take too large a "
            f"part of the noise; use noise = 'per_client' up to {PER_CLIENT_UP_TO} clients"
        )
    return "distributed", assumed
