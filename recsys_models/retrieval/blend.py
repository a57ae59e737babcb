"""One user's scores from several channels: encoder, released transitions (two readings) and popularity.

Each channel is standardised per user over the catalogue, so that the blend's weights are pure numbers with a data-free
default. The weights, and the encoder behind the first channel, can be trained by each client for itself.

Shapes: B users, L history, P positions, N items, D dimensions, C channels, K head items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys_models.encoders.base import UserEncoder
from recsys_models.item_towers.factorisation import TransitionChannel

CHANNELS = ("encoder", "transitions", "smooth transitions", "popularity")
DEFAULT_WEIGHTS = (1.0, 1.0, 1.0, 0.5)
_TINY = 1e-6


@dataclass(frozen=True)
class PublicChannels:
    """What the federation published and every client scores with.

    Attributes:
        tower_ND: item vectors.
        popularity_N: released popularity; zeros where nothing was released.
        head_K: catalogue indices of the head items the transitions cover.
        sparse_KK, smooth_KK: readings of the released transitions, from row to column.
    """

    tower_ND: Tensor
    popularity_N: Tensor
    head_K: Tensor
    sparse_KK: Tensor
    smooth_KK: Tensor

    @staticmethod
    def build(
        tower: NDArray[np.floating],
        popularity: NDArray[np.floating],
        head: NDArray[np.int64],
        transitions: TransitionChannel | None,
        device: torch.device | None = None,
    ) -> PublicChannels:
        """From arrays, onto ``device``; without transitions the two channels are zero and drop out of the blend."""
        size = len(head)
        nothing = np.zeros((size, size), dtype=np.float32)
        sparse = nothing if transitions is None else transitions.sparse.astype(np.float32)
        smooth = nothing if transitions is None else transitions.smooth.astype(np.float32)
        arrays = (
            np.ascontiguousarray(tower, dtype=np.float32),
            np.ascontiguousarray(popularity, dtype=np.float32),
            np.ascontiguousarray(head),
            sparse,
            smooth,
        )
        return PublicChannels(*(torch.from_numpy(array).to(device) for array in arrays))


class BlendedRecommender(nn.Module):
    """Encoder plus channel weights: everything of a client's model that is private to it.

    Args:
        encoder: the user encoder.
        start: initial channel weights, in the order of ``CHANNELS``.
    """

    def __init__(self, encoder: UserEncoder, start: Sequence[float] = DEFAULT_WEIGHTS) -> None:
        super().__init__()
        self.encoder = encoder
        # A Linear, not a bare Parameter: per-user gradients are exact for module calls only.
        self.mix = nn.Linear(len(CHANNELS), 1, bias=False)
        with torch.no_grad():
            self.mix.weight.copy_(torch.tensor([list(start)]))

    def forward(
        self, history_BLD: Tensor, mask_BL: Tensor, tower_ND: Tensor, fixed_BQNC: Tensor, positions_BP: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scores of all items after some positions of each history.

        Args:
            history_BLD: item vectors, right-aligned.
            mask_BL: True where there is an item.
            tower_ND: item vectors of the catalogue.
            fixed_BQNC: standardised scores of the other channels, [B, Q, N, C - 1], from ``ChannelScores``, for the first
                Q <= P positions.
            positions_BP: which positions.

        Returns:
            blend_BQN of all channels at the first Q positions, and encoder_BPN, the encoder's own standardised scores.
        """
        users_BLD = self.encoder(history_BLD, mask_BL)
        at_BPD = positions_BP.unsqueeze(-1).expand(-1, -1, users_BLD.shape[-1])
        encoder_BPN = standardise(users_BLD.gather(1, at_BPD) @ tower_ND.T)
        blended = fixed_BQNC.shape[1]
        channels_BQNC = torch.cat([encoder_BPN[:, :blended].unsqueeze(-1), fixed_BQNC], dim=-1)
        return self.mix(channels_BQNC).squeeze(-1), encoder_BPN


def standardise(scores: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over the last axis; constant rows become 0."""
    centred = scores - scores.mean(dim=-1, keepdim=True)
    deviation = centred.pow(2).mean(dim=-1, keepdim=True).clamp(min=_TINY * _TINY).sqrt()
    return centred / deviation.clamp(min=_TINY)


class ChannelScores:
    """Scores of the channels without parameters, for histories of this client.

    Args:
        public: what was published.
        recent: the transitions look at this many newest items.
        decay: weight of an item relative to the next newer one.
    """

    def __init__(self, public: PublicChannels, *, recent: int = 10, decay: float = 0.8) -> None:
        self.public = public
        self.recent = recent
        self.decay = decay
        n_items = len(public.popularity_N)
        self._device = public.tower_ND.device
        self._position = torch.full((n_items,), -1, dtype=torch.long, device=self._device)
        self._position[public.head_K] = torch.arange(len(public.head_K), device=self._device)
        self._popularity_N = standardise(public.popularity_N.clamp(min=0.0))

    def fixed_channels(self, ids_BL: Tensor, mask_BL: Tensor, positions_BP: Tensor) -> Tensor:
        """Standardised scores [B, P, N, 3] of both transition readings and popularity, after each position."""
        context_BPK = self._context(ids_BL, mask_BL, positions_BP)
        batch, positions = positions_BP.shape
        n_items = len(self._popularity_N)
        fixed = torch.zeros(batch, positions, n_items, len(CHANNELS) - 1, device=self._device)
        for channel, matrix_KK in enumerate((self.public.sparse_KK, self.public.smooth_KK)):
            scores_BPN = torch.zeros(batch, positions, n_items, device=self._device)
            scores_BPN[..., self.public.head_K] = context_BPK @ matrix_KK
            fixed[..., channel] = standardise(scores_BPN)
        fixed[..., -1] = self._popularity_N
        return fixed

    def _context(self, ids_BL: Tensor, mask_BL: Tensor, positions_BP: Tensor) -> Tensor:
        """Decayed indicator [B, P, K] of the newest head items up to each position."""
        batch, positions = positions_BP.shape
        context_BPK = torch.zeros(batch, positions, len(self.public.head_K), device=self._device)
        head_BL = torch.where(mask_BL, self._position[ids_BL.clamp(min=0)], torch.full_like(ids_BL, -1))
        for age in range(self.recent):
            at_BP = positions_BP - age
            there_BP = head_BL.gather(1, at_BP.clamp(min=0))
            usable_BP = (at_BP >= 0) & (there_BP >= 0)
            weight_BP = torch.where(usable_BP, self.decay**age, 0.0)
            context_BPK.scatter_add_(2, there_BP.clamp(min=0).unsqueeze(-1), weight_BP.unsqueeze(-1))
        return context_BPK
