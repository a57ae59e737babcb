"""A batch of users in which every item a user touches is a slot of that user's own.

The slots of one user are her window of history, whose items serve as inputs and as the next-item targets,
followed by her candidates (negatives, or the whole catalogue). One gather of item vectors feeds all three
roles, so a gradient with respect to the gathered vectors holds everything that user says about items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys_models.data.histories import TimedHistories
from recsys_models.errors import DataError
from recsys_models.losses import full_softmax, sampled_softmax
from recsys_models.sampled_losses import SampledLoss

EMPTY_SLOT = -1


@dataclass(frozen=True)
class NextItemBatch:
    """Users' windows and candidates; calling it gives each user's next-item loss.

    Attributes:
        item_ids: [B, R] long, R = window + candidates; :data:`EMPTY_SLOT` where there is no item.
        mask: [B, window] bool, right-aligned; ``window`` is one more than the positions trained on.
        times: [B, window] float64, from :func:`window_times`.
        log_expected_count: [B, candidates] log-q correction of sampled candidates; None if the candidates are
            the whole catalogue in order (full softmax).
        frozen_catalogue: [n_items, d] vectors that carry no gradient, for training against a fixed tower with
            a full softmax; then there are no candidate slots.
        loss: of sampled candidates.
    """

    item_ids: Tensor
    mask: Tensor
    times: Tensor
    log_expected_count: Tensor | None = None
    frozen_catalogue: Tensor | None = None
    loss: SampledLoss = sampled_softmax

    @property
    def n_users(self) -> int:
        """Users in the batch."""
        return self.item_ids.shape[0]

    def __call__(self, encoder: nn.Module, vectors_BRD: Tensor) -> Tensor:
        """Loss of each user, [B], from the vectors of that user's slots."""
        window = self.mask.shape[1]
        users_BLD = encoder(vectors_BRD[:, : window - 1], self.mask[:, :-1], self.times[:, :-1])
        valid_BL = self.mask[:, :-1] & self.mask[:, 1:]
        target_ids_BL = self.item_ids[:, 1:window]
        candidates_BCD = vectors_BRD[:, window:]
        if self.log_expected_count is None:
            catalogue = candidates_BCD if self.frozen_catalogue is None else self.frozen_catalogue
            return full_softmax(users_BLD, catalogue, positive_columns_BL=target_ids_BL, valid_BL=valid_BL)
        return self.loss(
            users_BLD,
            vectors_BRD[:, 1:window],
            candidates_BCD,
            positive_ids_BL=target_ids_BL,
            negative_ids_BN=self.item_ids[:, window:],
            log_expected_count_BN=self.log_expected_count,
            valid_BL=valid_BL,
        )

    def select(self, users: Tensor) -> NextItemBatch:
        """The same loss for some of the users, by position."""
        counts = self.log_expected_count
        return replace(
            self,
            item_ids=self.item_ids[users],
            mask=self.mask[users],
            times=self.times[users],
            log_expected_count=None if counts is None else counts[users],
        )

    def to(self, device: torch.device) -> NextItemBatch:
        """The same batch on ``device``."""
        counts, frozen = self.log_expected_count, self.frozen_catalogue
        return replace(
            self,
            item_ids=self.item_ids.to(device),
            mask=self.mask.to(device),
            times=self.times.to(device),
            log_expected_count=None if counts is None else counts.to(device),
            frozen_catalogue=None if frozen is None else frozen.to(device),
        )


def next_item_batch(
    histories: Sequence[NDArray[np.int64]],
    *,
    max_length: int,
    negatives: NDArray[np.int64] | None = None,
    log_expected_count: NDArray[np.float32] | None = None,
    n_items: int | None = None,
    frozen_catalogue: Tensor | None = None,
    loss: SampledLoss = sampled_softmax,
) -> NextItemBatch:
    """Packs histories (oldest first) with sampled negatives, or with the whole catalogue.

    Args:
        histories: item indices of each user, with times if they are :class:`TimedHistories`; only the newest
            ``max_length + 1`` are used.
        max_length: most positions trained on, the encoder's longest input.
        negatives: [B, N] sampled items; with ``log_expected_count``.
        log_expected_count: [B, N], from :meth:`recsys_models.negatives.CatalogueSampler.log_expected_count`.
        n_items: instead of negatives: full softmax over a trainable catalogue of this size.
        frozen_catalogue: instead of both: full softmax over these vectors, which take no gradient.
        loss: of sampled negatives, by name from :func:`recsys_models.sampled_losses.sampled_loss`.

    Raises:
        DataError: unless exactly one kind of candidates is given, with fitting shapes; for a loss of sampled
            negatives without any.
    """
    window_ids, mask = window(histories, max_length + 1, at_least=2)
    times = window_times(histories, mask.shape[1])
    kinds = (negatives is not None) + (n_items is not None) + (frozen_catalogue is not None)
    if kinds != 1:
        raise DataError(f"give exactly one of negatives, n_items and frozen_catalogue; got {kinds}")
    if negatives is None and loss is not sampled_softmax:
        raise DataError("this loss needs sampled negatives; a whole catalogue is for the full softmax")
    counts = None
    if negatives is not None:
        if negatives.ndim != 2 or negatives.shape[0] != len(histories):
            raise DataError(f"negatives must be [{len(histories)}, N], got {negatives.shape}")
        if log_expected_count is None or log_expected_count.shape != negatives.shape:
            raise DataError("negatives need log_expected_count of the same shape")
        window_ids = np.concatenate([window_ids, negatives], axis=1)
        counts = torch.from_numpy(np.asarray(log_expected_count, dtype=np.float32))
    elif n_items is not None:
        catalogue = np.broadcast_to(np.arange(n_items, dtype=np.int64), (len(histories), n_items))
        window_ids = np.concatenate([window_ids, catalogue], axis=1)
    ids = torch.from_numpy(window_ids)
    return NextItemBatch(ids, torch.from_numpy(mask), times, counts, frozen_catalogue, loss)


def window(
    histories: Sequence[NDArray[np.int64]], length: int, *, at_least: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The newest ``length`` items of each history, right-aligned: ids [B, W] and mask [B, W].

    W is the longest history present, between ``at_least`` and ``length``; that changes no result (encoders
    ignore padding) and saves time.

    Raises:
        DataError: if ``length < at_least``.
    """
    if length < at_least:
        raise DataError(f"a window needs at least {at_least} items, got {length}")
    width = max(at_least, min(length, max((len(history) for history in histories), default=0)))
    ids = np.full((len(histories), width), EMPTY_SLOT, dtype=np.int64)
    for row, history in enumerate(histories):
        newest = np.asarray(history[-width:], dtype=np.int64)
        if newest.size:
            ids[row, -newest.size :] = newest
    return ids, ids != EMPTY_SLOT


def window_times(histories: Sequence[NDArray[np.int64]], width: int) -> Tensor:
    """When the items of a :func:`window` of this width were met, float64 [B, W] in Unix seconds.

    Not a number in padding, and everywhere for histories without times (plain arrays).
    """
    times = np.full((len(histories), width), np.nan)
    timed = TimedHistories.of(histories)
    for row in range(len(timed)):
        own = timed.times_of(row)
        if own is not None and len(own):
            times[row, -min(width, len(own)) :] = own[-width:]
    return torch.from_numpy(times)
