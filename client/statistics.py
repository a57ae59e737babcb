"""The local half of releases 1 and 2: popularity and item-item statistics."""

from __future__ import annotations

from typing import Any

from client.behaviour_log import BehaviourLog
from client.public_state import PublicState
from privacy.bounded import UserContributions
from recsys_models.release_shapes import statistics_layout
from recsys_models.statistics import Rows, popularity_rows, statistics_rows


def popularity_contributions(log: BehaviourLog, n_items: int) -> UserContributions:
    """Each user's distinct training items, as a row of norm 1 over the catalogue."""
    return as_contributions(popularity_rows(log.training, n_items))


def statistics_contributions(
    log: BehaviourLog, public: PublicState, settings: dict[str, Any]
) -> UserContributions:
    """Each user's Gram and transition cells over the published head items, as a row of norm at most 1."""
    layout = statistics_layout(len(public.head), settings)
    return as_contributions(statistics_rows(log.training, public.head_position, layout))


def as_contributions(rows: Rows) -> UserContributions:
    """Hand rows to the privacy side, which clips, rounds and sums them."""
    return UserContributions(rows.indices, rows.values, rows.offsets, rows.length)
