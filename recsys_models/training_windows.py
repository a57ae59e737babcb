"""Histories cut into windows for training at every position, and windows into batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys_models.data.histories import TimedHistories
from recsys_models.data.sequences import Sequences

Histories = Sequence[NDArray[np.int64]]

_POOL = 16
"""Batches whose windows are sorted by length together, so that a batch holds little padding."""


def training_windows(train: Sequences, max_length: int, generator: np.random.Generator) -> TimedHistories:
    """Cuts each history into windows of ``max_length + 1`` items, neighbours sharing one, at a random shift.

    The newest items always end a window; every next-item pair is in exactly one.
    """
    windows: list[slice] = []
    for user in np.flatnonzero(train.lengths >= 2):
        start, end = int(train.offsets[user]), int(train.offsets[user + 1]) - 1
        if end - start > max_length:
            first = int(generator.integers(1, max_length + 1))
            windows.append(slice(end - first, end + 1))
            end -= first
        while end > start:
            windows.append(slice(max(start, end - max_length), end + 1))
            end -= max_length
    return train.spans(windows)


def batches_of_like_length(
    windows: Histories, batch_size: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Positions of the windows in batches, in random order, each batch of windows about as long: little padding."""
    order = generator.permutation(len(windows))
    lengths = np.array([len(one) for one in windows])
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), _POOL * batch_size):
        pool = order[start : start + _POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[first : first + batch_size] for first in range(0, len(pool), batch_size)]
    return [batches[position] for position in generator.permutation(len(batches))]
