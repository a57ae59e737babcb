"""Sums over users that carry the proven bound on what one user adds.

``UserContributions -> BoundedSum -> NoisedSum``: each step has a type of its own and the next accepts only
that type, so the noise step is never *told* a sensitivity, it reads the one that clipping proved. The bound
is on the integers that are noised, not on the floats before them: rounding after clipping would add up to
sqrt(entries of a user) grid steps, which truncation toward zero cannot (the idea of jax_privacy's
``_adjusted_clip_norm``, taken to its end).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from privacy.accounting.events import ReleaseEvent
from privacy.errors import InputError

MAX_L2_BOUND = (
    2**30
)  # squared norms of users then fit 64 bits, and noise far beyond the sampler's range anyway
_SHRINK = 1.0 - 2.0**-40


@dataclass(frozen=True, eq=False)
class UserContributions:
    """One client's users as sparse rows: user u owns ``indices[offsets[u]:offsets[u + 1]]``.

    Construction brings the rows into canonical form: 64-bit arrays, indices ascending and unique within a
    user (repeated ones are added up), and users with a NaN or infinite value emptied and counted. An emptied
    user contributes zero, so one broken log can neither poison the sum nor change another user's part in it.

    Attributes:
        indices: positions in the dense vector, shape ``[entries]``.
        values: what the user adds there, shape ``[entries]``, in the caller's units.
        offsets: row boundaries, shape ``[users + 1]``, from 0 to ``entries``, not decreasing.
        length: width of the dense vector.
        dropped_users: users emptied because of non-finite values. As private as the data.

    Raises:
        InputError: shapes disagree, offsets are not boundaries, or an index is outside 0..length-1.
    """

    indices: NDArray[np.int64] = field(repr=False)
    values: NDArray[np.float64] = field(repr=False)
    offsets: NDArray[np.int64] = field(repr=False)
    length: int
    dropped_users: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        indices = _integers("indices", self.indices)
        offsets = _integers("offsets", self.offsets)
        values = np.asarray(self.values, dtype=np.float64)
        _check_rows(indices, values, offsets, self.length)
        indices, values, rows = _merged(indices, values, offsets, self.length)
        finite = np.bincount(rows[~np.isfinite(values)], minlength=offsets.size - 1) == 0
        keep = finite[rows]
        counts = np.bincount(rows[keep], minlength=offsets.size - 1)
        self._set("indices", indices[keep])
        self._set("values", values[keep])
        self._set("offsets", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
        object.__setattr__(self, "dropped_users", int((~finite).sum()))

    def _set(self, name: str, array: NDArray[np.generic]) -> None:
        array.flags.writeable = False
        object.__setattr__(self, name, array)

    @property
    def users(self) -> int:
        """Number of rows, emptied ones included."""
        return self.offsets.size - 1

    @classmethod
    def from_dense(cls, matrix: ArrayLike) -> UserContributions:
        """Builds the rows from a matrix ``[users, length]``; zeros take no space.

        Raises:
            InputError: not a matrix of numbers with at least one column.
        """
        dense = np.asarray(matrix, dtype=np.float64)
        if dense.ndim != 2:
            raise InputError(f"a dense contribution is a matrix [users, length], not of shape {dense.shape}")
        rows, columns = np.nonzero(dense)
        counts = np.bincount(rows, minlength=dense.shape[0])
        return cls(columns, dense[rows, columns], np.concatenate([[0], np.cumsum(counts)]), dense.shape[1])


@dataclass(frozen=True, eq=False)
class BoundedSum:
    """A sum over users, on an integer grid, with the exact bound on one user's part.

    Guarantees (of the functions here that build it): adding or removing one user changes ``values`` by an
    integer vector of L2 norm at most ``l2_bound``. Whoever builds one by hand vouches for that alone.

    Attributes:
        values: the sum in grid steps, shape ``[length]``. Private until noised.
        l2_bound: in grid steps, 1..2^30.
        unit: size of one grid step in the caller's units.
        users: how many were added. Private: publish it only as a noised entry of its own.
    """

    values: NDArray[np.int64] = field(repr=False)
    l2_bound: int
    unit: float
    users: int = field(repr=False)

    def __post_init__(self) -> None:
        values = _integers("values", self.values)
        if not _is_positive(self.unit):
            raise InputError(f"unit={self.unit} is not a positive finite number")
        if int(self.l2_bound) != self.l2_bound or not 1 <= self.l2_bound <= MAX_L2_BOUND:
            raise InputError(f"l2_bound={self.l2_bound} is not an integer in 1..2^30: choose another unit")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "l2_bound", int(self.l2_bound))


@dataclass(frozen=True, eq=False)
class NoisedSum:
    """A bounded sum after noise, with the event that has to be accounted for it.

    Attributes:
        values: in grid steps, shape ``[length]``.
        unit: size of one grid step.
        event: what was done, derived from the bound of the sum and the noise that was added.
    """

    values: NDArray[np.int64] = field(repr=False)
    unit: float
    event: ReleaseEvent

    @property
    def dense(self) -> NDArray[np.float64]:
        """The released vector in the caller's units, shape ``[length]``."""
        return self.values.astype(np.float64) * self.unit


def clip_and_sum(c: UserContributions, *, l2_clip_norm: float, unit: float) -> BoundedSum:
    """Clips each user, rounds each user toward zero to the grid, checks the integers, and adds them up.

    Args:
        c: one row a user.
        l2_clip_norm: largest L2 norm a user may keep, in the units of ``c.values``.
        unit: grid step, same units. 1e-4 of the clip norm loses less than the noise of any sensible budget.

    Guarantees:
        ``l2_bound = floor(l2_clip_norm / unit)`` and for every user, in exact integer arithmetic,
        sum(q^2) <= l2_bound^2. What one user adds depends on that user's row alone.

    ==========================  =================================================
    a user's row                contribution
    ==========================  =================================================
    empty, or NaN/inf inside    zero
    norm <= l2_bound * unit     values truncated toward zero to the grid
    longer                      scaled to that norm first
    ==========================  =================================================

    Returns:
        The sum, shape ``[c.length]``.

    Raises:
        InputError: a parameter is not a positive finite number, or the grid is coarser than the clip norm, or
            so fine that the bound exceeds 2^30 steps.
    """
    bound = l2_bound_on_grid(l2_clip_norm, unit)
    steps = _quantised(c, bound, unit)
    total = np.zeros(c.length, dtype=np.int64)
    np.add.at(total, c.indices, steps)  # |total| <= users * 2^30: no wrap below 2^33 users
    return BoundedSum(total, bound, unit, c.users)


def l2_bound_on_grid(l2_clip_norm: float, unit: float) -> int:
    """Returns floor(l2_clip_norm / unit), the bound in grid steps.

    Raises:
        InputError: see ``clip_and_sum``.
    """
    for name, value in (("l2_clip_norm", l2_clip_norm), ("unit", unit)):
        if not _is_positive(value):
            raise InputError(f"{name}={value} is not a positive finite number")
    ratio = l2_clip_norm / unit
    if ratio < 1.0:
        raise InputError(
            f"unit={unit} is coarser than l2_clip_norm={l2_clip_norm}: every user would round to zero"
        )
    if ratio > MAX_L2_BOUND:
        raise InputError(f"l2_clip_norm / unit = {ratio:.3g} exceeds 2^30 grid steps: choose a coarser unit")
    return math.floor(ratio)


def concatenate(parts: Sequence[BoundedSum]) -> BoundedSum:
    """Joins sums over the *same* users into one vector, released with one noise.

    Returns:
        The joined sum; its bound is the root of the summed squares, rounded up.

    Raises:
        InputError: no parts, or their units or numbers of users differ.
    """
    _check_compatible(parts)
    squared = sum(part.l2_bound**2 for part in parts)
    bound = math.isqrt(squared - 1) + 1
    return BoundedSum(np.concatenate([p.values for p in parts]), bound, parts[0].unit, parts[0].users)


class DisjointSum:
    """Adds sums over *disjoint* users, batch by batch and in place: one user is in one batch only, so the bound stays.

    Args:
        length: width of the vector.
        l2_bound: which every part must have.
        unit: grid step, likewise.

    Raises:
        InputError: bound or unit is out of range, or the length is not positive.
    """

    def __init__(self, length: int, *, l2_bound: int, unit: float) -> None:
        if length < 1:
            raise InputError(f"length={length} is not a positive width")
        self._total = BoundedSum(np.zeros(length, dtype=np.int64), l2_bound, unit, 0)
        self._users = 0

    @property
    def unit(self) -> float:
        """Grid step."""
        return self._total.unit

    def add(self, part: BoundedSum) -> None:
        """Add a batch of users of whom nobody was in an earlier one.

        Raises:
            InputError: the part has another bound, unit or length: its users would be accounted with the wrong noise.
        """
        given = (part.l2_bound, part.unit, part.values.size)
        expected = (self._total.l2_bound, self._total.unit, self._total.values.size)
        if given != expected:
            raise InputError(
                f"a part with (bound, unit, length) = {given} cannot be added to a sum with {expected}: "
                "clip every batch alike"
            )
        np.add(self._total.values, part.values, out=self._total.values)
        self._users += part.users

    def total(self) -> BoundedSum:
        """The sum so far; zeros where no user was added."""
        return replace(self._total, users=self._users)


def _check_compatible(parts: Sequence[BoundedSum]) -> None:
    if not parts:
        raise InputError("nothing to combine: give at least one BoundedSum")
    if len({part.unit for part in parts}) > 1:
        raise InputError(
            f"units differ: {sorted({part.unit for part in parts})}; bring the parts to one grid first"
        )
    if len({part.users for part in parts}) > 1:
        raise InputError("the parts were summed over different users, so one user's bound is not known")


def _quantised(c: UserContributions, bound: int, unit: float) -> NDArray[np.int64]:
    """Returns every entry in grid steps, with every user's squared norm at most bound^2."""
    rows = np.repeat(np.arange(c.users), np.diff(c.offsets))
    steps = np.trunc(_clipped_steps(c, rows, bound * unit, unit))
    # Floating point clipped to the bound up to a few last bits. The promise is exact, so those users are
    # shrunk until it holds: every non-zero entry loses one grid step a round. Whoever still does not fit
    # gives nothing.
    for _ in range(64):
        over = _rows_over(steps, c.offsets, bound)
        if not over.any():
            return steps.astype(np.int64)
        steps = np.where(over[rows], np.trunc(steps * _SHRINK), steps)
    return np.where(_rows_over(steps, c.offsets, bound)[rows], 0.0, steps).astype(np.int64)


def _clipped_steps(c: UserContributions, rows: NDArray[Any], norm: float, unit: float) -> NDArray[Any]:
    """Returns entries in grid steps, rows longer than ``norm`` scaled to it; no square overflows."""
    largest = _row_reduce(np.maximum, np.abs(c.values), c.offsets)
    relative = c.values / np.where(largest > 0.0, largest, 1.0)[rows]
    root = np.maximum(np.sqrt(_row_reduce(np.add, relative * relative, c.offsets)), 1.0)
    with np.errstate(over="ignore"):  # an infinite length exceeds the norm, and an infinite step is not taken
        too_long = largest * root > norm
        return np.where(too_long[rows], relative * (norm / root / unit)[rows], c.values / unit)


def _rows_over(steps: NDArray[Any], offsets: NDArray[np.int64], bound: int) -> NDArray[np.bool_]:
    """Says which users exceed the bound, in exact integer arithmetic."""
    coarse = _row_reduce(np.add, steps * steps, offsets)
    hopeless = ~(coarse < 2.0 * float(bound) ** 2)  # also keeps the exact sum below 2^62: no wrap
    hopeful = np.where(np.repeat(hopeless, np.diff(offsets)), 0.0, steps).astype(np.int64)
    return hopeless | (_row_reduce(np.add, hopeful * hopeful, offsets) > bound * bound)


def _row_reduce(operation: np.ufunc, values: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[Any]:
    """Reduces each row; empty rows give 0 (``reduceat`` alone would give them their neighbour's value)."""
    reduced = np.zeros(offsets.size - 1, dtype=values.dtype)
    filled = np.diff(offsets) > 0
    if filled.any():
        reduced[filled] = operation.reduceat(values, offsets[:-1][filled])
    return reduced


def _merged(
    indices: NDArray[np.int64], values: NDArray[np.float64], offsets: NDArray[np.int64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Sorts each row and adds up repeated indices; returns indices, values and each entry's row."""
    rows = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
    cells = rows * length + indices
    if (cells[1:] > cells[:-1]).all():
        return indices.copy(), values.copy(), rows
    order = np.argsort(cells, kind="stable")
    cells, values = cells[order], values[order]
    first = np.flatnonzero(np.concatenate([[True], cells[1:] != cells[:-1]]))
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is dropped with its user
        values = np.add.reduceat(values, first)
    return cells[first] % length, values, cells[first] // length


def _check_rows(
    indices: NDArray[np.int64], values: NDArray[np.float64], offsets: NDArray[np.int64], length: int
) -> None:
    if length < 1:
        raise InputError(f"length={length} is not a positive width")
    if values.shape != indices.shape:
        raise InputError(
            f"indices have shape {indices.shape}, values {values.shape}: one value for each index"
        )
    if offsets.size == 0 or offsets[0] != 0 or offsets[-1] != indices.size or (np.diff(offsets) < 0).any():
        raise InputError(f"offsets must rise from 0 to {indices.size} (the number of entries)")
    if indices.size and not (indices.min() >= 0 and indices.max() < length):
        raise InputError(f"indices span {indices.min()}..{indices.max()}, outside 0..{length - 1}")
    if (offsets.size - 1) * length > 2**62:
        raise InputError(
            f"{offsets.size - 1} users x length {length} is more than one batch can hold: split the users"
        )


def _integers(name: str, array: ArrayLike) -> NDArray[np.int64]:
    given = np.asarray(array)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise InputError(f"{name} must be a vector of integers, not {given.dtype} of shape {given.shape}")
    return given.astype(np.int64)


def _is_positive(value: float) -> bool:
    return 0.0 < value < math.inf
