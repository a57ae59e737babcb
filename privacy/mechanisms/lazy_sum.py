"""Several noisy steps on one table, of which only the end is shown: bounded sums in, one noised sum out.

For one party that trains a copy of a table for itself, over steps it adds all of the noise to, and hands out what changed.
Its noise may be drawn when a row is read (``lazy_noise``), because nobody sees the table in between. The values are whole grid
steps throughout, so what is released is exactly the sum of the steps' clipped sums and of the discrete noise they owe:
equal in distribution to noise on every row at every step, and nothing has to be rounded or clipped again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.events import ReleaseEvent
from privacy.bounded import BoundedSum, NoisedSum
from privacy.errors import InputError
from privacy.mechanisms.lazy_noise import LazyNoise
from privacy.randomness import RandomSource

Integers = NDArray[np.int64]

_SETTLED_AT_ONCE = 2**20  # entries: noise for a large table is drawn in pieces, not beside the table


class LazilyNoisedSum:
    """The running change of a table ``[rows, width]``.

    Args:
        rows: of the table.
        width: entries of a row.
        l2_bound: of each step's sum, in grid steps.
        unit: grid step.
        sigma: scale of each step's noise in grid steps; None for runs without privacy.
        randomness: source of the noise.

    Raises:
        InputError: a size is not positive, or sigma is NaN or out of range.
    """

    def __init__(
        self,
        rows: int,
        width: int,
        *,
        l2_bound: int,
        unit: float,
        sigma: float | None,
        randomness: RandomSource,
    ) -> None:
        if rows < 1 or width < 1:
            raise InputError(f"a table of {rows} x {width} has no rows to train")
        self._values = np.zeros((rows, width), dtype=np.int64)
        self._grid = (l2_bound, unit)
        self._sigma = sigma
        self._owed = None if sigma is None else LazyNoise(rows, width, sigma, randomness)
        self._simulated = randomness.is_simulated
        self._steps = 0

    def read(self, rows: Integers) -> Integers:
        """What these rows have changed by so far, all of their noise included: ``[len(rows), width]`` grid steps.

        Args:
            rows: none twice.

        Raises:
            InputError: a row is named twice.
        """
        if self._owed is not None:
            self._values[rows] += self._owed.settle(rows)
        return self._values[rows]

    def add(self, rows: Integers, part: BoundedSum) -> None:
        """One step: the clipped sum over its users, which touches these rows; all rows are owed the step's noise.

        Args:
            rows: none twice; empty in a step that drew nobody.
            part: ``[len(rows) * width]``, row by row.

        Raises:
            InputError: the part has another bound or grid than is accounted, or another size.
        """
        if (part.l2_bound, part.unit) != self._grid:
            raise InputError(
                f"a step with (bound, unit) = {(part.l2_bound, part.unit)} is accounted with {self._grid}: "
                "clip every step alike"
            )
        self._values[rows] += part.values.reshape(len(rows), self._values.shape[1])
        self._steps += 1
        if self._owed is not None:
            self._owed.step()

    def release(self, *, name: str) -> NoisedSum:
        """The whole change, every row settled, and the event of all steps together.

        Args:
            name: of the release.

        Raises:
            InputError: the sum has no noise, and so no event.
        """
        if self._sigma is None:
            raise InputError("a sum without noise is not released as a noised one")
        event = ReleaseEvent(
            name,
            noise_multiplier=self._sigma / self._grid[0],
            count=self._steps,
            detail={"l2_bound": self._grid[0], "unit": self._grid[1], "entries": self._values.size}
            | ({"simulated": 1} if self._simulated else {}),
        )
        return NoisedSum(self.settled(), self._grid[1], event)

    def settled(self) -> Integers:
        """The whole change, ``[rows * width]``, with all noise that is owed."""
        together = max(1, _SETTLED_AT_ONCE // self._values.shape[1])
        for start in range(0, len(self._values), together):
            self.read(np.arange(start, min(start + together, len(self._values)), dtype=np.int64))
        return self._values.reshape(-1)
