"""The local fit of a re-ranker, on the frozen tower, encoder and blend. Nothing of it is sent.

It is ordinary training without noise, so a plan has a re-ranker only where its encoders are not protected from the client's
own users either (``client.plan_settings``), and no release follows it where there is privacy
(``FederationPlan.fit_ends_measuring``).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from client.model import ClientModel
from privacy.randomness import RandomSource
from recsys_models.data.histories import TimedHistories
from recsys_models.metrics.ranking import reciprocal_rank, target_ranks
from recsys_models.rerankers.neumf import NeuMF, candidate_loss, candidates
from recsys_models.retrieval.blend import ChannelScores

_FEWEST_TO_HOLD_OUT = 10
_LOOK_EVERY = 20
_BATCH = 128
_STEPS = 160
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 0.01
_SURELY = 2.0  # standard errors; one lets the best of several looks through by chance (docs/evaluation.md)


class RerankFit:
    """One client's fit of its re-ranker.

    Args:
        model: gets the re-ranker, if that is better than none.
        histories: this client's histories up to and with the validation item, oldest first; the newest item, which no
            released statistic has counted, is what is learnt.
        scorer: the frozen channels.
        randomness: of the held-out users and the batches.
    """

    def __init__(
        self,
        model: ClientModel,
        histories: Sequence[NDArray[np.int64]],
        scorer: ChannelScores,
        *,
        randomness: RandomSource,
    ) -> None:
        self._model = model
        self._histories = TimedHistories.of(histories).at_least(2)
        self._scorer = scorer
        self._randomness = randomness

    def run(self, batch_users: int, steps: int = _STEPS) -> bool:
        """AdamW steps over random users; the re-ranker is kept if it ranks held-out users' newest items better.

        A fifth of the users is held out. The weights of the best look are kept if their users' reciprocal ranks rise by more
        than two standard errors of that rise: the best of several looks rises a little by chance alone.

        Returns:
            Whether it was kept.
        """
        if len(self._histories) < _FEWEST_TO_HOLD_OUT:
            return False
        order = np.argsort(self._randomness.uniform(len(self._histories)))
        held_out, training = np.split(order, [len(order) // 5])
        reranker = self._model.untrained_reranker()
        batch = self._prepared(training)
        optimizer = torch.optim.AdamW(reranker.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
        without = self._reciprocal_ranks(None, held_out)
        best, kept = 0.0, None
        for step in range(1, steps + 1):
            picked = torch.from_numpy(
                self._randomness.integers(len(training), min(batch_users, len(training)))
            )
            loss_B = candidate_loss(reranker, *(part[picked] for part in batch))
            optimizer.zero_grad()
            loss_B.mean().backward()
            optimizer.step()
            if step % _LOOK_EVERY == 0 or step == steps:
                rise = self._reciprocal_ranks(reranker, held_out) - without
                if rise.mean() > max(best, _SURELY * rise.std() / np.sqrt(len(rise))):
                    best, kept = float(rise.mean()), copy.deepcopy(reranker)
        self._model.reranker = kept
        return kept is not None

    def _prepared(self, users: NDArray[np.int64]) -> tuple[torch.Tensor, ...]:
        """Arguments of the loss, for these users in this order; the frozen parts never change, so once."""
        parts: list[tuple[torch.Tensor, ...]] = []
        tower_ND = self._model.items_for(self._scorer)
        for start in range(0, len(users), _BATCH):
            before, newest = self._split(users[start : start + _BATCH])
            scores_BN = self._model.scores(before, self._scorer).to(self._model.device)
            item_BC, score_BC = candidates(scores_BN, before)
            is_target_BC = (
                item_BC == torch.from_numpy(newest).to(item_BC.device).unsqueeze(1)
            ) & score_BC.isfinite()
            users_BD = self._model.user_vectors(before, tower_ND)
            parts.append((users_BD, tower_ND[item_BC], score_BC, is_target_BC))
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    def _reciprocal_ranks(self, reranker: NeuMF | None, users: NDArray[np.int64]) -> NDArray[np.float64]:
        before, newest = self._split(users)
        self._model.reranker = reranker
        scores = self._model.scores(before, self._scorer).numpy()
        self._model.reranker = None
        return reciprocal_rank(target_ranks(scores, newest, before))

    def _split(self, users: NDArray[np.int64]) -> tuple[TimedHistories, NDArray[np.int64]]:
        picked = self._histories.pick(users)
        return picked.without_newest(), np.array([history[-1] for history in picked], dtype=np.int64)
