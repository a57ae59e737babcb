"""A schedule of releases, and how a budget is divided among them.

The squared privacy parameter mu^2 of Gaussian differential privacy (Dong, Roth, Su 2022, Corollary 3.3) adds up over
releases, so a budget is divided by *shares of mu^2*: a release with half the share of another gets sqrt(2) times its noise.
For Poisson-sampled steps mu is only the central-limit approximation (same paper, Theorem 5.1), good enough to divide a
budget but not to state one; the whole schedule is therefore scaled afterwards until its epsilon, by PLD, meets the budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from privacy.accounting.calibration import gaussian_mu, scale_to_budget
from privacy.accounting.events import ReleaseEvent
from privacy.errors import InputError


@dataclass(frozen=True)
class ScheduledRelease:
    """One planned release.

    Attributes:
        name: unique in the schedule ("popularity", "metrics-final").
        kind: what a client has to compute ("popularity", "statistics", "statistics-subspace",
            "comparison", "gradients", "metrics", "metrics-detail", "fit").
        share: of mu^2, non-negative; the shares of a schedule need not add up to 1.
        steps: number of rounds, each with fresh noise.
        local_steps: noisy steps that a client takes in a round before it uploads, 1..1000; every one is charged.
        sampling_probability: with which each user takes part in a round (Poisson).
        left_the_client: False for the encoder's local fit.
        noise_multiplier: standard deviation of the noise over the L2 bound; None until the schedule is fitted,
            0 when privacy is off.
    """

    name: str
    kind: str
    share: float
    steps: int = 1
    sampling_probability: float = 1.0
    left_the_client: bool = True
    noise_multiplier: float | None = None
    local_steps: int = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.share < math.inf:
            raise InputError(f"share={self.share} of release {self.name!r} is not a non-negative number")
        if type(self.local_steps) is not int or not 1 <= self.local_steps <= 1000:
            raise InputError(
                f"local_steps={self.local_steps!r} of release {self.name!r} is not an integer in 1..1000"
            )

    @property
    def charged_steps(self) -> int:
        """Noisy steps in all: rounds times steps a round."""
        return self.steps * self.local_steps

    def event(self) -> ReleaseEvent:
        """The event to be reserved and accounted."""
        if self.noise_multiplier is None:
            raise InputError(f"release {self.name!r} has no noise_multiplier yet: fit the schedule first")
        return ReleaseEvent(
            name=self.name,
            noise_multiplier=self.noise_multiplier,
            sampling_probability=self.sampling_probability,
            count=self.charged_steps,
            left_the_client=self.left_the_client,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object, for the plan that clients agree to."""
        return {
            "name": self.name,
            "kind": self.kind,
            "share": float(self.share),
            "steps": self.steps,
            "sampling_probability": float(self.sampling_probability),
            "left_the_client": self.left_the_client,
            "noise_multiplier": self.noise_multiplier,
            "local_steps": self.local_steps,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> ScheduledRelease:
        """Restore a release; unknown or missing fields are an ``InputError``."""
        try:
            return cls(**document)
        except TypeError as error:
            raise InputError(f"a scheduled release has unexpected fields: {error}") from None


def fit_to_budget(
    releases: Sequence[ScheduledRelease], epsilon: float, target_delta: float
) -> tuple[ScheduledRelease, ...]:
    """Give every release its noise, so that the whole schedule costs ``epsilon`` at ``target_delta``.

    Releases that bring their own ``noise_multiplier`` keep it, and are not counted here: they are checked, like all
    others, when they are reserved.

    Raises:
        InputError: epsilon or delta is not usable, or no release has a share.
    """
    open_releases = [r for r in releases if r.noise_multiplier is None]
    if not open_releases:
        return tuple(releases)
    total_share = sum(r.share for r in open_releases)
    if total_share <= 0.0:
        raise InputError("no release has a share of the budget: give at least one release a positive share")
    mu = gaussian_mu(epsilon, target_delta)
    nominal = {
        r.name: nominal_noise_multiplier(r, mu * math.sqrt(r.share / total_share)) for r in open_releases
    }
    events = [replace(r, noise_multiplier=nominal[r.name]).event() for r in open_releases]
    scale = scale_to_budget(events, epsilon, target_delta)
    return tuple(
        replace(r, noise_multiplier=nominal[r.name] * scale) if r.noise_multiplier is None else r
        for r in releases
    )


def nominal_noise_multiplier(release: ScheduledRelease, mu: float) -> float:
    """Noise that gives the release about this mu.

    Without sampling mu = sqrt(steps) / z; with it mu = q * sqrt(steps * (exp(1 / z^2) - 1)) (Dong, Roth, Su 2022,
    Section 5.2, solved for z).
    """
    if mu <= 0.0:
        raise InputError(f"release {release.name!r} has no share of the budget: drop it or give it a share")
    q = release.sampling_probability
    if q == 1.0:
        return math.sqrt(release.charged_steps) / mu
    return 1.0 / math.sqrt(math.log1p((mu / q) ** 2 / release.charged_steps))
