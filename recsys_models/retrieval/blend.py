"""One user's scores from several channels: encoder, released transitions (two readings), popularity, content, own counts.

Each channel is standardised per user over the catalogue, so that the blend's weights are pure numbers with a data-free
default. A release chooses among a few sets of weights (``presets``); a client that may fit without noise goes on from there
(``blend_fit``).

Shapes: B users, L history, N items, D dimensions, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from recsys_models.encoders.base import UserEncoder
from recsys_models.retrieval.transitions import SparseTransitions, TransitionReadings, newest_items

CHANNELS = ("encoder", "transitions", "smooth transitions", "popularity", "content", "own transitions")
DEFAULT_WEIGHTS = (0.5, 1.0, 0.5, 0.2, 1.5, 1.0)
"""Before anything is fitted. A channel that a client does not have is constant, and so counts for nothing.

The content's weight is one that lost nowhere: at epsilon = 8 recall@10 rose with it up to 1 on MovieLens-100K, and on the
built-in log and Amazon Beauty beyond 3.
"""

_TINY = 1e-6


@dataclass(frozen=True)
class PublicChannels:
    """What the federation published and every client scores with.

    Attributes:
        tower_ND: item vectors.
        popularity_N: released popularity; zeros where nothing was released.
        transitions: released transitions; None where there are none.
        content_NF: public content vectors of the items, rows of norm 1 or 0; None where the catalogue says nothing.
    """

    tower_ND: Tensor
    popularity_N: Tensor
    transitions: TransitionReadings | None = None
    content_NF: Tensor | None = None

    @staticmethod
    def build(
        tower: NDArray[np.floating],
        popularity: NDArray[np.floating],
        transitions: TransitionReadings | None = None,
        device: torch.device | None = None,
        *,
        content: NDArray[np.floating] | None = None,
    ) -> PublicChannels:
        """From arrays, onto ``device``."""
        tower_ND, popularity_N = (_tensor(array, device) for array in (tower, popularity))
        content_NF = None if content is None else _tensor(content, device)
        return PublicChannels(tower_ND, popularity_N, transitions, content_NF)


class BlendedRecommender(nn.Module):
    """Encoder plus channel weights: everything of a client's model that is private to it.

    Args:
        encoder: the user encoder.
    """

    def __init__(self, encoder: UserEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        # Never trained by gradients: a likelihood pays for the scale of the weights, a ranking for their proportions, and under
        # noise a few steps halved all of them alike (0.26 to 0.21 of recall@10 on the built-in log at epsilon = 8).
        self.mix = nn.Linear(len(CHANNELS), 1, bias=False).requires_grad_(False)
        with torch.no_grad():
            self.mix.weight.copy_(torch.tensor([DEFAULT_WEIGHTS]))


def standardise(scores: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over the last axis; constant rows become 0."""
    centred = scores - scores.mean(dim=-1, keepdim=True)
    deviation = centred.pow(2).mean(dim=-1, keepdim=True).clamp(min=_TINY * _TINY).sqrt()
    return centred / deviation.clamp(min=_TINY)


class ChannelScores:
    """Scores of the channels without parameters, for histories of this client.

    Args:
        public: what was published.
        own: transitions counted without noise, over this client's own users or, with privacy off, over everybody. They
            carry one user into what the others are recommended, so they are for clients whose encoder is not protected
            from their own users either. Read by the roots of their weights (``SparseTransitions.roots``).
        recent: transitions and content look at this many newest items.
        decay: weight of an item relative to the next newer one. 0.7 was as good as 0.8 or better on every log and budget that
            was looked at: at epsilon = 8 by 0.005 of recall@10 on MovieLens-1M and 0.017 on the built-in log.
    """

    def __init__(
        self,
        public: PublicChannels,
        *,
        own: SparseTransitions | None = None,
        recent: int = 10,
        decay: float = 0.7,
    ) -> None:
        self.public = public
        self.own = own
        self.recent = recent
        self.decay = decay
        self._device = public.tower_ND.device
        self._popularity_N = standardise(public.popularity_N.clamp(min=0.0))

    def fixed_channels(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Standardised scores [B, N, C - 1] of all channels but the encoder, after each whole history."""
        n_items = len(self._popularity_N)
        context = newest_items(
            ids_BL.cpu().numpy(),
            mask_BL.cpu().numpy(),
            n_items=n_items,
            recent=self.recent,
            decay=self.decay,
        )
        fixed_BNC = torch.zeros(len(ids_BL), n_items, len(CHANNELS) - 1, device=self._device)
        for channel, scores in enumerate(self._scores(context)):
            if scores is not None:
                fixed_BNC[..., channel] = standardise(scores)
        return fixed_BNC

    def _scores(self, context: sparse.csr_array) -> tuple[Tensor | None, ...]:
        """Each channel's scores, [B, N] or [N], in the order of ``CHANNELS`` without the encoder."""
        transitions, content_NF, own = self.public.transitions, self.public.content_NF, self.own
        return (
            None if transitions is None else _tensor(transitions.sparse.scores(context), self._device),
            None if transitions is None else _tensor(transitions.smooth.scores(context), self._device),
            self._popularity_N,
            None if content_NF is None else self._content(context, content_NF),
            None if own is None else _tensor(own.root_scores(context), self._device),
        )

    def _content(self, context: sparse.csr_array, content_NF: Tensor) -> Tensor:
        """Likeness to the recency-weighted mean of the newest items' content."""
        mean_BF = _tensor(context @ content_NF.cpu().numpy(), self._device)
        return mean_BF @ content_NF.T


def _tensor(array: NDArray[np.floating], device: torch.device | None) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)
