"""A sum of which one part is rounded to the grid once, after adding up, and the rest user by user.

Where a user's own gradient is never written down (ghost clipping), it cannot be truncated either: only the sum over users
can be rounded. Rounding depends on everybody, so it costs something, and the cost is part of the bound.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from privacy.bounded import BoundedSum
from privacy.errors import InputError

_ARITHMETIC = 2.0**-10
"""Share of the reach kept for 32-bit arithmetic: what the guard tolerates before training starts."""

_LARGEST_LOSS = 0.25


def rounding_steps(cells: int) -> int:
    """ceil(sqrt(cells)): by how many grid steps, in L2 norm, rounding a sum once may change what one user moves.

    Proof. Let x and x' be the real sums without and with a user, in grid steps. Rounding to the nearest whole number moves a
    coordinate by at most 1/2, so rint(x') - rint(x) = (x' - x) + r with |r_i| <= 1, and |r| <= sqrt(cells). This holds
    whoever the others are; both neighbours are covered because r may have either sign.
    """
    return math.isqrt(cells - 1) + 1 if cells > 0 else 0


def reach_before_rounding(l2_bound: int, unit: float, cells: int) -> float:
    """Largest L2 norm, in the caller's units, that users may keep if ``cells`` entries of their sum are rounded once.

    ``(l2_bound - rounding_steps(cells)) * unit``, less 2^-10 of it: so what one user moves, rounding and arithmetic
    included, stays within ``l2_bound``. The bound is the one that was agreed; the clip norm gives way.

    Raises:
        InputError: rounding would take more than a quarter of the bound.
    """
    lost = rounding_steps(cells)
    if lost > _LARGEST_LOSS * l2_bound:
        raise InputError(
            f"rounding {cells} summed entries once may move them by {lost} grid steps, more than a quarter of the bound "
            f"of {l2_bound}: use per-user gradients by hooks, or less noise, which allows a finer grid"
        )
    return (l2_bound - lost) * unit * (1.0 - _ARITHMETIC)


class RoundedOnceSum:
    """A running sum ``[entries rounded once || entries truncated user by user]``.

    Args:
        rounded: leading entries, added up in float64 and rounded when the total is taken.
        length: of the whole vector.
        l2_bound: of the total, in grid steps, rounding included.
        unit: grid step.

    Guarantees:
        If every user's part has L2 norm at most :attr:`reach` over both blocks together, adding or removing a user changes
        the total by an integer vector of norm at most ``l2_bound``: her part of the second block, truncated toward zero, is
        no longer than it was, and the first block is covered by :func:`rounding_steps`. However the users were divided into
        batches: the first block is rounded once, not once a batch. That users keep to the reach is the caller's to see to.

    Raises:
        InputError: see :func:`reach_before_rounding`; or a size does not fit.
    """

    def __init__(self, rounded: int, length: int, *, l2_bound: int, unit: float) -> None:
        if not 0 < rounded <= length:
            raise InputError(f"{rounded} entries of {length} cannot be rounded once")
        self._empty = BoundedSum(np.zeros(0, dtype=np.int64), l2_bound, unit, 0)
        self.reach = reach_before_rounding(l2_bound, unit, rounded)
        self._first = np.zeros(rounded, dtype=np.float64)
        self._second = np.zeros(length - rounded, dtype=np.int64)
        self._users = 0

    def add(
        self,
        summed: NDArray[np.float64],
        cells: NDArray[np.int64],
        values: NDArray[np.float64],
        *,
        users: int,
    ) -> None:
        """Add a batch of users.

        Args:
            summed: ``[rounded]`` clipped and already added up, in the caller's units.
            cells: ``[entries]`` places in the second block, none twice for one user.
            values: ``[entries]`` what users put there, clipped, in the caller's units, each truncated by itself.
            users: how many they are.

        Raises:
            InputError: ``summed`` is not finite. Users whose numbers are not must have been left out.
        """
        if not np.isfinite(summed).all():
            raise InputError(
                "a clipped sum is not finite: leave users with such gradients out before adding up"
            )
        self._first += summed
        np.add.at(self._second, cells, np.trunc(values / self._empty.unit).astype(np.int64))
        self._users += users

    def total(self) -> BoundedSum:
        """The sum so far, with its bound."""
        unit = self._empty.unit
        first = np.rint(self._first / unit).astype(np.int64)
        return BoundedSum(np.concatenate([first, self._second]), self._empty.l2_bound, unit, self._users)
