"""The local fit: encoder and blend weights on the frozen tower. Nothing of it is sent, not even a loss.

With ``protect_within_client`` it is DP-SGD over users (Abadi et al. 2016, Algorithm 1, the user as the example), so that
recommendations made for one user of this client say little about another (joint DP); its event is charged to this client's
ledger. Without, it is ordinary training, and users of one client are protected from outsiders only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.model import ClientModel
from client.public_state import PublicState
from privacy.bounded import BoundedSum, clip_and_sum
from privacy.mechanisms.discrete_gaussian import add_noise
from privacy.randomness import RandomSource
from privacy.release_terms import ReleaseTerms
from privacy.user_gradients.engine import encoder_size, per_user_gradients, set_encoder_gradient, wrap_encoder
from recsys_models.batches import window
from recsys_models.retrieval.blend import BlendedRecommender, ChannelScores

_POSITIONS = 4  # positions of a user's history that one step looks at
_CHUNK = 64


@dataclass(frozen=True)
class _Batch:
    ids_BL: torch.Tensor
    mask_BL: torch.Tensor
    positions_BP: torch.Tensor
    targets_BP: torch.Tensor


class EncoderFit:
    """One client's fit.

    Args:
        model: moved in place.
        training: this client's training histories.
        public: the frozen tower and channels.
        settings: agreed settings.
        users: enrolled (rounded) number of users, the public denominator.
        randomness: for sampling, positions and noise.
    """

    def __init__(
        self,
        model: ClientModel,
        training: list[NDArray[np.int64]],
        public: PublicState,
        settings: dict[str, Any],
        *,
        users: int,
        randomness: RandomSource,
    ) -> None:
        self._model = model
        self._histories = [h for h in training if len(h) >= 2]
        self._scorer = ChannelScores(public.channels())
        self._settings = settings["fit"]
        self._max_length: int = settings["max_length"]
        self._users = users
        self._randomness = randomness

    def private(self, terms: ReleaseTerms) -> None:
        """Run the release's steps as DP-SGD; an empty Poisson batch is a step of noise alone."""
        if not self._histories:
            return
        module = wrap_encoder(self._model.recommender)
        optimizer = self._optimizer(torch.optim.SGD, self._settings["learning_rate"], blend_factor=4.0)
        q = terms.release.sampling_probability
        for step in range(terms.release.steps):
            users = np.flatnonzero(self._randomness.bernoulli(q, len(self._histories)))
            total = self._clipped_sum(module, users, terms)
            name = f"{terms.release.name}/{step}"
            noised = add_noise(total, terms.total_sigma, self._randomness, name=name, left_the_client=False)
            set_encoder_gradient(module, noised.dense / max(q * self._users, 1.0))
            optimizer.step()
        module.to_standard_module()

    def ordinary(self, steps: int, batch_users: int) -> None:
        """Plain Adam steps over random users, without clipping or noise."""
        if not self._histories:
            return
        recommender = self._model.recommender.train()
        optimizer = self._optimizer(torch.optim.Adam, self._settings["learning_rate"], blend_factor=10.0)
        for _ in range(steps):
            users = self._randomness.integers(len(self._histories), min(batch_users, len(self._histories)))
            batch = self._batch(users)
            tower_ND = self._scorer.public.tower_ND
            losses_B = self._losses(recommender, tower_ND[batch.ids_BL.clamp(min=0)], batch)
            optimizer.zero_grad()
            losses_B.mean().backward()
            optimizer.step()

    def _optimizer(
        self, kind: type[torch.optim.Optimizer], learning_rate: float, *, blend_factor: float
    ) -> torch.optim.Optimizer:
        recommender = self._model.recommender
        # Four blend weights of order 1 bear larger steps than thousands of encoder weights near 0.
        blend = {"params": list(recommender.mix.parameters()), "lr": learning_rate * blend_factor}
        encoder = {"params": list(recommender.encoder.parameters()), "lr": learning_rate}
        return kind([encoder, blend], lr=learning_rate)  # pyright: ignore[reportCallIssue]

    def _clipped_sum(self, module: Any, users: NDArray[np.int64], terms: ReleaseTerms) -> BoundedSum:
        values = np.zeros(encoder_size(module), dtype=np.int64)
        tower_ND = self._scorer.public.tower_ND
        for start in range(0, len(users), _CHUNK):
            batch = self._batch(users[start : start + _CHUNK])
            gradients = per_user_gradients(
                module,
                tower_ND,
                batch.ids_BL,
                lambda wrapped, vectors, batch=batch: self._losses(wrapped, vectors, batch),
                train_table=False,
            )
            part = clip_and_sum(
                gradients.to_contributions(0), l2_clip_norm=terms.l2_clip_norm, unit=terms.unit
            )
            values += part.values
        return BoundedSum(values, terms.l2_bound, terms.unit, len(users))

    def _losses(
        self, recommender: BlendedRecommender | Any, history_BLD: torch.Tensor, batch: _Batch
    ) -> torch.Tensor:
        """Mean cross-entropy over each user's picked positions, against the whole catalogue."""
        fixed = self._scorer.fixed_channels(batch.ids_BL, batch.mask_BL, batch.positions_BP)
        scores_BPN = recommender(
            history_BLD, batch.mask_BL, self._scorer.public.tower_ND, fixed, batch.positions_BP
        )
        log_probability = torch.log_softmax(scores_BPN, dim=-1)
        return -log_probability.gather(2, batch.targets_BP.unsqueeze(-1)).squeeze(-1).mean(dim=1)

    def _batch(self, users: NDArray[np.int64]) -> _Batch:
        ids, mask = window([self._histories[u] for u in users], self._max_length + 1, at_least=2)
        lengths = mask.sum(axis=1) - 1
        draws = self._randomness.uniform(len(users) * _POSITIONS).reshape(len(users), _POSITIONS)
        width = ids.shape[1] - 1
        # The last `lengths` inputs are real; each user's picks are drawn from her own positions only.
        positions = (
            width - 1 - np.minimum(np.floor(draws * lengths[:, None]), lengths[:, None] - 1).astype(np.int64)
        )
        targets = np.take_along_axis(ids, positions + 1, axis=1)
        return _Batch(
            torch.from_numpy(np.ascontiguousarray(ids[:, :-1])),
            torch.from_numpy(np.ascontiguousarray(mask[:, :-1])),
            torch.from_numpy(positions),
            torch.from_numpy(targets),
        )
