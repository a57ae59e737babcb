"""From a history to a list, on this machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.model import ClientModel
from client.public_state import PublicState
from privacy.errors import InputError
from recsys_models.metrics.calibration import next_item_probabilities
from recsys_models.retrieval.blend import ChannelScores


@dataclass(frozen=True)
class Recommendation:
    """One entry of a list.

    Attributes:
        item: catalogue index.
        score: of the blend; comparable within one list only.
        probability: that it is the next item new to the user.
    """

    item: int
    score: float
    probability: float


def recommend(
    model: ClientModel, public: PublicState, history: NDArray[np.int64], *, count: int = 10
) -> list[Recommendation]:
    """The ``count`` best items the user has not seen, best first.

    Args:
        model: this client's private model.
        public: what the federation published.
        history: the user's items, oldest first; a user without history gets the most popular items.
        count: length of the list.

    Raises:
        InputError: ``count`` is not positive.
    """
    if count < 1:
        raise InputError(f"count={count}: ask for at least one recommendation")
    scores = (
        model.scores([history], ChannelScores(public.channels(model.device)))[0].numpy().astype(np.float64)
    )
    (probability,) = next_item_probabilities(scores[None], [history], temperature=model.temperature)
    scores[history] = -np.inf
    best = np.argsort(-scores, kind="stable")[:count]
    return [
        Recommendation(int(item), float(scores[item]), float(probability[item]))
        for item in best
        if np.isfinite(scores[item])
    ]
