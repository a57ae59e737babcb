"""The numbers of one release, computed alike by server and client from the agreed plan.

Neither side sends them to the other: a client that computes another schema than the server gets another schema hash, and
the round is refused before anything is masked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.events import DetailValue, ReleaseEvent
from privacy.accounting.plan import FederationPlan
from privacy.accounting.schedule import ScheduledRelease
from privacy.bounded import BoundedSum, UserContributions, clip_and_sum
from privacy.errors import InputError
from privacy.mechanisms.discrete_gaussian import MAX_SIGMA, noise_share
from privacy.mechanisms.lazy_sum import LazilyNoisedSum
from privacy.randomness import RandomSource
from privacy.secagg.schema import Section, VectorSchema

SECTION = "sum"
_STEPS_PER_CLIP = 2**14  # grid steps per clip norm: a user's hundred cells keep two to three digits each
_STEPS_WITHOUT_NOISE = 2**30
_NOISE_REACH = 14.0  # the sampler's tail ends before 13 sigma


@dataclass(frozen=True)
class ReleaseTerms:
    """One release on the wire.

    Attributes:
        release: the agreed release.
        length: cells of the released vector.
        l2_clip_norm: largest norm of one user's contribution.
        unit: grid step; ``floor(l2_clip_norm / unit)`` is the integer bound.
        honest_survivors: noise shares the sum is sure to hold; 1 when every client adds all of it.
        max_users: most users of one client, which bounds its words.
        private: whether noise is added.
        facts: about the release, for the reader of the ledger; no number depends on them.
    """

    release: ScheduledRelease
    length: int
    l2_clip_norm: float
    unit: float
    honest_survivors: int
    max_users: int
    private: bool
    facts: Mapping[str, DetailValue] = field(default_factory=dict[str, DetailValue])

    @property
    def l2_bound(self) -> int:
        """Bound of one user's contribution in grid steps."""
        return math.floor(self.l2_clip_norm / self.unit)

    @property
    def total_sigma(self) -> float:
        """Standard deviation, in grid steps, that the sum is accounted with."""
        noise_multiplier = self.release.noise_multiplier
        if noise_multiplier is None:
            raise InputError(f"release {self.release.name!r} has no noise_multiplier: fit the schedule first")
        return noise_multiplier * self.l2_bound

    def event(self, *, simulated: bool) -> ReleaseEvent:
        """The event to reserve, with the facts that a certificate states beside it.

        Args:
            simulated: whether the noise follows from a seed, and so protects nobody.
        """
        event = self.release.event()
        shares = self.honest_survivors if event.left_the_client else 1
        detail = {
            "l2_clip_norm": float(self.l2_clip_norm),
            "unit": float(self.unit),
            "cells": self.length,
            "noise_shares": shares,
            "randomness": "simulated" if simulated else "system",
            **self.facts,
        }
        return replace(event, detail=detail)

    def executed_sd(self, survivors: int) -> float:
        """Standard deviation of the sum as it really is, in the caller's units: all survivors' shares together."""
        if not self.private:
            return 0.0
        noises = self.release.local_steps * survivors / self.honest_survivors
        return self.total_sigma * math.sqrt(noises) * self.unit

    def schema(self, clients: int) -> VectorSchema:
        """Word widths that no sum of ``clients`` contributions can overflow."""
        reach = (
            0.0 if not self.private else _NOISE_REACH * self.total_sigma / math.sqrt(self.honest_survivors)
        )
        bound = self.release.local_steps * (self.max_users * self.l2_bound + math.ceil(reach))
        bits = 32 if 2 * bound * clients < 2**32 else 64
        return VectorSchema((Section(SECTION, self.length, bits, bound),), clients)

    def protect(self, contributions: UserContributions, randomness: RandomSource) -> NDArray[np.int64]:
        """Clip, quantise, add this client's noise: what may be masked and sent, in that order.

        Returns:
            ``[length]`` grid steps.

        Raises:
            InputError: the contributions have another length than the release.
        """
        if contributions.length != self.length:
            raise InputError(
                f"release {self.release.name!r} has {self.length} cells, got {contributions.length}"
            )
        return self.add_share(
            clip_and_sum(contributions, l2_clip_norm=self.l2_clip_norm, unit=self.unit), randomness
        )

    def add_share(self, total: BoundedSum, randomness: RandomSource) -> NDArray[np.int64]:
        """Add this client's share of the noise to a bounded sum on this release's grid.

        Raises:
            InputError: the sum was made with another bound or another grid.
        """
        if total.l2_bound != self.l2_bound or total.unit != self.unit:
            raise InputError(
                f"release {self.release.name!r} is accounted with bound {self.l2_bound} on grid {self.unit}, the sum "
                f"has bound {total.l2_bound} on grid {total.unit}"
            )
        if not self.private:
            return total.values
        name = self.release.name
        return noise_share(total, self.total_sigma, self.honest_survivors, randomness, name=name).values

    def lazy_sum(self, rows: int, width: int, randomness: RandomSource) -> LazilyNoisedSum:
        """The change of a table over this release's local steps, with all of the noise at every step.

        Raises:
            InputError: the noise is shared, or the table is not what the release holds.
        """
        if self.private and self.honest_survivors != 1:
            raise InputError(
                f"release {self.release.name!r} shares its noise: a client cannot take steps of its own"
            )
        if rows * width != self.length:
            raise InputError(f"release {self.release.name!r} has {self.length} cells, not {rows} x {width}")
        return LazilyNoisedSum(
            rows,
            width,
            l2_bound=self.l2_bound,
            unit=self.unit,
            sigma=self.total_sigma if self.private else None,
            randomness=randomness,
        )


class Shape(Protocol):
    """What follows from a release's kind and the plan's settings; ``recsys_models.release_shapes.ReleaseShape`` is one."""

    @property
    def length(self) -> int:
        """Cells of the released vector."""
        ...

    @property
    def l2_clip_norm(self) -> float:
        """Largest norm of one user's contribution."""
        ...

    @property
    def unit(self) -> float | None:
        """Grid step, where the meaning of the numbers asks for one (metrics)."""
        ...

    @property
    def facts(self) -> Mapping[str, DetailValue]:
        """For the ledger's reader."""
        ...


def release_terms(plan: FederationPlan, name: str, shape: Shape) -> ReleaseTerms:
    """The terms of a release of the plan.

    Args:
        plan: agreed by both sides.
        name: of the release.
        shape: of the release. Without a grid step of its own it gets one at which the noise is thousands of steps wide and
            rounding is far below it. Noise too wide for the sampler makes either coarser.
    """
    release = plan.release(name)
    widest = _widest_bound(release, plan)
    l2_clip_norm, unit = shape.l2_clip_norm, shape.unit
    if unit is None:
        unit = l2_clip_norm / (_STEPS_WITHOUT_NOISE if widest is None else min(_STEPS_PER_CLIP, widest))
    elif widest is not None:
        # Doubling keeps whole numbers on the grid.
        while l2_clip_norm / unit > widest:
            unit *= 2.0
    return ReleaseTerms(
        release=release,
        length=shape.length,
        l2_clip_norm=l2_clip_norm,
        unit=unit,
        honest_survivors=plan.honest_survivors,
        max_users=plan.max_users,
        private=plan.private,
        facts=dict(shape.facts),
    )


def _widest_bound(release: ScheduledRelease, plan: FederationPlan) -> int | None:
    """Largest bound in grid steps whose noise the sampler can still draw; None where there is no noise.

    Counted with all of the noise in one draw, not a share: the encoder's part of a release is noised by one client alone.
    """
    noise_multiplier = release.noise_multiplier
    if not plan.private or noise_multiplier is None or noise_multiplier == 0.0:
        return None
    return max(16, math.floor(0.9 * MAX_SIGMA / noise_multiplier))
