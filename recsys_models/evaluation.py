"""Leave-last-out evaluation of any scorer over the full catalogue, in batches of users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_models.data.sequences import Sequences
from recsys_models.errors import DataError
from recsys_models.metrics.ranking import mean_metrics, target_ranks

Scorer = Callable[[Sequence[NDArray[np.int64]]], NDArray[np.floating]]
"""A batch of B histories (item indices, oldest first) to scores [B, n_items]; higher is better."""


@dataclass(frozen=True)
class Evaluation:
    """Ranks of the held-out items.

    Attributes:
        users: int64, indices of the users that have a target.
        ranks: int64, the rank of each one's target; see :func:`recsys_models.metrics.ranking.target_ranks`.
    """

    users: NDArray[np.int64]
    ranks: NDArray[np.int64]

    def means(self, ks: Sequence[int] = (10, 20)) -> dict[str, float]:
        """``hit@k``, ``ndcg@k`` and ``mrr``."""
        return mean_metrics(self.ranks, ks)


def evaluate(
    scorer: Scorer,
    history: Sequences,
    targets: NDArray[np.int64],
    *,
    batch_size: int = 256,
    remove_seen: bool = True,
) -> Evaluation:
    """Ranks each user's target after that user's history.

    Args:
        scorer: what is evaluated; sees only the history.
        history: for the test stage this includes the validation item (``LeaveLastOut.history("test")``).
        targets: int64 [n_users], -1 for users without a target, who are left out.
        batch_size: users scored at a time; bounds memory.
        remove_seen: leave items of the history out of the ranking.

    Raises:
        DataError: if targets and history do not fit, or the scorer gives another shape.
    """
    if targets.shape != (history.n_users,):
        raise DataError(f"need one target for each of {history.n_users} users, got shape {targets.shape}")
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, got {batch_size}")
    users = np.flatnonzero(targets >= 0)
    ranks = np.zeros(users.size, dtype=np.int64)
    for start in range(0, users.size, batch_size):
        batch = users[start : start + batch_size]
        histories = [history.of(int(user)) for user in batch]
        scores = scorer(histories)
        if scores.shape != (batch.size, history.catalogue.n_items):
            raise DataError(f"scorer gave {scores.shape}, expected {(batch.size, history.catalogue.n_items)}")
        seen = histories if remove_seen else None
        ranks[start : start + batch.size] = target_ranks(scores, targets[batch], seen)
    return Evaluation(users, ranks)
