"""Evaluation of any scorer, in batches of users: over the full catalogue, on 99 drawn negatives, with many targets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_models.data.sequences import Sequences
from recsys_models.errors import DataError
from recsys_models.metrics.lists import top_lists
from recsys_models.metrics.ranking import mean_metrics, target_ranks

NEGATIVES = 99
NEGATIVES_SEED = 2017
"""Published seed of :func:`evaluation_negatives`."""

Scorer = Callable[[Sequence[NDArray[np.int64]]], NDArray[np.floating]]
"""A batch of B histories (item indices, oldest first) to scores [B, n_items]; higher is better.

It is called with :class:`recsys_models.data.histories.TimedHistories`, for those that read times.
"""


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
    users = _evaluated(history, targets, batch_size)
    ranks = np.zeros(users.size, dtype=np.int64)
    for start, batch, histories, scores in _scored(scorer, history, users, batch_size):
        seen = histories if remove_seen else None
        ranks[start : start + batch.size] = target_ranks(scores, targets[batch], seen)
    return Evaluation(users, ranks)


def evaluation_negatives(
    whole: Sequences, *, count: int = NEGATIVES, seed: int = NEGATIVES_SEED
) -> NDArray[np.int64]:
    """Items each user never touched, drawn once, uniformly without replacement: int64 [n_users, count].

    For comparison with published sampled figures only; they say little about the full ranking (Krichene, Rendle, "On
    Sampled Metrics for Item Recommendation", KDD 2020).

    Args:
        whole: all events, held-out ones included: no negative may be an item of the user's own.
        count: negatives a user.
        seed: equal arguments give equal draws (for one version of numpy).

    Raises:
        DataError: if a user has too few untouched items.
    """
    random = np.random.default_rng(seed)
    n_items = whole.catalogue.n_items
    drawn = np.empty((whole.n_users, count), dtype=np.int64)
    for user in range(whole.n_users):
        own = np.unique(whole.of(user))
        free = n_items - own.size
        if free < count:
            raise DataError(f"a user has {free} untouched items of {n_items}, fewer than {count} negatives")
        picked = random.choice(free, count, replace=False)
        # The k-th untouched item lies behind as many own items as have at most k untouched ones before them.
        drawn[user] = picked + np.searchsorted(own - np.arange(own.size), picked, side="right")
    return drawn


def checksum_of_negatives(negatives: NDArray[np.int64]) -> str:
    """Hex SHA-256 of drawn negatives."""
    return hashlib.sha256(repr(negatives.shape).encode() + negatives.astype("<i8").tobytes()).hexdigest()


def evaluate_against(
    scorer: Scorer,
    history: Sequences,
    targets: NDArray[np.int64],
    negatives: NDArray[np.int64],
    *,
    batch_size: int = 256,
) -> Evaluation:
    """Ranks each user's target among her drawn negatives; a tie counts against the target.

    Args:
        scorer: what is evaluated.
        history: what it sees.
        targets: int64 [n_users], -1 for users without a target.
        negatives: [n_users, count], from :func:`evaluation_negatives`.
        batch_size: users scored at a time.

    Raises:
        DataError: if the arguments do not fit, or a score is not a number: a NaN would win every comparison.
    """
    users = _evaluated(history, targets, batch_size)
    if negatives.ndim != 2 or negatives.shape[0] != history.n_users:
        raise DataError(f"need negatives of each of {history.n_users} users, got shape {negatives.shape}")
    ranks = np.zeros(users.size, dtype=np.int64)
    for start, batch, _histories, scores in _scored(scorer, history, users, batch_size):
        if np.isnan(scores).any():
            raise DataError("scores contain NaN; the scorer is broken")
        own = np.take_along_axis(scores, targets[batch][:, None], axis=1)
        others = np.take_along_axis(scores, negatives[batch], axis=1)
        ranks[start : start + batch.size] = 1 + (others >= own).sum(axis=1)
    return Evaluation(users, ranks)


def evaluate_many(
    scorer: Scorer, history: Sequences, relevant: Sequences, *, k: int = 20, batch_size: int = 256
) -> dict[str, float]:
    """``recall@k`` and ``ndcg@k`` with several relevant items a user, items of the history left out of the ranking.

    As LightGCN reports them: recall is hits over the number of relevant items, however many; NDCG is binary, its ideal
    cut at k; both are means over the users that have a relevant item.

    Raises:
        DataError: if the arguments do not fit or nobody has a relevant item.
    """
    users = _evaluated(history, np.where(relevant.lengths > 0, 0, -1), batch_size)
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    recall, gain = np.zeros(users.size), np.zeros(users.size)
    for start, batch, histories, scores in _scored(scorer, history, users, batch_size):
        lists = top_lists(scores, k, histories)
        for row, user in enumerate(batch):
            items = np.unique(relevant.of(int(user)))
            hits = np.isin(lists[row], items)
            recall[start + row] = hits.sum() / items.size
            gain[start + row] = discounts[hits].sum() / discounts[: items.size].sum()
    if not users.size:
        raise DataError("no user was evaluated")
    return {f"recall@{k}": float(recall.mean()), f"ndcg@{k}": float(gain.mean()), "users": float(users.size)}


def _evaluated(history: Sequences, targets: NDArray[np.int64], batch_size: int) -> NDArray[np.int64]:
    if targets.shape != (history.n_users,):
        raise DataError(f"need one target for each of {history.n_users} users, got shape {targets.shape}")
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, got {batch_size}")
    return np.flatnonzero(targets >= 0)


def _scored(
    scorer: Scorer, history: Sequences, users: NDArray[np.int64], batch_size: int
) -> Iterator[tuple[int, NDArray[np.int64], Sequence[NDArray[np.int64]], NDArray[np.floating]]]:
    """Batches of users with their place, histories and scores."""
    for start in range(0, users.size, batch_size):
        batch = users[start : start + batch_size]
        histories = history.histories(batch)
        scores = scorer(histories)
        if scores.shape != (batch.size, history.catalogue.n_items):
            raise DataError(f"scorer gave {scores.shape}, expected {(batch.size, history.catalogue.n_items)}")
        yield start, batch, histories, scores
