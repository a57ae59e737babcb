"""A clip norm that follows a quantile of the users' norms, by a release that is charged like any other.

Andrew, Thakkar, McMahan, Ramaswamy, "Differentially Private Learning with Adaptive Clipping", NeurIPS 2021, Algorithm 1:
each round releases how many users were within the clip norm, with noise, and moves the norm geometrically towards the
target quantile. The count is a release of its own, with an event; a clip norm tuned on unnoised norms would be a
leak that no ledger shows.

A user adds +1/2 if her norm is within the clip norm and -1/2 if not (Section 3, "b - 1/2"), so she moves the sum by 1/2
and not by 1. The divisor is the public, expected number of users, never the number drawn.

For one party that sees all norms, such as a client's own fit. In a federation the count is one more cell of the gradient
vector, under the joint bound: ``privacy.mechanisms.joint_clip``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from privacy.bounded import BoundedSum, NoisedSum
from privacy.errors import InputError
from privacy.mechanisms.discrete_gaussian import add_noise
from privacy.randomness import RandomSource

# Grid steps for one half: noise is hundreds of steps wide and more, up to a multiplier of 128.
_STEPS = 2**10


@dataclass(frozen=True)
class AdaptiveClip:
    """The clip norm of the next round, and how it moves.

    Attributes:
        l2_clip_norm: current; public, since it follows from releases alone.
        expected_users: public denominator, positive.
        target_quantile: share of users that should be within the norm; 0.5 in the source.
        rate: eta_C, of the geometric step; 0.2 in the source.

    Raises:
        InputError: a number is NaN or out of range.
    """

    l2_clip_norm: float
    expected_users: float
    target_quantile: float = 0.5
    rate: float = 0.2

    def __post_init__(self) -> None:
        for name in ("l2_clip_norm", "expected_users", "rate"):
            value = getattr(self, name)
            if not 0.0 < value < math.inf:
                raise InputError(f"{name}={value} is not a positive finite number")
        if not 0.0 < self.target_quantile < 1.0:
            raise InputError(f"target_quantile={self.target_quantile} is not in (0, 1)")

    def count(self, norms: NDArray[np.floating]) -> BoundedSum:
        """How many users are within the norm, less half of them: one entry, bound 1/2.

        Args:
            norms: ``[users]`` before clipping; one that is not a number counts as above.
        """
        within = norms <= self.l2_clip_norm
        total = _STEPS * int(2 * within.sum() - norms.size)
        return BoundedSum(np.array([total]), _STEPS, 0.5 / _STEPS, norms.size)

    def release(
        self, norms: NDArray[np.floating], noise_multiplier: float, randomness: RandomSource
    ) -> NoisedSum:
        """The count with noise, and the event to be charged for it.

        Args:
            norms: ``[users]`` of this round's users before clipping.
            noise_multiplier: standard deviation over the bound of 1/2; the source's ``2 sigma_b``.
            randomness: source of the noise.
        """
        return add_noise(
            self.count(norms),
            noise_multiplier * _STEPS,
            randomness,
            name="adaptive-clip",
            left_the_client=False,
            detail={"l2_clip_norm": self.l2_clip_norm, "target_quantile": self.target_quantile},
        )

    def after(self, released: NoisedSum) -> AdaptiveClip:
        """The clip norm of the next round: C * exp(-rate * (share within - target))."""
        # Noise may carry the share out of [0, 1]; cut off, no single draw can move the norm by more than exp(rate).
        share = min(max(float(released.dense[0]) / self.expected_users + 0.5, 0.0), 1.0)
        moved = self.l2_clip_norm * math.exp(-self.rate * (share - self.target_quantile))
        return replace(self, l2_clip_norm=min(max(moved, 1e-12), 1e12))


def gradient_noise_multiplier(joint: float, count: float) -> float:
    """Noise of the gradients, so that gradients and count together cost as much as one release of ``joint``.

    ``(joint^-2 - count^-2)^(-1/2)`` (Theorem 1 of the source, where ``count`` is ``2 sigma_b``).

    Raises:
        InputError: the count alone costs as much already.
    """
    if not (0.0 < joint < count < math.inf):
        raise InputError(
            f"noise multiplier {count} of the count must exceed the joint one, {joint}: the count would cost everything"
        )
    return (joint**-2 - count**-2) ** -0.5
