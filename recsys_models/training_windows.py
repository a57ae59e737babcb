"""Histories cut into windows for training at every position, and windows into batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys_models.data.sequences import Sequences

Histories = Sequence[NDArray[np.int64]]

_POOL = 16
"""Batches whose windows are sorted by length together, so that a batch holds little padding."""


def training_windows(
    train: Sequences, max_length: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Cuts each history into windows of ``max_length + 1`` items, neighbours sharing one, at a random shift.

    The newest items always end a window; every next-item pair is in exactly one.
    """
    windows: list[NDArray[np.int64]] = []
    for user in np.flatnonzero(train.lengths >= 2):
        items = train.of(int(user))
        end = items.size - 1
        if end > max_length:
            first = int(generator.integers(1, max_length + 1))
            windows.append(items[end - first :])
            end -= first
        while end > 0:
            windows.append(items[max(0, end - max_length) : end + 1])
            end -= max_length
    return windows


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
