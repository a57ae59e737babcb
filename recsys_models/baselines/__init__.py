"""Recommenders every figure is compared with: fitted centrally on pooled logs, without noise but for DPALS.

Each is fitted on :class:`~recsys_models.data.sequences.Sequences` and is a ``Scorer``
(:mod:`recsys_models.evaluation`): histories in, scores over the catalogue out.
"""

from recsys_models.baselines.counting import (
    ItemKNN,
    Popularity,
    RandomRanking,
    RootTransitionCounts,
    TransitionCounts,
)
from recsys_models.baselines.dpals import DPALS, DpalsSettings
from recsys_models.baselines.linear import EASE, ImplicitALS

__all__ = [
    "DPALS",
    "EASE",
    "DpalsSettings",
    "ImplicitALS",
    "ItemKNN",
    "Popularity",
    "RandomRanking",
    "RootTransitionCounts",
    "TransitionCounts",
]
