"""The local fit of what turns scores into probabilities. Nothing of it is sent.

Its numbers are computed from this client's users without noise, so they are fitted only where the encoder is
(``ClientHandlers``): no release that promises protection follows them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from client.model import ClientModel
from recsys_models.data.histories import TimedHistories
from recsys_models.metrics.calibration import Calibration, unseen_scores
from recsys_models.metrics.calibration_fit import calibration_users, fit_calibration
from recsys_models.retrieval.blend import ChannelScores

_BATCH = 128


def calibrate(
    model: ClientModel, histories: Sequence[NDArray[np.int64]], scorer: ChannelScores
) -> Calibration:
    """Set ``model.calibration`` to that of least log-loss on each user's newest item.

    Args:
        model: fitted otherwise.
        histories: up to and with the validation item, oldest first.
        scorer: what was published.

    Returns:
        The calibration; what the model had, where fewer than 10 users have an item and its successor.
    """
    usable = TimedHistories.of(histories).at_least(2)
    picked = usable.pick(calibration_users(len(usable), scorer.public.tower_ND.shape[0]))
    before = picked.without_newest()
    scores = [
        unseen_scores(model.scores(seen, scorer).numpy(), seen).astype(np.float32)
        for seen in (before[start : start + _BATCH] for start in range(0, len(before), _BATCH))
    ]
    if scores:
        newest = np.array([history[-1] for history in picked], dtype=np.int64)
        model.calibration = fit_calibration(np.concatenate(scores), newest, otherwise=model.calibration)
    return model.calibration
