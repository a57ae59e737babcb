"""Release 4: how well this client's recommender ranks what its users did next, as sums.

One user adds to seven cells: [1, hit@10, hit@20, NDCG@10] of the recommender and [hit@10, hit@20, NDCG@10] of popularity, on
the same user and the same target. With one relevant item recall@K is hit@K. Every entry lies in [0, 1], so a user's norm
is at most sqrt(7).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.behaviour_log import BehaviourLog, Stage
from client.model import ClientModel
from client.public_state import PublicState
from privacy.bounded import UserContributions
from recsys_models.metrics.ranking import target_ranks
from recsys_models.metrics.sums import user_metric_rows
from recsys_models.release_shapes import RANKERS

_BATCH = 128


@dataclass(frozen=True)
class Ranks:
    """Rank of each evaluated user's target among all items she has not seen, best = 1; ties count against the target."""

    model: NDArray[np.int64]
    popularity: NDArray[np.int64]


def metric_contributions(ranks: Ranks) -> UserContributions:
    """One row per evaluated user, in the layout of ``recsys_models.metrics.sums``."""
    rows = user_metric_rows(dict(zip(RANKERS, (ranks.model, ranks.popularity), strict=True)))
    return UserContributions(rows.indices, rows.values, rows.offsets, rows.length)


def rank_targets(model: ClientModel, log: BehaviourLog, public: PublicState, stage: Stage) -> Ranks:
    """Rank every evaluated user's target over the full catalogue, items already seen removed."""
    targets = log.targets(stage)
    users = np.flatnonzero(targets >= 0)
    histories = log.seen(stage)
    scorer = model.scorer(public)
    nothing = np.zeros(0, dtype=np.int64)
    by_model, by_popularity = [nothing], [nothing]
    for start in range(0, len(users), _BATCH):
        batch = users[start : start + _BATCH]
        seen = [histories[u] for u in batch]
        popularity = np.broadcast_to(public.popularity, (len(batch), len(public.popularity)))
        by_model.append(target_ranks(model.scores(seen, scorer).numpy(), targets[batch], seen))
        by_popularity.append(target_ranks(popularity, targets[batch], seen))
    return Ranks(np.concatenate(by_model), np.concatenate(by_popularity))
