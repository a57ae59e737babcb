"""The part of the recommender that never leaves this client: the user encoder and the blend's weights."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes

from client.private_file import write_private
from client.rating_fit import RatingModel
from privacy.randomness import RandomSource
from recsys_models.batches import window
from recsys_models.encoders.dropout import own_dropout
from recsys_models.encoders.registry import build_encoder
from recsys_models.rerankers.neumf import NeuMF, reranked
from recsys_models.retrieval.blend import BlendedRecommender, ChannelScores

# Building a module draws from torch's global generator; clients of a simulation are built by several threads.
_BUILDING = threading.Lock()
_RERANKER = "reranker."  # begins the names of its weights where they are stored
_RATING = "rating."
_TEMPERATURE = "temperature"


class ClientModel:
    """Encoder plus channel weights, on this machine only.

    ``temperature`` turns scores into probabilities (``recsys_models.metrics.calibration``). It stays 1 wherever it may not be
    fitted: the blend is itself fitted by the log-loss of its softmax, with noise where a plan protects users of one client.

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
        self.temperature = 1.0
        self.rating: RatingModel | None = None

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

    def scores(self, histories: Sequence[NDArray[np.int64]], scorer: ChannelScores) -> torch.Tensor:
        """Scores ``[B, n_items]``, on the CPU, of what comes next after each whole history.

        Where published numbers are so large that a user's scores overflow, hers are all 0. A failure instead would tell
        the server that somebody here has such items.
        """
        self.recommender.eval()
        # Always the full width: with the longest history of the batch, one user would round all others' scores anew.
        ids, mask = window(histories, self.max_length, at_least=self.max_length)
        ids_BL, mask_BL = torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)
        tower_ND = scorer.public.tower_ND
        last_B1 = torch.full((len(histories), 1), ids_BL.shape[1] - 1, device=self.device)
        with torch.no_grad():
            fixed = scorer.fixed_channels(ids_BL, mask_BL, last_B1)
            history_BLD = tower_ND[ids_BL.clamp(min=0)]
            blend_B1N, _ = self.recommender(history_BLD, mask_BL, tower_ND, fixed, last_B1)
            scores_BN = blend_B1N.squeeze(1)
            is_usable_B1 = scores_BN.isfinite().all(dim=1, keepdim=True)
            scores_BN = scores_BN.where(is_usable_B1, 0.0)
            if self.reranker is not None:
                users_BD = self.user_vectors(histories, tower_ND)
                scores_BN = reranked(self.reranker, scores_BN, users_BD, tower_ND, histories)
            return scores_BN.cpu()

    def user_vectors(self, histories: Sequence[NDArray[np.int64]], tower_ND: torch.Tensor) -> torch.Tensor:
        """The encoder's vectors ``[B, D]`` after each whole history; they stay here."""
        self.recommender.eval()
        ids, mask = window(histories, self.max_length, at_least=self.max_length)
        ids_BL, mask_BL = torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)
        with torch.no_grad():
            return self.recommender.encoder(tower_ND[ids_BL.clamp(min=0)], mask_BL)[:, -1]

    def untrained_reranker(self) -> NeuMF:
        """A re-ranker to be fitted; it adds nothing yet."""
        return copy.deepcopy(self._untrained_reranker)

    def save(self, path: Path) -> None:
        """Write the private weights, for this user of the machine alone; they are never sent."""
        parts = {"": self.recommender, _RERANKER: self.reranker}
        weights = {
            prefix + name: value.cpu().contiguous()
            for prefix, part in parts.items()
            if part is not None
            for name, value in part.state_dict().items()
        }
        weights[_TEMPERATURE] = torch.tensor([self.temperature], dtype=torch.float64)
        if self.rating is not None:
            weights |= {_RATING + name: value for name, value in self.rating.state().items()}
        write_private(path, safetensors_bytes(weights))

    def load(self, path: Path) -> None:
        """Read what ``save`` wrote."""
        weights = load_file(path)
        self.temperature = float(weights.pop(_TEMPERATURE))
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
