"""A plain loop over encoder and item vectors together: no federation, no privacy, every position of every window.

It is the twin that a federated run is measured against, the reference for tests, and, with frozen item vectors, an
ordinary fit of an encoder alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from recsys_models.batches import window, window_times
from recsys_models.catalogue_softmax import catalogue_cross_entropy
from recsys_models.data.sequences import Sequences
from recsys_models.devices import resolve_device
from recsys_models.encoders.base import UserEncoder
from recsys_models.errors import DataError
from recsys_models.negatives import CatalogueSampler
from recsys_models.sampled_losses import SAMPLED_LOSSES, sampled_loss
from recsys_models.training_windows import batches_of_like_length, training_windows

Histories = Sequence[NDArray[np.int64]]

_ADAM_BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        epochs: passes over all windows, at most.
        batch_size: windows per step.
        learning_rate: of Adam, at its highest.
        warm_up_steps: over which the rate rises from zero.
        decay: the rate falls along a half cosine to zero at the last epoch; False leaves it where it is.
        negatives: sampled catalogue items shared by a step; 0 for a full softmax.
        loss: one of :data:`recsys_models.sampled_losses.SAMPLED_LOSSES`, where there are negatives.
        look_every: epochs between two looks at the validation, where there is one.
        patience: looks without a better figure after which training ends.
        device: see :func:`recsys_models.devices.resolve_device`.
    """

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 2e-3
    warm_up_steps: int = 100
    decay: bool = True
    negatives: int = 0
    loss: str = "sampled-softmax"
    look_every: int = 1
    patience: int = 3
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.negatives < 0 or self.warm_up_steps < 0:
            raise DataError(
                "epochs and batch_size must be at least 1, negatives and warm_up_steps at least 0: "
                f"{self.epochs=}, {self.batch_size=}, {self.negatives=}, {self.warm_up_steps=}"
            )
        if self.look_every < 1 or self.patience < 1:
            raise DataError(
                f"look_every and patience must be at least 1: {self.look_every=}, {self.patience=}"
            )
        if not 0.0 < self.learning_rate < math.inf:
            raise DataError(f"learning_rate must be positive and finite, got {self.learning_rate!r}")
        if self.loss not in SAMPLED_LOSSES:
            raise DataError(f"unknown loss {self.loss!r}; choose one of {', '.join(SAMPLED_LOSSES)}")
        if self.loss != "sampled-softmax" and not self.negatives:
            raise DataError(f"loss {self.loss!r} needs negatives; 0 negatives is a full softmax")


@dataclass(frozen=True)
class Training:
    """What happened.

    Attributes:
        losses: mean loss of each epoch.
        validation: the figure at each look; empty without a validation.
        best_epoch: the epoch whose weights were kept, from 1; the last without a validation.
        steps: optimiser steps taken.
    """

    losses: list[float]
    validation: list[float]
    best_epoch: int
    steps: int


def train_centrally(
    encoder: UserEncoder,
    tower: nn.Embedding,
    train: Sequences,
    settings: TrainingSettings,
    generator: np.random.Generator,
    *,
    validate: Callable[[], float] | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> Training:
    """Trains ``encoder`` and ``tower`` in place, on all users pooled; see :func:`train_next_item`."""
    tower.to(resolve_device(settings.device)).train()
    return train_next_item(encoder, tower.weight, train, settings, generator, validate=validate, say=say)


def train_next_item(
    encoder: UserEncoder,
    items_ND: Tensor,
    train: Sequences,
    settings: TrainingSettings,
    generator: np.random.Generator,
    *,
    validate: Callable[[], float] | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> Training:
    """Trains ``encoder`` in place to find the next item at every position, and ``items_ND`` if it takes a gradient.

    Every next-item pair of the log is met once an epoch and counts alike, whoever's it is.

    Args:
        encoder: any user encoder; moved to the device. Dropout draws from torch's global generator.
        items_ND: item vectors on the device of ``settings``, of every item of the catalogue.
        train: sequences; users with fewer than two events are skipped.
        settings: how.
        generator: draws windows, order and negatives.
        validate: gives a figure, higher is better. The weights of the best look are kept, and training ends early when
            ``settings.patience`` looks brought nothing better.
        say: one line after each look, or epoch without a validation.

    Raises:
        DataError: if nobody has two events, or vectors and catalogue differ in size.
    """
    if items_ND.shape[0] != train.catalogue.n_items:
        raise DataError(
            f"the tower has {items_ND.shape[0]} rows, the catalogue {train.catalogue.n_items} items"
        )
    if not np.any(train.lengths >= 2):
        raise DataError("no user has two events, so there is no next item to learn")
    encoder.to(resolve_device(settings.device))
    loop = _Loop(encoder, items_ND, train, settings, generator)
    best = _Best(encoder, items_ND, settings.patience)
    losses: list[float] = []
    for epoch in range(1, settings.epochs + 1):
        losses.append(loop.epoch(epoch))
        line = f"epoch {epoch} of at most {settings.epochs}: loss {losses[-1]:.3f}"
        if validate is None:
            say(line)
        elif epoch % settings.look_every == 0 or epoch == settings.epochs:
            figure = validate()
            say(f"{line}, validation {figure:.4f}")
            if best.is_over(epoch, figure):
                break
    best.restore()
    return Training(losses, best.figures, best.epoch or len(losses), loop.steps)


class _Loop:
    """Optimiser, schedule and the count of steps."""

    def __init__(
        self,
        encoder: UserEncoder,
        items_ND: Tensor,
        train: Sequences,
        settings: TrainingSettings,
        generator: np.random.Generator,
    ) -> None:
        self._encoder, self._items_ND, self._train = encoder, items_ND, train
        self._settings, self._generator = settings, generator
        trained = [*encoder.parameters(), *([items_ND] if items_ND.requires_grad else [])]
        self._optimiser = torch.optim.Adam(
            trained, lr=settings.learning_rate, betas=_ADAM_BETAS, fused=items_ND.device.type == "cpu" or None
        )
        self._sampler = CatalogueSampler(train.catalogue.n_items)
        self._sampled = sampled_loss(
            settings.loss, negatives=max(1, settings.negatives), n_items=train.catalogue.n_items
        )
        self.steps = 0

    def epoch(self, number: int) -> float:
        """One pass; returns the mean loss of all pairs."""
        self._encoder.train()
        settings = self._settings
        windows = training_windows(self._train, self._encoder.max_length, self._generator)
        batches = batches_of_like_length(windows, settings.batch_size, self._generator)
        pairs = sum(len(one) - 1 for one in windows)
        total = 0.0
        for position, chosen in enumerate(batches):
            self._set_rate((number - 1 + position / len(batches)) / settings.epochs)
            loss = self._loss(windows.pick(chosen))
            self._optimiser.zero_grad()
            # Divided by the usual number of pairs, not by this batch's: else pairs in short windows would count more.
            (loss * (len(batches) / pairs)).backward()
            self._optimiser.step()
            self.steps += 1
            total += float(loss.detach())
        return total / pairs

    def _set_rate(self, progress: float) -> None:
        rate = self._settings.learning_rate
        if self._settings.decay:
            rate *= 0.5 * (1.0 + math.cos(math.pi * progress))
        if self.steps < self._settings.warm_up_steps:
            rate *= (self.steps + 1) / self._settings.warm_up_steps
        for group in self._optimiser.param_groups:
            group["lr"] = rate

    def _loss(self, histories: Histories) -> Tensor:
        """Loss of these windows, summed over their next-item pairs."""
        device, items_ND = self._items_ND.device, self._items_ND
        ids, mask = window(histories, self._encoder.max_length + 1, at_least=2)
        ids_BW, mask_BW = torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
        inputs_BLD = functional.embedding(ids_BW[:, :-1].clamp(min=0), items_ND)
        valid_BL = mask_BW[:, :-1] & mask_BW[:, 1:]
        times_BW = window_times(histories, ids.shape[1]).to(device)
        users_PD = self._encoder(inputs_BLD, mask_BW[:, :-1], times_BW[:, :-1])[valid_BL]
        targets_P = ids_BW[:, 1:][valid_BL]
        if not self._settings.negatives:
            return catalogue_cross_entropy(users_PD, items_ND, targets_P, torch.ones_like(users_PD[:, 0]))
        negatives = self._sampler.sample(self._generator.random(self._settings.negatives))
        return self._sampled_loss(users_PD, targets_P, negatives)

    def _sampled_loss(self, users_PD: Tensor, targets_P: Tensor, negatives: NDArray[np.int64]) -> Tensor:
        device, items_ND = users_PD.device, self._items_ND
        negatives_N = torch.from_numpy(negatives).to(device)
        correction = torch.from_numpy(self._sampler.log_expected_count(negatives, negatives.size)).to(device)
        # One row of all positions: the loss of a row is the mean of its positions.
        mean = self._sampled(
            users_PD.unsqueeze(0),
            functional.embedding(targets_P, items_ND).unsqueeze(0),
            functional.embedding(negatives_N, items_ND),
            positive_ids_BL=targets_P.unsqueeze(0),
            negative_ids_BN=negatives_N,
            log_expected_count_BN=correction,
            valid_BL=torch.ones_like(targets_P, dtype=torch.bool).unsqueeze(0),
        )
        return mean.sum() * len(targets_P)


class _Best:
    """Keeps the weights of the best look."""

    def __init__(self, encoder: UserEncoder, items_ND: Tensor, patience: int) -> None:
        self._encoder, self._items_ND, self._patience = encoder, items_ND, patience
        self._weights: tuple[dict[str, Tensor], Tensor] | None = None
        self.figures: list[float] = []
        self.epoch = 0
        self._looks_since = 0

    def is_over(self, epoch: int, figure: float) -> bool:
        """Take note of a look; True when patience has run out."""
        if not self.figures or figure > max(self.figures):
            state = {name: value.detach().clone() for name, value in self._encoder.state_dict().items()}
            self._weights = state, self._items_ND.detach().clone()
            self.epoch, self._looks_since = epoch, 0
        else:
            self._looks_since += 1
        self.figures.append(figure)
        return self._looks_since >= self._patience

    def restore(self) -> None:
        """Put the kept weights back, where there was a look."""
        if self._weights is not None:
            state, items_ND = self._weights
            self._encoder.load_state_dict(state)
            with torch.no_grad():
                self._items_ND.copy_(items_ND)


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
        device = self.table.device
        items_BLD = self.table[torch.from_numpy(ids).clamp(min=0).to(device)]
        times_BL = window_times(histories, ids.shape[1]).to(device)
        users_BLD = self.encoder(items_BLD, torch.from_numpy(mask).to(device), times_BL)
        self.encoder.train(was_training)
        return (users_BLD[:, -1] @ self.table.T).cpu().numpy()
