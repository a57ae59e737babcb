"""Encoder and item tower trained together on pooled users, end to end through the tower: no federation, no privacy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys_models.batches import window, window_times
from recsys_models.data.sequences import Sequences
from recsys_models.encoders.base import UserEncoder
from recsys_models.errors import DataError
from recsys_models.item_towers.base import ItemTower
from recsys_models.losses import sampled_softmax
from recsys_models.training_windows import batches_of_like_length, training_windows


def train_with_tower(
    encoder: UserEncoder,
    tower: ItemTower,
    train: Sequences,
    generator: np.random.Generator,
    *,
    items: NDArray[np.int64],
    epochs: int,
    batch_size: int = 64,
    negatives: int = 512,
    learning_rate: float = 2e-3,
) -> list[float]:
    """Trains both in place to find the next item at every position, with a sampled softmax.

    Args:
        encoder: any user encoder.
        tower: any item tower, called once in a step for history, positives and negatives.
        train: pooled sequences; users with fewer than two events are skipped.
        generator: draws windows, batches and negatives; dropout draws from torch's global generator.
        items: the items that exist at this time, which negatives are drawn from. An item that is to be cold must not be
            among them: as a negative it would be pushed away.
        epochs: passes over the log.
        batch_size: windows in a step.
        negatives: drawn uniformly, shared by a step.
        learning_rate: of Adam.

    Returns:
        The mean loss of each epoch.

    Raises:
        DataError: nobody has two events, no items, or a setting below 1.
    """
    if min(epochs, batch_size, negatives, len(items)) < 1 or not 0.0 < learning_rate < np.inf:
        raise DataError(
            f"epochs, batch_size, negatives and items must be at least 1 and learning_rate positive: got {epochs=}, "
            f"{batch_size=}, {negatives=}, {len(items)} items, {learning_rate=}"
        )
    if not np.any(train.lengths >= 2):
        raise DataError("no user has two events, so there is no next item to learn")
    encoder.train()
    tower.train()
    optimiser = torch.optim.Adam([*encoder.parameters(), *tower.parameters()], lr=learning_rate)
    losses: list[float] = []
    for _ in range(epochs):
        windows = training_windows(train, encoder.max_length, generator)
        total = 0.0
        for chosen in batches_of_like_length(windows, batch_size, generator):
            drawn = items[generator.integers(0, len(items), size=negatives)]
            loss = _loss(encoder, tower, windows.pick(chosen), drawn, negatives / len(items))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(chosen)
        losses.append(total / len(windows))
    return losses


def _loss(
    encoder: UserEncoder,
    tower: ItemTower,
    histories: Sequence[NDArray[np.int64]],
    drawn: NDArray[np.int64],
    expected_count: float,
) -> Tensor:
    """Mean over windows of the mean over their next-item pairs."""
    ids, mask = window(histories, encoder.max_length + 1, at_least=2)
    # One call for all, over distinct items: without privacy nothing forbids users to share the work.
    wanted = np.concatenate([np.maximum(ids, 0).reshape(-1), drawn])
    distinct, place = np.unique(wanted, return_inverse=True)
    vectors = tower(torch.from_numpy(distinct))
    place_of = torch.from_numpy(place)
    vectors_BWD = vectors[place_of[: ids.size]].reshape(*ids.shape, tower.dim)
    ids_BW, mask_BW = torch.from_numpy(ids), torch.from_numpy(mask)
    times_BW = window_times(histories, ids.shape[1])
    return sampled_softmax(
        encoder(vectors_BWD[:, :-1], mask_BW[:, :-1], times_BW[:, :-1]),
        vectors_BWD[:, 1:],
        vectors[place_of[ids.size :]],
        positive_ids_BL=ids_BW[:, 1:],
        negative_ids_BN=torch.from_numpy(drawn),
        log_expected_count_BN=torch.full((len(drawn),), float(np.log(expected_count))),
        valid_BL=mask_BW[:, :-1] & mask_BW[:, 1:],
    ).mean()
