"""The detailed metric release: per activity group, every rank metric at every depth, list properties, and exposure.

One user has one relevant item, so every rank metric is a function of its rank, and most of the usual sums are one another:

=====================================  ===============================================================
asked for                              is
=====================================  ===============================================================
hit rate@K, recall@K, their squares    hits@K / users: a user's value is 0 or 1
precision@K                            recall@K / K
MAP@10                                 MRR cut at 10: the average precision of one item is 1 / rank
NDCG@K                                 sum of 1 / log2(rank + 1) over ranks up to K: the ideal is 1
=====================================  ===============================================================

They are released once, and not per K but per *bin* between two K: 1, 2-5, 6-10, 11-20, 21-50, beyond. A user lies in one bin,
and what holds at K is the sum of the bins up to it. So five depths cost one user's share of the sensitivity instead of five
(squared norm 1.87 where cumulative sums of the same things would need 18), while a figure at K carries the noise of at
most five cells. In the first bin gain, reciprocal rank and their squares are all 1: they are the hit.

Layout: for each group ``[users, hit x 5, gain x 4, gain^2 x 4, 1/rank x 5, 1/rank^2 x 5, (c, c^2) x 4 properties]``, then one
cell for each item (or hash bucket) of the catalogue, with 1/4 for each one in the user's top 10, then for ten bins of
confidence ``[users / 4, (hit - confidence) / 2]``. Confidence is the probability that the top 10 was said to hold the next
item; a bin's second cells add up to what its predictions were off by, so the expected calibration error is a sum over ten
cells (``recsys_models.metrics.detail_reading``).

With several relevant items a user the hit cells would hold recall gained per bin (L1 norm at most 1) and keep their
bound, but NDCG@K would no longer be a sum over bins (its ideal changes with K); that release would need another layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recsys_models.errors import DataError
from recsys_models.metrics.calibration import LIST_LENGTH
from recsys_models.metrics.lists import exposure_cell
from recsys_models.metrics.sums import MetricRows

KS = (1, 5, 10, 20, 50)
PROPERTIES = ("novelty", "new_to_user", "diversity", "log_loss")
MAX_EXPOSURE_CELLS = 4096
EXPOSURE_WEIGHT = 0.25
MAX_GROUPS = 16
CALIBRATION_BINS = 10
COUNT_WEIGHT = 0.25
RESIDUAL_WEIGHT = 0.5

_HITS = len(KS)
_PARTS = {"hit": _HITS, "gain": _HITS - 1, "gain2": _HITS - 1, "rr": _HITS, "rr2": _HITS}
_RANK_CELLS = sum(_PARTS.values())
_STARTS = dict(zip(_PARTS, np.cumsum([0, *_PARTS.values()]).tolist(), strict=False))
_CLIP_STEP = 1.0 / 16.0


@dataclass(frozen=True)
class DetailLayout:
    """Where everything lies; equal on both sides because it follows from the plan and the catalogue's size.

    Attributes:
        n_items: size of the catalogue.
        group_bounds: least number of training events of each group but the first, ascending. Public and fixed.
        unit: grid step, a power of two of at most 1/16.

    Raises:
        DataError: bounds do not ascend, there are too many groups, or the unit is no such power.
    """

    n_items: int
    group_bounds: tuple[int, ...]
    unit: float

    def __post_init__(self) -> None:
        bounds = self.group_bounds
        whole = all(type(bound) is int and bound >= 1 for bound in bounds)
        if not whole or list(bounds) != sorted(set(bounds)) or len(bounds) >= MAX_GROUPS:
            raise DataError(
                f"group bounds {bounds!r} must be at most {MAX_GROUPS - 1} ascending numbers of events, from 1 up"
            )
        if not (0.0 < self.unit <= _CLIP_STEP and math.frexp(self.unit)[0] == 0.5):
            raise DataError(f"unit={self.unit!r} is not a power of two of at most 1/16")
        if self.n_items < 1:
            raise DataError(f"n_items={self.n_items}: a catalogue has at least one item")

    @property
    def n_groups(self) -> int:
        """Number of activity groups."""
        return len(self.group_bounds) + 1

    @property
    def group_names(self) -> tuple[str, ...]:
        """``"0-9"``, ``"10-19"``, ..., ``"100+"``: training events."""
        lows = (0, *self.group_bounds)
        return (
            *(f"{low}-{high - 1}" for low, high in zip(lows, self.group_bounds, strict=False)),
            f"{lows[-1]}+",
        )

    @property
    def group_cells(self) -> int:
        """Cells of one group."""
        return 1 + _RANK_CELLS + 2 * len(PROPERTIES)

    @property
    def exposure_cells(self) -> int:
        """Cells of the exposure histogram: one an item, up to ``MAX_EXPOSURE_CELLS``, then hash buckets."""
        return min(self.n_items, MAX_EXPOSURE_CELLS)

    @property
    def length(self) -> int:
        """Cells of the whole vector."""
        return self.calibration_start + 2 * CALIBRATION_BINS

    @property
    def calibration_start(self) -> int:
        """First of the cells of confidence bins, behind the exposure."""
        return self.n_groups * self.group_cells + self.exposure_cells

    @cached_property
    def cell_of_item(self) -> NDArray[np.int64]:
        """Exposure cell of each item."""
        return exposure_cell(self.n_items, self.exposure_cells)

    @cached_property
    def l2_bound(self) -> float:
        """Largest L2 norm of one user's row, rounded up to a sixteenth; nobody is ever clipped to it.

        Proof. A user's entries lie in her group, in the exposure cells and in one bin of confidence; all are multiples of
        ``unit``, so squares are whole numbers of ``unit^2`` and the sum below is exact.

        1. users: 1.
        2. rank: the cells depend on the rank alone. Ranks 1 to 50 and 51 are tried one by one; beyond 51 both entries
           only fall. The largest is at rank 2: 1 + 0.631^2 + 0.398^2 + 0.5^2 + 0.25^2 = 1.87.
        3. each property p in [0, 1] enters as c = p - 1/2 and c^2: at most 1/4 + 1/16. Rounding to nearest keeps this,
           since 1/2 and 1/4 are on the grid.
        4. exposure: at most 10 different cells of 1/4, however items collide in buckets: 10/16.
        5. confidence q in [0, 1] and outcome y in {0, 1}: she is in one bin, with 1/4 and (y - q) / 2 there, at most
           1/16 + 1/4. Rounding to nearest keeps this, since 1/2 is on the grid.

        Together at most 1 + 1.87 + 4 * 5/16 + 10/16 + 5/16 = 5.06, so 2.25. A sixteenth, because the bound then is a whole
        number of steps on every grid down to that coarseness, and truncation to a coarser grid only shortens a row.
        """
        per_rank = _rank_entries(np.arange(1, KS[-1] + 2), self.unit) / self.unit
        rank = int((per_rank**2).sum(axis=1).max())
        one = round(1.0 / self.unit)
        sixteenths = 16 * (one**2 + rank) + len(PROPERTIES) * 5 * one**2 + LIST_LENGTH * one**2 + 5 * one**2
        norm = math.sqrt(sixteenths) / 4.0 * self.unit
        return math.ceil(norm / _CLIP_STEP) * _CLIP_STEP

    def group_of(self, events: NDArray[np.int64]) -> NDArray[np.int64]:
        """Group of each user, by her number of training events."""
        return np.searchsorted(np.asarray(self.group_bounds, dtype=np.int64), events, side="right")


@dataclass(frozen=True)
class UserDetail:
    """What is known of each evaluated user; one entry or row a user.

    Attributes:
        events: int64 [users], training events.
        ranks: int64 [users], rank of the target over the whole catalogue, 1 is best.
        lists: int64 [users, 10], the recommended items, -1 where there were fewer.
        properties: float64 [users, 4] in [0, 1], in the order of ``PROPERTIES``.
        confidences: float64 [users] in [0, 1], the probability that the list was said to hold the target.
    """

    events: NDArray[np.int64]
    ranks: NDArray[np.int64]
    lists: NDArray[np.int64]
    properties: NDArray[np.float64]
    confidences: NDArray[np.float64]

    def __post_init__(self) -> None:
        users = len(self.ranks)
        shapes = (self.events.shape, self.confidences.shape, self.lists.shape, self.properties.shape)
        if shapes != ((users,), (users,), (users, LIST_LENGTH), (users, len(PROPERTIES))):
            raise DataError(
                f"events, confidences, lists and properties have shapes {shapes} for {users} ranks"
            )
        if users and not (self.ranks.min() >= 1 and self.events.min() >= 0):
            raise DataError("ranks start at 1 and numbers of events at 0")
        if not bool(np.all((self.properties >= 0.0) & (self.properties <= 1.0))):
            raise DataError("list properties must lie in [0, 1]")
        if not bool(np.all((self.confidences >= 0.0) & (self.confidences <= 1.0))):
            raise DataError("confidences must lie in [0, 1]")


def user_detail_rows(detail: UserDetail, layout: DetailLayout) -> MetricRows:
    """One row per user, whose norm is at most ``layout.l2_bound``; entries are rounded to the nearest grid step.

    Raises:
        DataError: a list names an item outside the catalogue.
    """
    lists = detail.lists
    if lists.size and not (lists.min() >= -1 and lists.max() < layout.n_items):
        raise DataError(f"lists name items outside the catalogue of {layout.n_items}")
    centred = detail.properties - 0.5
    pairs = np.stack([centred, centred**2], axis=2).reshape(len(lists), 2 * len(PROPERTIES))
    own = [
        np.ones((len(lists), 1)),
        _rank_entries(detail.ranks, layout.unit),
        _on_grid(pairs, layout.unit),
    ]
    shown = _distinct(np.where(lists >= 0, layout.cell_of_item[lists], -1))
    bins, residuals = _calibration_entries(detail, layout)
    values = np.concatenate([*own, np.where(shown >= 0, EXPOSURE_WEIGHT, 0.0), residuals], axis=1)
    first = layout.group_of(detail.events)[:, None] * layout.group_cells
    exposure_start = layout.n_groups * layout.group_cells
    cells = np.concatenate([first + np.arange(layout.group_cells), exposure_start + shown, bins], axis=1)
    rows, columns = np.nonzero(values)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(lists)))]).astype(np.int64)
    return MetricRows(cells[rows, columns], values[rows, columns], offsets, layout.length)


def _calibration_entries(
    detail: UserDetail, layout: DetailLayout
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Each user's two cells, and what she adds to them: a count, and by how much her confidence fell short."""
    bins = np.minimum((detail.confidences * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    cells = layout.calibration_start + 2 * bins[:, None] + np.arange(2)
    residuals = (detail.ranks <= LIST_LENGTH) - detail.confidences
    counts = np.full(len(bins), COUNT_WEIGHT)
    return cells, np.stack([counts, _on_grid(RESIDUAL_WEIGHT * residuals, layout.unit)], axis=1)


def part_of(cells: NDArray[np.float64], part: str) -> NDArray[np.float64]:
    """One part of a group's cells by bin: ``hit``, ``gain``, ``gain2``, ``rr`` or ``rr2``, the first bin included.

    The parts without a cell for the first bin get it from the hits: rank 1 has gain and reciprocal rank 1.
    """
    start = 1 + _STARTS[part]
    own = cells[start : start + _PARTS[part]]
    return own if part == "hit" else np.concatenate([cells[1:2], own])


def property_of(cells: NDArray[np.float64], name: str) -> tuple[float, float]:
    """Sum of ``p - 1/2`` and of its square over a group's users."""
    start = 1 + _RANK_CELLS + 2 * PROPERTIES.index(name)
    return float(cells[start]), float(cells[start + 1])


def rank_bins() -> Sequence[tuple[int, int | None]]:
    """First and last rank of each bin; the last one has no end."""
    return [(low + 1, high) for low, high in zip((0, *KS), (*KS, None), strict=True)]


def _rank_entries(ranks: NDArray[np.int64], unit: float) -> NDArray[np.float64]:
    """Rank cells [users, 23]: each user fills those of the bin her rank lies in."""
    entries = np.zeros((len(ranks), _RANK_CELLS))
    gain, reciprocal = 1.0 / np.log2(ranks + 1.0), 1.0 / ranks
    bins = np.searchsorted(np.asarray(KS), ranks, side="left")
    filled = {
        "hit": (np.ones(len(ranks)), 0),
        "gain": (gain, 1),
        "gain2": (gain**2, 1),
        "rr": (reciprocal, 1),
        "rr2": (reciprocal**2, 1),
    }
    for part, (values, first_bin) in filled.items():
        users = np.flatnonzero((bins >= first_bin) & (bins < first_bin + _PARTS[part]))
        entries[users, _STARTS[part] + bins[users] - first_bin] = values[users]
    return _on_grid(entries, unit)


def _distinct(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each row's cells once; repetitions (two items in one bucket) and padding become -1."""
    ordered = np.sort(cells, axis=1)
    ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = -1
    return ordered


def _on_grid(values: NDArray[np.float64], unit: float) -> NDArray[np.float64]:
    return np.rint(values / unit) * unit
