"""Gradients and the count that moves their clip norm: one vector, one bound, one noise.

Andrew, Thakkar, McMahan, Ramaswamy, "Differentially Private Learning with Adaptive Clipping", NeurIPS 2021,
Algorithm 1: each round sums gradients clipped to C and counts the users within C, and C moves geometrically towards the
target quantile. There the two are noised apart and composed (Theorem 1); here the count is one more cell of the vector
that is summed, and a user's row is

    [ g / C  clipped to G grid steps  ||  her count, at most c grid steps ],    G^2 + c^2 <= B^2 in integers.

So one event with the joint bound B covers both, whatever C is: the grid is in units of C, B does not contain C, and no
norm that a server names, however silly, lets a user contribute more. What a norm decides is how useful the sum is.

Two things differ from the source:

* A user counts ``within - quantile`` instead of ``within - 1/2``; the two agree at the median, 0.5. With another quantile
  the source's divisor needs every expected user; here whoever gives nothing (no next item, a client that dropped out)
  pulls the norm nowhere.
* ``within`` falls from 1 to 0 on a ramp of 5 % to both sides of C. The last bits of a 32-bit norm may move with the
  batch it is computed in; a hard step would turn such a bit into a whole count of somebody else, a ramp into a
  fraction of a grid step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.bounded import BoundedSum, concatenate
from privacy.errors import InputError

MIN_CLIP_NORM = 1e-6
MAX_CLIP_NORM = 1e6

_COUNT_SHARE = (
    0.1  # of the bound; the gradients keep sqrt(1 - 0.1^2) = 99.5 % of it, so their noise grows by 0.5 %
)
_RAMP = 0.05
_ROUNDING = 1e-9


@dataclass(frozen=True)
class JointClip:
    """How the agreed bound is divided, and how the norm moves.

    Attributes:
        l2_bound: B, of the whole row, in grid steps.
        first_norm: clip norm of the first round.
        target_quantile: share of users that should be within the norm.
        rate: eta_C of the source, the longest geometric step a round may take; 0.2 there.

    Raises:
        InputError: a number is NaN or out of range.
    """

    l2_bound: int
    first_norm: float
    target_quantile: float = 0.5
    rate: float = 0.2

    def __post_init__(self) -> None:
        if self.l2_bound < 2:
            raise InputError(f"l2_bound={self.l2_bound} leaves no room for gradients and a count: at least 2")
        if not MIN_CLIP_NORM <= self.first_norm <= MAX_CLIP_NORM:
            raise InputError(f"l2_clip_norm={self.first_norm} is not in [{MIN_CLIP_NORM}, {MAX_CLIP_NORM}]")
        if not 0.0 < self.target_quantile < 1.0:
            raise InputError(f"target_quantile={self.target_quantile} is not in (0, 1)")
        if not 0.0 < self.rate <= 1.0:
            raise InputError(f"clip_rate={self.rate} is not in (0, 1]")

    @classmethod
    def agreed(cls, l2_bound: int, gradients: Mapping[str, Any]) -> JointClip | None:
        """As a plan's settings of gradients say; None where the clip norm is fixed."""
        if not gradients["adaptive_clip"]:
            return None
        return cls(l2_bound, gradients["l2_clip_norm"], gradients["target_quantile"], gradients["clip_rate"])

    @property
    def count_bound(self) -> int:
        """c: most that one user adds to the count's cell, in grid steps."""
        return max(1, math.floor(_COUNT_SHARE * self.l2_bound))

    @property
    def gradient_bound(self) -> int:
        """G: largest norm of one user's gradient, in grid steps."""
        return math.isqrt(self.l2_bound**2 - self.count_bound**2)

    def unit(self, norm: float) -> float:
        """Grid step of the gradients' cells at this clip norm, in the gradients' own units."""
        return norm / self.gradient_bound

    def clip_norm(self, norm: float) -> float:
        """The norm to clip with, such that ``floor(clip_norm / unit)`` is exactly ``gradient_bound``.

        Half a grid step above ``norm``: the quotient of two rounded numbers may fall short of a whole one. What is
        clipped is the integer row, at ``gradient_bound``.
        """
        return (self.gradient_bound + 0.5) * self.unit(norm)

    def count(self, norms: NDArray[np.floating], norm: float) -> int:
        """What these users add to the count's cell together, in grid steps; each of them at most ``count_bound``.

        Args:
            norms: ``[users]`` before clipping; one that is not a number counts as above.
            norm: this round's clip norm.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            within = np.clip((1.0 + _RAMP - norms / norm) / (2.0 * _RAMP), 0.0, 1.0)
        within = np.where(np.isnan(within), 0.0, within)
        centred = (within - self.target_quantile) / self._largest
        return int(np.trunc(centred * self.count_bound).astype(np.int64).sum())

    def joined(self, gradients: BoundedSum, count: int, unit: float) -> BoundedSum:
        """One vector of both, ready for one noise, with the whole bound.

        Args:
            gradients: clipped to ``gradient_bound`` on the grid of this round's norm.
            count: of the same users.
            unit: grid step of the release, which is in units of the norm.

        Raises:
            InputError: the gradients were clipped otherwise.
        """
        if gradients.l2_bound != self.gradient_bound:
            raise InputError(
                f"gradients with bound {gradients.l2_bound} do not leave room for a count: "
                f"clip them to {self.gradient_bound} grid steps"
            )
        counted = BoundedSum(np.array([count], dtype=np.int64), self.count_bound, unit, gradients.users)
        both = concatenate([replace(gradients, unit=unit), counted])
        # The root of G^2 + c^2, rounded up, is at most B; stated as B, which the release is accounted with.
        return replace(both, l2_bound=self.l2_bound)

    def after(self, norm: float, released_count: float, expected_users: float) -> float:
        """The clip norm of the next round: ``C exp(-rate * (share within - quantile))``.

        Args:
            norm: of the round that was released.
            released_count: the count's cell of the noised sum, in grid steps.
            expected_users: public, positive; never the number drawn.
        """
        excess = released_count / self.count_bound * self._largest / expected_users
        # Noise may carry the share out of [0, 1]; cut off, no single draw moves the norm by more than exp(rate).
        excess = min(max(excess, -self.target_quantile), 1.0 - self.target_quantile)
        return min(max(norm * math.exp(-self.rate * excess), MIN_CLIP_NORM), MAX_CLIP_NORM)

    def is_reachable(self, norm: object, step: int) -> bool:
        """Whether the clip norm named for a round can follow from any releases at all; a public question.

        Args:
            norm: as received, of any type.
            step: of the round, from 0; a client may have missed earlier ones.
        """
        if not isinstance(norm, float) or not MIN_CLIP_NORM <= norm <= MAX_CLIP_NORM:
            return False
        return abs(math.log(norm / self.first_norm)) <= self.rate * step * self._largest + _ROUNDING * (
            step + 1
        )

    @property
    def _largest(self) -> float:
        """Largest absolute value of ``within - quantile``."""
        return max(self.target_quantile, 1.0 - self.target_quantile)
