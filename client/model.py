"""The part of the recommender that never leaves this client: user encoder, blend weights, and what it knows of its own."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes

from client.private_file import write_private
from client.public_state import PublicState
from client.rating_fit import RatingModel
from privacy.randomness import RandomSource
from recsys_models.batches import window, window_times
from recsys_models.encoders.dropout import own_dropout
from recsys_models.encoders.registry import build_encoder
from recsys_models.metrics.calibration import Calibration
from recsys_models.rerankers.neumf import NeuMF, reranked
from recsys_models.retrieval.blend import BlendedRecommender, ChannelScores, standardise
from recsys_models.retrieval.transitions import SparseTransitions

_OWN_ITEMS = "own.items"
_OWN_TRANSITIONS = ("own.transition_starts", "own.transition_items", "own.transition_weights")

# Building a module draws from torch's global generator; clients of a simulation are built by several threads.
_BUILDING = threading.Lock()
_RERANKER = "reranker."  # begins the names of its weights where they are stored
_RATING = "rating."
_CALIBRATION = "calibration"


class ClientModel:
    """Encoder plus channel weights, on this machine only.

    ``calibration`` turns scores into probabilities (``recsys_models.metrics.calibration``). Where it may not be
    fitted it is that of the released recall (``calibration_of_recall``), and before any release a plain softmax's.

    Attributes:
        own_items: item vectors of this client's own, ``[n_items, dim]``: trained with the encoder, or the published
            ones times the factor it was trained under; None where it works with the published as they are.
        own_transitions: transitions of this client's own users, counted without noise, or with privacy off the published
            ones of everybody's; None where users are protected from each other.

    Args:
        settings: the plan's model settings.
        seed_material: bytes that fix the initial weights, public or not: they hold no data.
        device: where it computes; the initial weights are the same everywhere.
    """

    def __init__(
        self, settings: Mapping[str, Any], seed_material: bytes, device: torch.device | None = None
    ) -> None:
        self.device = device or torch.device("cpu")
        self.max_length = int(settings["max_length"])
        self._dropout = float(settings["dropout"])
        seed = int.from_bytes(hashlib.sha256(b"encoder" + seed_material).digest()[:8], "little") >> 1
        with _BUILDING, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = build_encoder(
                settings["encoder"],
                settings["dim"],
                max_length=self.max_length,
                blocks=settings["blocks"],
                heads=settings["heads"],
                dropout=settings["dropout"],
            )
            self.recommender = BlendedRecommender(encoder).to(self.device)
            self._untrained_reranker = NeuMF(settings["dim"]).to(self.device)
        self.reranker: NeuMF | None = None
        self.calibration = Calibration()
        self.rating: RatingModel | None = None
        self.own_items: torch.Tensor | None = None
        self.own_transitions: SparseTransitions | None = None

    def draw_dropout_from(self, randomness: RandomSource) -> None:
        """Seed the dropout layers, where there are any.

        The masks stay secret. One more user in a batch shifts which mask each of the others gets; a bound on one user's effect
        compares two logs with everybody's masks held fixed, which needs masks that nobody can predict.
        """
        if not self._dropout:
            return
        generator = torch.Generator(self.device)
        generator.manual_seed(int.from_bytes(randomness.random_bytes(8), "little") >> 1)
        own_dropout(self.recommender, generator)

    def begin_with(self, weights: Sequence[float] | NDArray[np.floating]) -> None:
        """Set the blend's weights, before they are fitted."""
        mix = self.recommender.mix
        with torch.no_grad():
            mix.weight.copy_(torch.tensor([[float(weight) for weight in weights]]))

    def scorer(self, public: PublicState) -> ChannelScores:
        """The channels without parameters: what was published, and this client's own transitions if it counted any."""
        return ChannelScores(public.channels(self.device), own=self.own_transitions)

    def items_for(self, scorer: ChannelScores) -> torch.Tensor:
        """Item vectors ``[n_items, dim]`` the encoder works with: this client's own if it fitted any, else the published."""
        return scorer.public.tower_ND if self.own_items is None else self.own_items

    def scores(self, histories: Sequence[NDArray[np.int64]], scorer: ChannelScores) -> torch.Tensor:
        """Scores ``[B, n_items]``, on the CPU, of what comes next after each whole history.

        Histories here are lists of item arrays, or :class:`recsys_models.data.histories.TimedHistories`, which have times for
        an encoder that reads them.

        Where published numbers are so large that a user's scores overflow, hers are all 0. A failure instead would tell
        the server that somebody here has such items.
        """
        with torch.no_grad():
            channels_BNC = self.channels(histories, scorer)
            scores_BN = self.recommender.mix(channels_BNC.to(self.device)).squeeze(-1)
            is_usable_B1 = scores_BN.isfinite().all(dim=1, keepdim=True)
            scores_BN = scores_BN.where(is_usable_B1, 0.0)
            if self.reranker is not None:
                items_ND = self.items_for(scorer)
                users_BD = self.user_vectors(histories, items_ND)
                scores_BN = reranked(self.reranker, scores_BN, users_BD, items_ND, histories)
            return scores_BN.cpu()

    @torch.no_grad()
    def user_vectors(self, histories: Sequence[NDArray[np.int64]], items_ND: torch.Tensor) -> torch.Tensor:
        """The encoder's vectors ``[B, D]`` after each whole history, of these item vectors; they stay here."""
        return self._user_vectors(*self._windows(histories), items_ND)

    def untrained_reranker(self) -> NeuMF:
        """A re-ranker to be fitted; it adds nothing yet."""
        return copy.deepcopy(self._untrained_reranker)

    @torch.no_grad()
    def channels(self, histories: Sequence[NDArray[np.int64]], scorer: ChannelScores) -> torch.Tensor:
        """Every channel's standardised scores ``[B, n_items, C]``, on the CPU, after each whole history."""
        ids_BL, mask_BL, times_BL = self._windows(histories)
        fixed_BNC = scorer.fixed_channels(ids_BL, mask_BL)
        items_ND = self.items_for(scorer)
        encoder_BN = standardise(self._user_vectors(ids_BL, mask_BL, times_BL, items_ND) @ items_ND.T)
        return torch.cat([encoder_BN.unsqueeze(-1), fixed_BNC], dim=-1).cpu()

    def _windows(
        self, histories: Sequence[NDArray[np.int64]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # Always the full width: with the longest history of the batch, one user would round all others' scores anew.
        ids, mask = window(histories, self.max_length, at_least=self.max_length)
        times_BL = window_times(histories, self.max_length)
        return (
            torch.from_numpy(ids).to(self.device),
            torch.from_numpy(mask).to(self.device),
            times_BL.to(self.device),
        )

    def _user_vectors(
        self, ids_BL: torch.Tensor, mask_BL: torch.Tensor, times_BL: torch.Tensor, items_ND: torch.Tensor
    ) -> torch.Tensor:
        encoder = self.recommender.encoder
        was_training = encoder.training
        encoder.eval()
        users_BLD = encoder(items_ND[ids_BL.clamp(min=0)], mask_BL, times_BL)
        encoder.train(was_training)
        return users_BLD[:, -1]

    def save(self, path: Path) -> None:
        """Write everything private, for this user of the machine alone; it is never sent."""
        parts = {"": self.recommender, _RERANKER: self.reranker}
        weights = {
            prefix + name: value.cpu().contiguous()
            for prefix, part in parts.items()
            if part is not None
            for name, value in part.state_dict().items()
        }
        numbers = astuple(self.calibration)
        weights[_CALIBRATION] = torch.tensor(numbers, dtype=torch.float64)
        if self.rating is not None:
            weights |= {_RATING + name: value for name, value in self.rating.state().items()}
        if self.own_items is not None:
            weights[_OWN_ITEMS] = self.own_items.cpu().contiguous()
        if self.own_transitions is not None:
            own = self.own_transitions
            for name, array in zip(_OWN_TRANSITIONS, (own.starts, own.items, own.weights), strict=True):
                weights[name] = torch.from_numpy(array)
        write_private(path, safetensors_bytes(weights))

    def load(self, path: Path) -> None:
        """Read what ``save`` wrote."""
        weights = load_file(path)
        self.calibration = Calibration(*weights.pop(_CALIBRATION).tolist())
        items = weights.pop(_OWN_ITEMS, None)
        self.own_items = None if items is None else items.to(self.device)
        counted = [weights.pop(name).numpy() for name in _OWN_TRANSITIONS if name in weights]
        self.own_transitions = SparseTransitions(*counted) if counted else None
        reranker, rating = _taken(weights, _RERANKER), _taken(weights, _RATING)
        self.recommender.load_state_dict(weights)
        self.rating = RatingModel.of_state(rating) if rating else None
        self.reranker = None
        if reranker:
            self.reranker = self.untrained_reranker()
            self.reranker.load_state_dict(reranker)


def _taken(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Take the weights whose names begin so out of ``weights``; their names without it."""
    names = [name for name in weights if name.startswith(prefix)]
    return {name.removeprefix(prefix): weights.pop(name) for name in names}
