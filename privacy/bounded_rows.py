"""``clip_and_sum`` for users with long rows: one user at a time, in cache, with the same proof.

A user's gradient of an encoder has as many entries as the encoder has parameters, so index arrays and sorting would
cost more than the gradient itself. Here a row is a few blocks whose place in the vector is known, and nothing the size
of all users is ever copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.bounded import BoundedSum, l2_bound_on_grid
from privacy.errors import InputError

Block = tuple[slice | NDArray[np.int64], NDArray[np.floating[Any]]]
"""Where a block lies (a slice, or the indices of each of its entries, none twice) and its values, in the caller's units."""

_EXACT_IN_FLOAT64 = 2**26  # squares of steps up to here, and their sum up to the bound's square, are exact
_SHRINK = 1.0 - 2.0**-40
_MOST_USERS = 2**22  # sums of 2^30 then stay exact in float64


class LongRowSum:
    """A sum over users, each clipped, truncated to the grid and checked in exact integers before it is added.

    Args:
        length: width of the vector.
        l2_clip_norm: largest L2 norm a user may keep, in the units of the values.
        unit: grid step, same units.

    Raises:
        InputError: as ``privacy.bounded.clip_and_sum``.
    """

    def __init__(self, length: int, *, l2_clip_norm: float, unit: float) -> None:
        if length < 1:
            raise InputError(f"length={length} is not a positive width")
        self._bound = l2_bound_on_grid(l2_clip_norm, unit)
        self._unit = unit
        self._total = np.zeros(length, dtype=np.float64)
        self._users = 0
        self._buffers: dict[int, NDArray[np.float64]] = {}

    def add(self, blocks: Sequence[Block]) -> None:
        """Add one user; a user with a value that is not finite adds nothing.

        Raises:
            InputError: more than 2^22 users.
        """
        if self._users >= _MOST_USERS:
            raise InputError(f"more than {_MOST_USERS} users in one sum: split them into batches")
        self._users += 1
        steps = [self._copied(number, values) for number, (_, values) in enumerate(blocks)]
        norm = math.sqrt(sum(float(np.vdot(s, s)) for s in steps))
        if not norm < math.inf:  # NaN, infinity, or a norm whose square overflows
            return
        reach = self._bound * self._unit
        factor = (reach / norm if norm > reach else 1.0) / self._unit
        for _ in range(64):
            for step in steps:
                step *= factor
                np.trunc(step, out=step)
            if _squared(steps, self._bound) <= self._bound * self._bound:
                break
            factor = _SHRINK
        else:
            return
        for (where, _), step in zip(blocks, steps, strict=True):
            self._total[where] += step

    def _copied(self, number: int, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """A block in a buffer that is used again for the next user: fresh memory costs more than the arithmetic."""
        buffer = self._buffers.get(number)
        if buffer is None or buffer.size < values.size:
            buffer = self._buffers[number] = np.empty(values.size, dtype=np.float64)
        copied = buffer[: values.size]
        copied[:] = values
        return copied

    def total(self) -> BoundedSum:
        """The sum so far, with its bound."""
        return BoundedSum(self._total.astype(np.int64), self._bound, self._unit, self._users)


def _squared(steps: Sequence[NDArray[np.float64]], bound: int) -> float | int:
    """Sum of squares of whole numbers: exact wherever it is compared with the bound's square."""
    if bound <= _EXACT_IN_FLOAT64:
        return sum(float(np.vdot(s, s)) for s in steps)
    if any(s.size and float(np.abs(s).max()) > bound for s in steps):
        return math.inf
    whole = [s.astype(np.int64) for s in steps]
    coarse = sum(float(np.vdot(s, s)) for s in steps)
    return sum(int(np.vdot(w, w)) for w in whole) if coarse < 2.0**62 else math.inf
