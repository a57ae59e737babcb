"""Baselines that only count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys_models.batches import window
from recsys_models.data.sequences import Sequences
from recsys_models.retrieval.transitions import count_transitions, newest_items

Histories = Sequence[NDArray[np.int64]]


class Popularity:
    """How many users have the item."""

    def __init__(self, train: Sequences) -> None:
        self.counts = user_item_matrix(train).sum(axis=0)

    def __call__(self, histories: Histories) -> NDArray[np.floating]:
        """The same scores [B, n_items] for everybody."""
        return np.tile(self.counts, (len(histories), 1))


class RandomRanking:
    """A seeded uniformly random ranking: what knowing nothing scores."""

    def __init__(self, n_items: int, seed: int = 0) -> None:
        self.n_items = n_items
        self._generator = np.random.default_rng(seed)

    def __call__(self, histories: Histories) -> NDArray[np.floating]:
        """Fresh random scores [B, n_items]; they depend on the order of calls."""
        return self._generator.random((len(histories), self.n_items))


class ItemKNN:
    """Cosine similarity of items by their users, summed over the history with recency decay.

    Sarwar et al., "Item-Based Collaborative Filtering Recommendation Algorithms", WWW 2001. All neighbours
    are kept.
    """

    def __init__(self, train: Sequences, *, decay: float = 0.8, last: int = 50) -> None:
        interactions = user_item_matrix(train)
        norms = np.sqrt(interactions.sum(axis=0)).clip(min=1.0)
        similarity = (interactions.T @ interactions) / np.outer(norms, norms)
        np.fill_diagonal(similarity, 0.0)
        self.similarity = similarity
        self.decay, self.last = decay, last

    def __call__(self, histories: Histories) -> NDArray[np.floating]:
        """Scores [B, n_items]."""
        return decayed_rows(self.similarity, histories, decay=self.decay, last=self.last)


class TransitionCounts:
    """How often b followed a, one or two steps apart, read from the newest items of the history with decay.

    Counts are divided by the root of how often a was followed by anything, between "popular items say
    nothing" and "popular items say everything". One pass of counting; on MovieLens as good as an attention
    model after dozens of epochs, which makes it the bar for everything trained.
    """

    def __init__(
        self,
        train: Sequences,
        *,
        order_weights: Sequence[float] = (1.0, 0.5),
        decay: float = 0.8,
        last: int = 10,
    ) -> None:
        n_items = train.catalogue.n_items
        self.counts = np.zeros((n_items, n_items))
        user_of_event = train.user_of_event()
        for order, weight in enumerate(order_weights, start=1):
            same_user = user_of_event[:-order] == user_of_event[order:]
            pairs = (train.items[:-order][same_user], train.items[order:][same_user])
            np.add.at(self.counts, pairs, weight)
        self.counts /= np.sqrt(self.counts.sum(axis=1, keepdims=True)).clip(min=1.0)
        self.decay, self.last = decay, last

    def __call__(self, histories: Histories) -> NDArray[np.floating]:
        """Scores [B, n_items]."""
        return decayed_rows(self.counts, histories, decay=self.decay, last=self.last)


class RootTransitionCounts:
    """Transitions up to five steps apart, rows divided by their totals, read by roots: what fedtower reads exact counts by.

    See :attr:`recsys_models.retrieval.transitions.SparseTransitions.roots`. The stronger bar, where there are enough counts.
    """

    def __init__(self, train: Sequences, *, orders: int = 5, decay: float = 0.7, last: int = 10) -> None:
        self.transitions = count_transitions(
            train.histories(), train.catalogue.n_items, orders=orders, decay=decay
        )
        self.decay, self.last = decay, last

    def __call__(self, histories: Histories) -> NDArray[np.floating]:
        """Scores [B, n_items]."""
        ids, mask = window(histories, self.last)
        context = newest_items(
            ids, mask, n_items=self.transitions.n_items, recent=self.last, decay=self.decay
        )
        return self.transitions.root_scores(context)


def user_item_matrix(sequences: Sequences) -> NDArray[np.float64]:
    """[n_users, n_items] with 1 where the user has the item."""
    matrix = np.zeros((sequences.n_users, sequences.catalogue.n_items))
    matrix[sequences.user_of_event(), sequences.items] = 1.0
    return matrix


def decayed_rows(
    item_to_item: NDArray[np.floating], histories: Histories, *, decay: float, last: int
) -> NDArray[np.floating]:
    """``sum_age decay**age * item_to_item[item]`` over the newest ``last`` items of each history; [B,
    n_items].
    """
    scores = np.zeros((len(histories), item_to_item.shape[1]))
    for row, history in enumerate(histories):
        newest = history[::-1][:last]
        scores[row] = decay ** np.arange(newest.size) @ item_to_item[newest]
    return scores
