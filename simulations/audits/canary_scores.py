"""What the canary audit asks of every release it is tried on."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from simulations.audits.canary_release import ClaimedRelease


class Scores(NamedTuple):
    """What the attacker makes of one release, for each canary: about 1 if she is there, 0 if not, and noise.

    Attributes:
        known: with all coins known but the canary's own, as the definition of differential privacy has it: for the estimate.
        blind: from the release alone, which is what the theorem behind the lower bound asks for.
    """

    known: NDArray[np.float64]
    blind: NDArray[np.float64]


class Canaries(Protocol):
    """Planted users of one release."""

    @property
    def release(self) -> ClaimedRelease:
        """Under audit."""
        ...

    @property
    def count(self) -> int:
        """How many canaries there are."""
        ...

    def attack(self, coin: NDArray[np.bool_], view: str, repetition: int) -> Scores:
        """Release once, with the canaries whose coin says so and fresh noise, and score all of them.

        Args:
            coin: ``[count]``.
            view: what the attacker may see, one of ``release.carriers``.
            repetition: of the release; gives the noise.
        """
        ...
