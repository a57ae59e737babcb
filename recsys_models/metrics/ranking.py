"""The rank of one held-out item over the full catalogue, and what follows from it.

With one held-out item per user, recall@k equals hit@k. No sampled negatives: they change the order of models
(Krichene, Rendle, "On Sampled Metrics for Item Recommendation", KDD 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys_models.errors import DataError


def seen_cells(seen: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column, in a table of users by items, of everything that each user has seen.

    Args:
        seen: items of each user's history; repeated ones are repeated.
    """
    lengths = np.array([len(items) for items in seen], dtype=np.int64)
    return np.repeat(np.arange(len(seen)), lengths), np.concatenate([np.zeros(0, np.int64), *seen]).astype(
        np.int64
    )


def target_ranks(
    scores: NDArray[np.floating],
    targets: NDArray[np.int64],
    seen: Sequence[NDArray[np.int64]] | None = None,
) -> NDArray[np.int64]:
    """Rank of each user's target among all items she has not seen; 1 is best.

    Tie rule: a tie counts against the target, which takes the last place among equals. So a constant scorer
    gets the worst rank, not the best. The target itself is never removed, even if it was seen before.

    Args:
        scores: [B, n_items], higher is better; minus infinity excludes an item, NaN is refused. Not changed.
        targets: [B] item indices.
        seen: items of each user's history, to be left out of the ranking; None ranks everything.

    Raises:
        DataError: for scores that are NaN or plus infinity, or shapes that do not fit.
    """
    users, n_items = scores.shape
    if targets.shape != (users,) or (users and not (targets.min() >= 0 and targets.max() < n_items)):
        raise DataError(f"need one target in 0..{n_items - 1} for each of {users} users")
    if not bool(np.all(scores < np.inf)):
        raise DataError("scores contain NaN or infinity; the scorer is broken")
    if seen is not None and len(seen) != users:
        raise DataError(f"need the seen items of {users} users, got {len(seen)}")
    target_scores = scores[np.arange(users), targets]
    not_worse = scores >= target_scores[:, None]
    if seen is not None:
        not_worse[seen_cells(seen)] = False
    not_worse[np.arange(users), targets] = True
    return not_worse.sum(axis=1, dtype=np.int64)


def hit(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """1 where the target is among the first ``k``: hit rate, and recall for one target."""
    return (_checked(ranks) <= k).astype(np.float64)


def ndcg(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """``1 / log2(rank + 1)`` within the first ``k``, else 0; the ideal is 1 for one target."""
    return np.where(_checked(ranks) <= k, 1.0 / np.log2(ranks + 1.0), 0.0)


def reciprocal_rank(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """``1 / rank``; its mean is MRR."""
    return 1.0 / _checked(ranks)


def mean_metrics(ranks: NDArray[np.int64], ks: Sequence[int] = (10, 20)) -> dict[str, float]:
    """Means over users: ``hit@k``, ``ndcg@k`` and ``mrr``.

    Raises:
        DataError: if there is no user.
    """
    if not ranks.size:
        raise DataError("no user was evaluated")
    means = {"mrr": float(reciprocal_rank(ranks).mean())}
    for k in ks:
        means[f"hit@{k}"] = float(hit(ranks, k).mean())
        means[f"ndcg@{k}"] = float(ndcg(ranks, k).mean())
    return means


def _checked(ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    if ranks.size and ranks.min() < 1:
        raise DataError(f"ranks start at 1, got {ranks.min()}")
    return ranks
