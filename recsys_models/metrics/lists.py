"""What a list of recommendations is like, beside whether it held the target: novelty, diversity, exposure.

All inputs are the lists themselves and public things: the released popularity, the catalogue, the item tower. Lists are
int64 [users, k], best first, padded with -1 where fewer items were left; an item appears once in a list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys_models.errors import DataError

Lists = NDArray[np.int64]

_COVERED_Z = 3.090232306167813  # one in a thousand of a normal law lies above


def top_lists(
    scores: NDArray[np.floating], k: int, removed: Sequence[NDArray[np.int64]] | None = None
) -> Lists:
    """The k best items of each user; among equal scores the item that comes first in the catalogue.

    Args:
        scores: [users, n_items], higher is better; minus infinity excludes an item. Not changed.
        k: length of the lists.
        removed: for each user the items that must not appear; None removes nothing.

    Raises:
        DataError: for NaN or plus infinity, or ``removed`` of other users.
    """
    if not bool(np.all(scores < np.inf)):
        raise DataError("scores contain NaN or infinity; the scorer is broken")
    users, n_items = scores.shape
    left = scores.copy()
    if removed is not None:
        if len(removed) != users:
            raise DataError(f"need the removed items of {users} users, got {len(removed)}")
        for row, items in zip(left, removed, strict=True):
            row[items] = -np.inf
    lists = np.full((users, k), -1, dtype=np.int64)
    if not users:
        return lists
    width = min(k, n_items)
    least = np.partition(left, n_items - width, axis=1)[:, n_items - width]
    rows, items = np.nonzero((left >= least[:, None]) & (left > -np.inf))
    order = np.lexsort((items, -left[rows, items], rows))
    rows, items = rows[order], items[order]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = place < k
    lists[rows[kept], place[kept]] = items[kept]
    return lists


def novelty_cap(n_items: int) -> float:
    """Most bits one item can count: those of an item with a sixteenth of the mean popularity."""
    return math.log2(n_items) + 4.0


def item_bits(popularity: NDArray[np.floating]) -> NDArray[np.float64]:
    """Self-information of each item, ``-log2`` of its share of the *released* popularity, in [0, ``novelty_cap``].

    Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender systems" (PNAS 2010), there with exact
    counts. A released popularity carries noise and may be negative; nothing below a sixteenth of the mean counts as less.

    Raises:
        DataError: popularity is empty or holds NaN or infinity.
    """
    if not popularity.size or not bool(np.isfinite(popularity).all()):
        raise DataError("popularity must be finite numbers, one for each item of the catalogue")
    positive = np.maximum(popularity.astype(np.float64), 0.0)
    total = positive.sum()
    n_items = popularity.size
    share = positive / total if total > 0.0 else np.full(n_items, 1.0 / n_items)
    return -np.log2(np.clip(share, 2.0 ** -novelty_cap(n_items), 1.0))


def mean_bits(lists: Lists, bits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean self-information of each list, in bits; 0 for an empty list."""
    return _mean_over(lists, bits[lists])


def new_share(lists: Lists, histories: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Share of each list that its user has not seen before; 0 for an empty list.

    Lists from which seen items were removed have 1 by construction, so this is asked of lists before the removal.
    """
    new = np.zeros(lists.shape)
    for user, history in enumerate(histories):
        new[user] = ~np.isin(lists[user], history)
    return _mean_over(lists, new)


def vector_diversity(lists: Lists, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intra-list diversity: mean of ``(1 - cos) / 2`` over the pairs of a list, in [0, 1]; 0 below two items.

    An item without a vector (all zeros) is at right angles to everything.
    """
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    units = np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0.0)
    chosen = np.where((lists >= 0)[..., None], units[lists], 0.0)
    # Sum over pairs = (|sum|^2 - sum of |.|^2) / 2.
    cosines = ((chosen.sum(axis=1) ** 2).sum(axis=1) - (chosen**2).sum(axis=(1, 2))) / 2.0
    pairs = _pairs(lists)
    mean = np.divide(cosines, pairs, out=np.ones(len(lists)), where=pairs > 0)
    return np.clip((1.0 - mean) / 2.0, 0.0, 1.0)


def attribute_diversity(lists: Lists, values: Sequence[frozenset[str]]) -> NDArray[np.float64]:
    """Intra-list diversity: mean Jaccard distance of the items' attribute values over the pairs of a list, in [0, 1].

    Two items of which nothing is known are at distance 0: nothing tells them apart.
    """
    found = np.zeros(len(lists))
    for user, row in enumerate(lists):
        sets = [values[item] for item in row[row >= 0]]
        distances = [_jaccard(a, b) for i, a in enumerate(sets) for b in sets[:i]]
        found[user] = sum(distances) / len(distances) if distances else 0.0
    return found


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    union = len(a | b)
    return 1.0 - len(a & b) / union if union else 0.0


def attribute_values(attributes: dict[str, list[list[str]]], n_items: int) -> list[frozenset[str]]:
    """For each item everything the catalogue says about it, as ``name=value``."""
    return [
        frozenset(f"{name}={value}" for name, column in attributes.items() for value in column[item])
        for item in range(n_items)
    ]


def exposure_cell(n_items: int, cells: int) -> NDArray[np.int64]:
    """The exposure cell of each item: the item itself, or where there are more items than cells, a public hash."""
    items = np.arange(n_items, dtype=np.uint64)
    if n_items <= cells:
        return items.astype(np.int64)
    # The finaliser of SplitMix64 (Steele, Lea, Flood 2014): neighbours in the catalogue must not share cells.
    mixed = (items + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) % np.uint64(cells)).astype(np.int64)


def shown_threshold(noise_sd: float) -> float:
    """An exposure above it was surely shown: any without noise, else what noise alone passes in one cell of 1000."""
    return max(0.5, _COVERED_Z * noise_sd)


def gini(exposure: NDArray[np.float64]) -> float:
    """Gini coefficient of non-negative exposures: 0 all alike, ``1 - 1/n`` one of n has everything; 0 if all are 0.

    Raises:
        DataError: empty, negative or not finite.
    """
    if not exposure.size or not bool(np.all((exposure >= 0.0) & (exposure < np.inf))):
        raise DataError("exposures must be finite numbers, none of them negative")
    ordered = np.sort(exposure)
    total = ordered.sum()
    if total == 0.0:
        return 0.0
    n = len(ordered)
    return float((2.0 * np.arange(1, n + 1) - n - 1.0) @ ordered / (n * total))


def _pairs(lists: Lists) -> NDArray[np.int64]:
    length = (lists >= 0).sum(axis=1)
    return length * (length - 1) // 2


def _mean_over(lists: Lists, values: NDArray[np.float64]) -> NDArray[np.float64]:
    there = lists >= 0
    return np.where(there, values, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
