"""From a history to a list, on this machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.model import ClientModel
from client.public_state import PublicState
from client.rating_fit import Rated
from privacy.errors import InputError
from recsys_models.data.histories import TimedHistories
from recsys_models.metrics.calibration import next_item_probabilities


@dataclass(frozen=True)
class Recommendation:
    """One entry of a list.

    Attributes:
        item: catalogue index.
        score: of the blend; comparable within one list only.
        probability: that it is the next item new to the user.
        rating: what she would rate it; None where her ratings were not given or the client has no rating model.
    """

    item: int
    score: float
    probability: float
    rating: float | None = None


def recommend(
    model: ClientModel,
    public: PublicState,
    history: NDArray[np.int64],
    *,
    times: NDArray[np.float64] | None = None,
    count: int = 10,
    rated: Rated | None = None,
) -> list[Recommendation]:
    """The ``count`` best items the user has not seen, best first.

    Args:
        model: this client's private model.
        public: what the federation published.
        history: the user's items, oldest first; a user without history gets the most popular items.
        times: when she met them, Unix seconds, where known; an encoder that reads times was trained on those of the log.
        count: length of the list.
        rated: her ratings so far, for predicted ones beside the items.

    Raises:
        InputError: ``count`` is not positive.
        DataError: not as many times as items.
    """
    if count < 1:
        raise InputError(f"count={count}: ask for at least one recommendation")
    timed = TimedHistories([history], None if times is None else [times])
    scores = model.scores(timed, model.scorer(public))[0].numpy().astype(np.float64)
    (probability,) = next_item_probabilities(scores[None], [history], model.calibration)
    scores[history] = -np.inf
    best = np.argsort(-scores, kind="stable")[:count]
    best = best[np.isfinite(scores[best])]
    ratings: list[float | None] = [None] * len(best)
    if model.rating is not None and rated is not None:
        ratings = list(model.rating.predict(rated, best, public.item_tower).tolist())
    return [
        Recommendation(int(item), float(scores[item]), float(probability[item]), rating)
        for item, rating in zip(best, ratings, strict=True)
    ]
