"""The local fit without noise: encoder, this client's own copy of the item vectors, its own transitions, blend weights.

Nothing of it is sent, so nobody outside learns more than without it. Users of this client are not protected from each
other: what one did shows in what the others are recommended. It is made only where the plan says so and the client's policy
agrees (``allow_unprotected_encoder``), or where privacy is off.

The newest training events train the encoder; the item after them, the validation item, which neither the encoder nor any
count has met, picks the epoch and the blend's weights. Afterwards the client's own transitions are counted once more with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from client.behaviour_log import BehaviourLog
from client.model import ClientModel
from client.public_state import PublicState
from privacy.randomness import RandomSource
from recsys_models.data.histories import TimedHistories
from recsys_models.encoders.dropout import own_dropout
from recsys_models.metrics.ranking import reciprocal_rank, seen_cells, target_ranks
from recsys_models.retrieval.blend import CHANNELS
from recsys_models.retrieval.blend_fit import fit_blend_weights
from recsys_models.retrieval.transitions import count_transitions
from recsys_models.training import TrainingSettings, train_next_item

_LOOK_AT_USERS = 512
_WARM_UP_STEPS = 100
_SCALES = tuple(2.0 ** -(k / 2.0) for k in range(25))
_CHANNEL_NUMBERS = 2**26
"""Most numbers (256 MiB) that the blend's weights are fitted on; of more users, that many at random."""


class OrdinaryFit:
    """One client's fit without noise.

    Args:
        model: changed in place.
        log: this client's users.
        public: the published tower and channels.
        settings: agreed settings, and whether the run is private.
        randomness: for the order of training, dropout and the choice of users.
    """

    def __init__(
        self,
        model: ClientModel,
        log: BehaviourLog,
        public: PublicState,
        settings: dict[str, Any],
        randomness: RandomSource,
    ) -> None:
        self._model = model
        self._log = log
        self._public = public
        self._settings = settings
        self._randomness = randomness
        self._generator = np.random.default_rng(int(randomness.integers(2**62, 1)[0]))
        targets = log.targets("validation")
        seen = log.seen("validation")
        self._users = np.array([u for u in np.flatnonzero(targets >= 0) if len(seen[u])], dtype=np.int64)

    def run(self) -> None:
        """Everything; a client whose users have nothing to fit keeps what it has."""
        if not len(self._users):
            return
        self._count_own(self._log.training)
        self._train_encoder()
        self._fit_blend()

    def count_all(self) -> None:
        """Count own transitions once more, with the validation item, when nothing is judged on that any longer."""
        if len(self._users):
            self._count_own(self._log.seen("test"))

    def _count_own(self, histories: Sequence[NDArray[np.int64]]) -> None:
        """Unless the published transitions hold these already, and everybody's: released without noise, and of every item.

        Those take their place, to be read like counts.
        """
        released = self._public.transitions
        if (
            released is not None
            and not self._settings["private"]
            and len(self._public.head) == self._public.n_items
        ):
            self._model.own_transitions = released.sparse
            return
        self._model.own_transitions = count_transitions(
            histories, self._public.n_items, orders=self._settings["orders"], decay=self._settings["decay"]
        )

    def _train_encoder(self) -> None:
        """Every position of every training history; the epoch with the best mean reciprocal rank is kept.

        The item vectors move with the encoder, in a copy of this client's own: what its own users do says more about its
        items than noise left over in the published vectors. With ``fit.own_items`` off they stay the published ones but for
        the one factor that the encoder was trained under; the copy is then kept for the factor.
        """
        fit = self._settings["fit"]
        log = self._log
        if not fit["epochs"] or not np.any(log.split.train.lengths >= 2):
            return
        encoder = self._model.recommender.encoder
        looked_at = self._some(self._users, _LOOK_AT_USERS)
        published_ND = torch.from_numpy(self._public.item_tower).to(self._model.device)
        items_ND = published_ND * self._scale(published_ND, looked_at)
        self._model.own_items = items_ND
        untrained = self._reciprocal_rank(looked_at)
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        items_ND = items_ND.clone().requires_grad_(fit["own_items"])
        settings = TrainingSettings(
            epochs=fit["epochs"],
            batch_size=fit["batch_users"],
            learning_rate=fit["learning_rate"],
            warm_up_steps=min(_WARM_UP_STEPS, self._steps() // 10),
            device=self._model.device.type,
        )
        self._model.own_items = items_ND
        drawn = torch.Generator(self._model.device).manual_seed(int(self._generator.integers(2**62)))
        with _dropout(encoder, fit["dropout"], drawn):
            training = train_next_item(
                encoder,
                items_ND,
                log.split.train,
                settings,
                self._generator,
                validate=lambda: self._reciprocal_rank(looked_at),
            )
        if max(training.validation) > untrained:
            self._model.own_items = items_ND.detach()
        else:
            encoder.load_state_dict(before)
            self._model.own_items = None

    def _scale(self, items_ND: torch.Tensor, users: NDArray[np.int64]) -> float:
        """The factor on item vectors under which the untrained encoder's softmax finds the validation items best.

        Rankings do not depend on it; training does: a tower's norms follow its statistics, and where a few items have
        vectors many times longer than the rest, the first epochs only undo what their dot products claim.
        """
        seen = self._seen(users)
        targets = torch.from_numpy(self._log.targets("validation")[users]).to(items_ND.device)
        with torch.no_grad():
            logits_BN = self._model.user_vectors(seen, items_ND) @ items_ND.T
            losses = [float(functional.cross_entropy(logits_BN * scale**2, targets)) for scale in _SCALES]
        # Published numbers may overflow; then nothing is known of any scale, and that is no reason to fail either.
        return _SCALES[int(np.argmin(np.nan_to_num(losses, nan=np.inf)))]

    def _steps(self) -> int:
        """About how many steps all epochs take: a small client would else train at a rate that never rises."""
        fit, length = self._settings["fit"], self._model.max_length
        windows = int(np.ceil(np.maximum(self._log.split.train.lengths - 1, 0) / length).sum())
        return fit["epochs"] * max(1, windows // fit["batch_users"])

    def _reciprocal_rank(self, users: NDArray[np.int64]) -> float:
        """Mean reciprocal rank of the validation item by the encoder alone, after everything before it."""
        seen = self._seen(users)
        items_ND = self._model.own_items
        if items_ND is None:
            raise ValueError("the encoder is looked at while it trains only")
        with torch.no_grad():
            scores = (self._model.user_vectors(seen, items_ND) @ items_ND.T).cpu().numpy()
        # Where published numbers overflow, a user ranks nothing; a failure would tell the server that she has such items.
        scores[~np.isfinite(scores).all(axis=1)] = 0.0
        ranks = target_ranks(scores, self._log.targets("validation")[users], seen)
        return float(reciprocal_rank(ranks).mean())

    def _fit_blend(self) -> None:
        numbers = self._public.n_items * len(CHANNELS)
        users = self._some(self._users, max(1, _CHANNEL_NUMBERS // numbers))
        seen = self._seen(users)
        hidden = np.zeros((len(users), self._public.n_items), dtype=bool)
        hidden[seen_cells(seen)] = True
        targets = torch.from_numpy(self._log.targets("validation")[users])
        channels_BNC = self._model.channels(seen, self._model.scorer(self._public))
        mix = self._model.recommender.mix
        with torch.no_grad():
            start_C = mix.weight[0].cpu()
        # Whose channels overflow is left out: a fit that fails would tell the server that somebody here has such items.
        usable_B = channels_BNC.flatten(1).isfinite().all(dim=1)
        hidden_BN = torch.from_numpy(hidden)[usable_B]
        weights_C = fit_blend_weights(channels_BNC[usable_B], targets[usable_B], hidden_BN, start_C)
        with torch.no_grad():
            mix.weight.copy_(weights_C.unsqueeze(0))

    def _seen(self, users: NDArray[np.int64]) -> TimedHistories:
        """What these users had seen before the validation item."""
        return self._log.seen("validation").pick(users)

    def _some(self, users: NDArray[np.int64], most: int) -> NDArray[np.int64]:
        if len(users) <= most:
            return users
        return np.sort(self._generator.choice(users, most, replace=False))


@contextmanager
def _dropout(encoder: torch.nn.Module, probability: float, generator: torch.Generator) -> Iterator[None]:
    """This much dropout for as long as the training lasts."""
    own_dropout(encoder, generator)
    layers = [module for module in encoder.modules() if isinstance(module, torch.nn.Dropout)]
    before = [layer.p for layer in layers]
    for layer in layers:
        layer.p = probability
    try:
        yield
    finally:
        for layer, p in zip(layers, before, strict=True):
            layer.p = p
