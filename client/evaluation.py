"""Which blend of channels to begin with, and how well this client's recommender ranks what its users did next, as sums.

One user adds to seven cells: [1, hit@10, hit@20, NDCG@10] of the recommender and [hit@10, hit@20, NDCG@10] of popularity, on
the same user and the same target. With one relevant item recall@K is hit@K. Every entry lies in [0, 1], so a user's norm
is at most sqrt(7).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from client.behaviour_log import BehaviourLog, Stage
from client.model import ClientModel
from client.public_state import PublicState
from privacy.bounded import UserContributions
from recsys_models.data.histories import TimedHistories
from recsys_models.metrics.ranking import target_ranks
from recsys_models.metrics.sums import user_metric_rows
from recsys_models.release_shapes import RANKERS
from recsys_models.retrieval.presets import PRESETS, comparison_rows

BATCH = 128
"""Users scored at once."""


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
    scorer = model.scorer(public)
    nothing = np.zeros(0, dtype=np.int64)
    by_model, by_popularity = [nothing], [nothing]
    for targets, seen in batches(log, stage):
        popularity = np.broadcast_to(public.popularity, (len(targets), len(public.popularity)))
        scores = model.scores(full_batch(seen), scorer)[: len(seen)].numpy()
        by_model.append(target_ranks(scores, targets, seen))
        by_popularity.append(target_ranks(popularity, targets, seen))
    return Ranks(np.concatenate(by_model), np.concatenate(by_popularity))


def preset_ranks(
    model: ClientModel, log: BehaviourLog, public: PublicState, stage: Stage
) -> dict[str, NDArray[np.int64]]:
    """The same ranks under each preset of the blend, whatever the model's own weights."""
    scorer = model.scorer(public)
    ranks = {name: [np.zeros(0, dtype=np.int64)] for name in PRESETS}
    for targets, seen in batches(log, stage):
        channels_BNC = model.channels(full_batch(seen), scorer)
        # As in ClientModel.scores: whose channels overflow has scores of 0.
        is_usable_B11 = channels_BNC.flatten(1).isfinite().all(dim=1)[:, None, None]
        channels_BNC = channels_BNC.where(is_usable_B11, 0.0)
        for name, weights in PRESETS.items():
            scores_BN = channels_BNC @ torch.tensor(weights)
            ranks[name].append(target_ranks(scores_BN[: len(seen)].numpy(), targets, seen))
    return {name: np.concatenate(parts) for name, parts in ranks.items()}


def comparison_contributions(ranks: Mapping[str, NDArray[np.int64]]) -> UserContributions:
    """One row per evaluated user, in the layout of ``recsys_models.retrieval.presets``."""
    rows = comparison_rows(ranks)
    return UserContributions(rows.indices, rows.values, rows.offsets, rows.length)


def full_batch(seen: TimedHistories) -> TimedHistories:
    """These histories and as many more of the last that they are always ``BATCH``.

    A product with few rows is computed in another order than one with many, and differs in its last bits. A server that
    publishes vectors whose scores are all but equal lets these bits decide every rank; then one user more or less in a batch
    would move the ranks of the others in it, which no bound on her own row bounds.
    """
    return seen.pick(np.minimum(np.arange(BATCH), len(seen) - 1))


def batches(log: BehaviourLog, stage: Stage) -> Iterator[tuple[NDArray[np.int64], TimedHistories]]:
    """Targets and histories of the evaluated users, some at a time."""
    targets, histories = log.targets(stage), log.seen(stage)
    users = np.flatnonzero(targets >= 0)
    for start in range(0, len(users), BATCH):
        batch = users[start : start + BATCH]
        yield targets[batch], histories.pick(batch)
