"""The local half of releases 1 and 2: popularity and item-item statistics, by a matrix or by a subspace."""

from __future__ import annotations

from typing import Any

from client.behaviour_log import BehaviourLog
from client.public_state import PublicState
from privacy.bounded import BoundedSum, UserContributions
from privacy.bounded_rows import LongRowSum
from privacy.release_terms import ReleaseTerms
from recsys_models.item_towers.subspace import subspace_blocks
from recsys_models.release_shapes import statistics_layout
from recsys_models.statistics import Rows, popularity_rows, statistics_rows


def popularity_contributions(log: BehaviourLog, n_items: int) -> UserContributions:
    """Each user's distinct training items, as a row of norm 1 over the catalogue."""
    return as_contributions(popularity_rows(log.training, n_items))


def statistics_contributions(
    log: BehaviourLog, public: PublicState, settings: dict[str, Any], private: bool
) -> UserContributions:
    """Each user's transition (and Gram) cells over the published head items, as a row of norm at most 1 where private."""
    layout = statistics_layout(len(public.head), settings, private)
    return as_contributions(statistics_rows(log.training, public.head_position, layout))


def subspace_sum(log: BehaviourLog, public: PublicState, terms: ReleaseTerms) -> BoundedSum:
    """This client's part of ``A V`` for the published basis V: every user clipped to norm 1, whatever V is."""
    total = LongRowSum(terms.length, l2_clip_norm=terms.l2_clip_norm, unit=terms.unit)
    for places, values in subspace_blocks(log.training, public.basis):
        total.add([(places, values)])
    return total.total()


def as_contributions(rows: Rows) -> UserContributions:
    """Hand rows to the privacy side, which clips, rounds and sums them."""
    return UserContributions(rows.indices, rows.values, rows.offsets, rows.length)
