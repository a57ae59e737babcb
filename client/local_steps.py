"""Several private steps of one client between two rounds, on its own copy of the head's tower.

Where every client adds all of the noise itself (``noise = "per_client"``), a client's upload is private before anybody sums
it. It may then take many noisy steps and upload only where they led: S sampled Gaussian releases, composed, of which the
upload is post-processing (local SGD, McMahan et al., AISTATS 2017, with the steps of Abadi et al. 2016, Algorithm 1). With
shared noise this would be wrong: the second step would start from weights that carry only a part of the noise.

The upload is the sum of the steps' noised gradients, in whole grid steps; the tower moved by ``-rate * unit / expected users``
times that. So the server averages it like the gradient of a round with one step, and with that rate and plain averaging the
result is federated averaging. Rows that no step reads get their noise at the end (``privacy.mechanisms.lazy_sum``): no step
costs anything that grows with the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.bounded import BoundedSum
from privacy.mechanisms.lazy_sum import LazilyNoisedSum
from privacy.release_terms import ReleaseTerms
from privacy.user_gradients.clipped_sum import WrappedEncoder, clipped_sum
from recsys_models.batches import NextItemBatch

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class LocalTraining:
    """What a local round needs of the client's trainer.

    Attributes:
        encoder: wrapped for per-user gradients.
        encoder_parameters: P.
        start: ``[K, d]`` float32, the published rows of the head.
        rate: how far a step goes in grid steps' units: learning rate over expected users.
        draw: a Poisson sample's batches, a few users each; none if nobody was drawn.
        move_encoder: adds the encoder's noise and takes its step.
    """

    encoder: WrappedEncoder
    encoder_parameters: int
    start: NDArray[np.float32]
    rate: float
    draw: Callable[[], list[NextItemBatch]]
    move_encoder: Callable[[BoundedSum], None]

    def round(self, terms: ReleaseTerms, change: LazilyNoisedSum) -> None:
        """Take the round's steps.

        Args:
            terms: of the release.
            change: of the tower's head; empty before the first step.
        """
        for _ in range(terms.release.local_steps):
            batches = self.draw()
            rows = _rows_of(batches)
            moved = self.start[rows] - (self.rate * terms.unit) * change.read(rows)
            total = self._clipped(batches, rows, moved.astype(np.float32), terms)
            split = self.encoder_parameters
            self.move_encoder(BoundedSum(total.values[:split], total.l2_bound, total.unit, total.users))
            change.add(rows, BoundedSum(total.values[split:], total.l2_bound, total.unit, total.users))

    def _clipped(
        self, batches: list[NextItemBatch], rows: Integers, vectors: NDArray[np.float32], terms: ReleaseTerms
    ) -> BoundedSum:
        """Clipped joint gradients ``[encoder || these rows]``."""
        total = clipped_sum(
            self.encoder, len(rows), self.start.shape[1], l2_clip_norm=terms.l2_clip_norm, unit=terms.unit
        )
        for batch in batches:
            table = torch.from_numpy(vectors).to(batch.item_ids.device)
            total.add(table, _renumbered(batch.item_ids, rows), batch)
        return total.total()


def _rows_of(batches: list[NextItemBatch]) -> Integers:
    """Rows of the head that anybody in these batches reads, ascending."""
    ids = [np.unique(batch.item_ids.cpu().numpy()) for batch in batches]
    rows = np.unique(np.concatenate([*ids, np.zeros(0, dtype=np.int64)]))
    return rows[rows >= 0].astype(np.int64)


def _renumbered(item_ids: torch.Tensor, rows: Integers) -> torch.Tensor:
    """The same slots, their items numbered among ``rows``; empty slots stay empty."""
    position = torch.searchsorted(torch.from_numpy(rows).to(item_ids.device), item_ids.contiguous())
    return torch.where(item_ids >= 0, position, item_ids)
