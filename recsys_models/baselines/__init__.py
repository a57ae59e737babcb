"""Recommenders every figure is compared with: fitted centrally, without noise, on pooled logs.

Each is fitted on :class:`~recsys_models.data.sequences.Sequences` and is a ``Scorer``
(:mod:`recsys_models.evaluation`): histories in, scores over the catalogue out.
"""

from recsys_models.baselines.counting import ItemKNN, Popularity, RandomRanking, TransitionCounts
from recsys_models.baselines.linear import EASE, ImplicitALS

__all__ = ["EASE", "ImplicitALS", "ItemKNN", "Popularity", "RandomRanking", "TransitionCounts"]
