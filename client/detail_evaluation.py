"""Release 5, where it is on: what the core metrics leave out, per activity group (``recsys_models.metrics.detail``)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.behaviour_log import BehaviourLog, Stage
from client.evaluation import batches, full_batch
from client.model import ClientModel
from client.public_state import PublicState
from privacy.bounded import UserContributions
from privacy.errors import InputError
from recsys_models.metrics.calibration import log_loss_cap, next_item_probabilities
from recsys_models.metrics.detail import LIST_LENGTH, DetailLayout, UserDetail, user_detail_rows
from recsys_models.metrics.lists import (
    attribute_diversity,
    attribute_values,
    item_bits,
    mean_bits,
    new_share,
    novelty_cap,
    top_lists,
    vector_diversity,
)
from recsys_models.metrics.ranking import target_ranks


def detail_contributions(detail: UserDetail, layout: DetailLayout) -> UserContributions:
    """One row per evaluated user."""
    rows = user_detail_rows(detail, layout)
    return UserContributions(rows.indices, rows.values, rows.offsets, rows.length)


def user_detail(
    model: ClientModel, log: BehaviourLog, public: PublicState, stage: Stage, *, diversity: str
) -> UserDetail:
    """Rank every evaluated user's target and look at the list she would get.

    Args:
        model: this client's private model.
        log: its users.
        public: what the federation published; novelty is measured against the released popularity.
        stage: whose targets.
        diversity: "item-tower" or "attributes", from the plan.

    Raises:
        InputError: another ``diversity``.
    """
    users = np.flatnonzero(log.targets(stage) >= 0)
    scorer = model.scorer(public)
    ranks, lists, new = [np.zeros(0, np.int64)], [np.zeros((0, LIST_LENGTH), np.int64)], [np.zeros(0)]
    losses, confidences = [np.zeros(0)], [np.zeros(0)]
    for targets, seen in batches(log, stage):
        scores = model.scores(full_batch(seen), scorer)[: len(seen)].numpy()
        ranks.append(target_ranks(scores, targets, seen))
        lists.append(top_lists(scores, LIST_LENGTH, seen))
        probability = next_item_probabilities(scores, seen, model.calibration)
        with np.errstate(divide="ignore"):  # an item seen before was said to be impossible; the cap takes it
            losses.append(-np.log(probability[np.arange(len(targets)), targets]))
        listed = np.take_along_axis(probability, np.maximum(lists[-1], 0), axis=1)
        confidences.append(np.where(lists[-1] >= 0, listed, 0.0).sum(axis=1))
        new.append(new_share(top_lists(scores, LIST_LENGTH), seen))
    shown = np.concatenate(lists)
    novelty = mean_bits(shown, item_bits(public.popularity)) / novelty_cap(public.n_items)
    loss = np.concatenate(losses) / log_loss_cap(public.n_items)
    spread = _diversity(shown, log, public, diversity)
    return UserDetail(
        events=np.array([len(log.training[u]) for u in users], dtype=np.int64),
        ranks=np.concatenate(ranks),
        lists=shown,
        properties=np.clip(np.stack([novelty, np.concatenate(new), spread, loss], axis=1), 0.0, 1.0),
        confidences=np.clip(np.concatenate(confidences), 0.0, 1.0),
    )


def _diversity(
    lists: NDArray[np.int64], log: BehaviourLog, public: PublicState, diversity: str
) -> NDArray[np.float64]:
    if diversity == "item-tower":
        return vector_diversity(lists, public.item_tower)
    if diversity == "attributes":
        catalogue = log.sequences.catalogue
        return attribute_diversity(lists, attribute_values(catalogue.attributes, catalogue.n_items))
    raise InputError(f"the plan measures diversity by {diversity!r}; 'item-tower' and 'attributes' are known")
