"""A plain centralised loop over encoder and item vectors together: no federation, no privacy.

It is the twin that a federated run is measured against, and the reference for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys_models.batches import window
from recsys_models.data.sequences import Sequences
from recsys_models.devices import resolve_device
from recsys_models.encoders.base import UserEncoder
from recsys_models.errors import DataError
from recsys_models.losses import full_softmax
from recsys_models.negatives import CatalogueSampler
from recsys_models.sampled_losses import SAMPLED_LOSSES, SampledLoss, sampled_loss

Histories = Sequence[NDArray[np.int64]]


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        epochs: passes over all windows.
        batch_size: windows per step.
        learning_rate: of Adam.
        negatives: sampled catalogue items shared by a step; 0 for a full softmax.
        loss: one of :data:`recsys_models.sampled_losses.SAMPLED_LOSSES`, where there are negatives.
        device: see :func:`recsys_models.devices.resolve_device`.
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 2e-3
    negatives: int = 0
    loss: str = "sampled-softmax"
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.negatives < 0:
            raise DataError(f"epochs and batch_size must be at least 1, negatives at least 0: {self}")
        if not 0.0 < self.learning_rate < float("inf"):
            raise DataError(f"learning_rate must be positive and finite, got {self.learning_rate!r}")
        if self.loss not in SAMPLED_LOSSES:
            raise DataError(f"unknown loss {self.loss!r}; choose one of {', '.join(SAMPLED_LOSSES)}")
        if self.loss != "sampled-softmax" and not self.negatives:
            raise DataError(f"loss {self.loss!r} needs negatives; 0 negatives is a full softmax")


def train_centrally(
    encoder: UserEncoder,
    tower: nn.Embedding,
    train: Sequences,
    settings: TrainingSettings,
    generator: np.random.Generator,
) -> list[float]:
    """Trains ``encoder`` and ``tower`` in place, on all users pooled.

    Args:
        encoder: any user encoder; moved to the device.
        tower: item vectors, [n_items, d]; moved to the device.
        train: pooled sequences; users with fewer than two events are skipped.
        settings: how.
        generator: draws windows, order and negatives.

    Returns:
        Mean loss of each epoch.

    Raises:
        DataError: if nobody has two events, or tower and catalogue differ in size.
    """
    n_items = train.catalogue.n_items
    if tower.num_embeddings != n_items:
        raise DataError(f"the tower has {tower.num_embeddings} rows, the catalogue {n_items} items")
    if not np.any(train.lengths >= 2):
        raise DataError("no user has two events, so there is no next item to learn")
    device = resolve_device(settings.device)
    encoder.to(device).train()
    tower.to(device).train()
    optimiser = torch.optim.Adam([*encoder.parameters(), *tower.parameters()], lr=settings.learning_rate)
    sampler = CatalogueSampler(n_items)
    sampled = sampled_loss(settings.loss, negatives=max(1, settings.negatives), n_items=n_items)
    losses: list[float] = []
    for _ in range(settings.epochs):
        windows = training_windows(train, encoder.max_length, generator)
        order = generator.permutation(len(windows))
        total = 0.0
        for start in range(0, len(windows), settings.batch_size):
            chosen = [windows[position] for position in order[start : start + settings.batch_size]]
            negatives = sampler.sample(generator.random(settings.negatives)) if settings.negatives else None
            loss = _batch_loss(encoder, tower, chosen, negatives, sampler, sampled, device)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(chosen)
        losses.append(total / len(windows))
    return losses


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


class EncoderScorer:
    """Scores the catalogue for histories with a trained encoder and item vectors; see
    ``recsys_models.evaluation``.
    """

    def __init__(self, encoder: UserEncoder, table: Tensor) -> None:
        self.encoder = encoder
        self.table = table

    @torch.no_grad()
    def __call__(self, histories: Histories) -> NDArray[np.floating]:
        """Dot products of each user's newest state with all items, [B, n_items]."""
        was_training = self.encoder.training
        self.encoder.eval()
        ids, mask = window(histories, self.encoder.max_length)
        ids_BL = torch.from_numpy(ids).clamp(min=0).to(self.table.device)
        users_BLD = self.encoder(self.table[ids_BL], torch.from_numpy(mask).to(self.table.device))
        self.encoder.train(was_training)
        return (users_BLD[:, -1] @ self.table.T).cpu().numpy()


def _batch_loss(
    encoder: UserEncoder,
    tower: nn.Embedding,
    histories: Histories,
    negatives: NDArray[np.int64] | None,
    sampler: CatalogueSampler,
    sampled: SampledLoss,
    device: torch.device,
) -> Tensor:
    ids, mask = window(histories, encoder.max_length + 1, at_least=2)
    ids_BW, mask_BW = torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
    vectors_BWD = tower(ids_BW.clamp(min=0))
    users_BLD = encoder(vectors_BWD[:, :-1], mask_BW[:, :-1])
    valid_BL = mask_BW[:, :-1] & mask_BW[:, 1:]
    targets_BL = ids_BW[:, 1:]
    if negatives is None:
        catalogue = tower(torch.arange(tower.num_embeddings, device=device))
        return full_softmax(users_BLD, catalogue, positive_columns_BL=targets_BL, valid_BL=valid_BL).mean()
    negatives_N = torch.from_numpy(negatives).to(device)
    correction = torch.from_numpy(sampler.log_expected_count(negatives, negatives.size)).to(device)
    return sampled(
        users_BLD,
        vectors_BWD[:, 1:],
        tower(negatives_N),
        positive_ids_BL=targets_BL,
        negative_ids_BN=negatives_N,
        log_expected_count_BN=correction,
        valid_BL=valid_BL,
    ).mean()
