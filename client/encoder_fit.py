"""The private local fit of the encoder on the frozen tower. Nothing of it is sent, not even a loss.

It is DP-SGD over users (Abadi et al. 2016, Algorithm 1, the user as the example), so that recommendations made for one user of
this client say little about another (joint DP); its event is charged to this client's ledger. Without
``protect_within_client`` the fit is an ordinary one (``client.ordinary_fit``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.model import ClientModel
from client.public_state import PublicState
from privacy.bounded import BoundedSum
from privacy.mechanisms.discrete_gaussian import add_noise
from privacy.randomness import RandomSource
from privacy.release_terms import ReleaseTerms
from privacy.user_gradients.clipped_sum import Method, WrappedEncoder, choose_method, clipped_sum, wrap_for
from privacy.user_gradients.engine import LossFn, set_encoder_gradient
from privacy.user_gradients.guard import check_engine
from recsys_models.batches import window, window_times
from recsys_models.data.histories import TimedHistories, made_up_times
from recsys_models.encoders.base import UserEncoder
from recsys_models.retrieval.blend import standardise

_POSITIONS = 4  # earlier positions of a user's history that one step looks at, besides the newest
_CHUNK = 64
_TEMPERATURE = 3.0  # turns standardised scores into logits a softmax can tell apart
# Noise may move the encoder's output by this share of an item vector's coordinate.
_NOISE_IN_OUTPUT = 0.005
_LARGEST_RATE = 0.5
_GUARD_USERS = 8
_GUARD_EVENTS = 6


@dataclass(frozen=True)
class _Batch:
    ids_BL: torch.Tensor
    mask_BL: torch.Tensor
    times_BL: torch.Tensor
    positions_BP: torch.Tensor  # the newest first, then random earlier ones
    targets_BP: torch.Tensor

    def select(self, users: torch.Tensor) -> _Batch:
        """Some of the users, by position."""
        return _Batch(
            self.ids_BL[users],
            self.mask_BL[users],
            self.times_BL[users],
            self.positions_BP[users],
            self.targets_BP[users],
        )


class EncoderFit:
    """One client's fit.

    A user's loss is the encoder's cross-entropy at her newest item and at a few earlier ones. The blend's weights are not
    fitted: the federation has chosen them by a measurement over all clients' users (``recsys_models.retrieval.presets``).

    The engine is checked when this is made, on made-up users; the log is not read before the first step.

    Args:
        model: moved in place.
        histories: gives this client's histories up to and with the validation item, oldest first.
        public: the frozen tower and channels.
        settings: agreed settings.
        users: enrolled (rounded) number of users, the public denominator.
        randomness: for sampling, positions and noise.

    Raises:
        SensitivityViolation: the engine does not give each user's own gradient for this model.
    """

    def __init__(
        self,
        model: ClientModel,
        histories: Callable[[], Sequence[NDArray[np.int64]]],
        public: PublicState,
        settings: dict[str, Any],
        *,
        users: int,
        randomness: RandomSource,
    ) -> None:
        self._model = model
        self._read = histories
        self._tower_ND = torch.from_numpy(public.item_tower).to(model.device)
        self._settings = settings["fit"]
        self._dim: int = settings["dim"]
        self._max_length: int = settings["max_length"]
        self._users = users
        self._randomness = randomness
        self._method: Method = choose_method(
            settings["per_user_gradients"], model.recommender.encoder, _CHUNK
        )
        self._guard()

    @cached_property
    def _histories(self) -> TimedHistories:
        """Of the users who have a next item."""
        return TimedHistories.of(self._read()).at_least(2)

    def private(self, terms: ReleaseTerms) -> None:
        """Run the release's steps as DP-SGD; an empty Poisson batch is a step of noise alone.

        Also where no user has anything to fit: an encoder without noise would say that nobody is there.
        """
        module = self.wrapped()
        q, steps = terms.release.sampling_probability, terms.release.steps
        expected_users = max(q * self._users, 1.0)
        noise_walk = terms.total_sigma * terms.unit / expected_users * math.sqrt(steps)
        rate = min(_LARGEST_RATE, _NOISE_IN_OUTPUT / (noise_walk * math.sqrt(self._dim)))
        optimizer = torch.optim.SGD(self._model.recommender.encoder.parameters(), lr=rate)
        for step in range(steps):
            users = np.flatnonzero(self._randomness.bernoulli(q, len(self._histories)))
            total = self.clipped_sum(module, users, terms)
            name = f"{terms.release.name}/{step}"
            noised = add_noise(total, terms.total_sigma, self._randomness, name=name, left_the_client=False)
            set_encoder_gradient(module, noised.dense / expected_users)
            optimizer.step()
        module.to_standard_module()

    def wrapped(self) -> WrappedEncoder:
        """The encoder, ready for per-user gradients."""
        return wrap_for(self._method, self._model.recommender.encoder)

    def _guard(self) -> None:
        """Compare the per-user engine with autograd on made-up users before it is used."""
        made_up = self._made_up()
        check_engine(
            self._model.recommender.encoder,
            self._tower_ND,
            made_up.ids_BL,
            lambda users: self._loss_of(made_up.select(users)),
            self._settings["l2_clip_norm"],
            train_table=False,
            method=self._method,
        )

    def _made_up(self) -> _Batch:
        """A batch of users that nobody is: whether the check passes must not depend on the log.

        Drawn from a fixed seed: nothing here is protected by being unknown.
        """
        random = np.random.default_rng(20)
        longest = max(2, min(self._max_length + 1, _GUARD_EVENTS))
        n_items = len(self._tower_ND)
        histories = [random.integers(0, n_items, 2 + k % (longest - 1)) for k in range(_GUARD_USERS)]
        timed = TimedHistories(histories, made_up_times(histories))
        return self._packed(timed, random.random((_GUARD_USERS, _POSITIONS)))

    def clipped_sum(
        self, module: WrappedEncoder, users: NDArray[np.int64], terms: ReleaseTerms
    ) -> BoundedSum:
        """Clipped gradients of these users in grid steps, without noise; positions are drawn for each user in turn."""
        total = clipped_sum(module, 0, self._dim, l2_clip_norm=terms.l2_clip_norm, unit=terms.unit)
        for start in range(0, len(users), _CHUNK):
            batch = self._batch(users[start : start + _CHUNK])
            total.add(self._tower_ND, batch.ids_BL, self._loss_of(batch))
        return total.total()

    def _losses(self, encoder: UserEncoder | Any, history_BLD: torch.Tensor, batch: _Batch) -> torch.Tensor:
        """Each user's mean cross-entropy against the whole catalogue, over her positions of the batch."""
        users_BLD = encoder(history_BLD, batch.mask_BL, batch.times_BL)
        at_BPD = batch.positions_BP.unsqueeze(-1).expand(-1, -1, users_BLD.shape[-1])
        scores_BPN = standardise(users_BLD.gather(1, at_BPD) @ self._tower_ND.T)
        log_BPN = torch.log_softmax(scores_BPN * _TEMPERATURE, dim=-1)
        return -log_BPN.gather(2, batch.targets_BP.unsqueeze(-1)).squeeze(-1).mean(dim=1)

    def _loss_of(self, batch: _Batch) -> LossFn:
        return lambda encoder, history_BLD: self._losses(encoder, history_BLD, batch)

    def _batch(self, users: NDArray[np.int64]) -> _Batch:
        draws = self._randomness.uniform(len(users) * _POSITIONS).reshape(len(users), _POSITIONS)
        return self._packed(self._histories.pick(users), draws)

    def _packed(self, histories: TimedHistories, draws: NDArray[np.float64]) -> _Batch:
        ids, mask = window(histories, self._max_length + 1, at_least=2)
        lengths = mask.sum(axis=1) - 1
        newest = ids.shape[1] - 2
        # The last `lengths` inputs are real; each user's picks are drawn from her own positions only.
        earlier = newest - np.minimum(np.floor(draws * lengths[:, None]), lengths[:, None] - 1).astype(
            np.int64
        )
        positions = np.concatenate([np.full((len(histories), 1), newest, dtype=np.int64), earlier], axis=1)
        targets = np.take_along_axis(ids, positions + 1, axis=1)
        times_BL = window_times(histories, ids.shape[1])[:, :-1].to(self._model.device)
        ids_BL, mask_BL, positions_BP, targets_BP = (
            torch.from_numpy(np.ascontiguousarray(array)).to(self._model.device)
            for array in (ids[:, :-1], mask[:, :-1], positions, targets)
        )
        return _Batch(ids_BL, mask_BL, times_BL, positions_BP, targets_BP)
