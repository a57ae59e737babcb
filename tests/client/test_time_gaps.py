"""An encoder that reads times, at a client: what it serves by them, what one user changes, and times of any kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from client.behaviour_log import BehaviourLog
from client.encoder_fit import EncoderFit
from client.evaluation import rank_targets
from client.gradients import GradientTrainer
from client.model import ClientModel
from client.ordinary_fit import OrdinaryFit
from client.public_state import PublicState
from client.recommend import recommend
from privacy.randomness import SeededRandomness
from recsys_models.data.catalogue import Catalogue
from recsys_models.data.sequences import Sequences
from tests.client.test_training import SETTINGS as TRAINING
from tests.client.test_training import terms

N, DIM = 30, 4
RANDOM = np.random.default_rng(0)
ITEMS = [RANDOM.integers(0, N, size=length) for length in (9, 4, 3, 12, 3, 7)]
PUBLIC = PublicState(N, DIM)
PUBLIC.update(
    {
        "popularity": np.arange(1, N + 1, dtype=np.float32),
        "item_tower": RANDOM.normal(size=(N, DIM)).astype(np.float32),
    }
)
USUAL = [1.7e9 + np.cumsum(10.0 ** RANDOM.uniform(0, 6, size=len(items))) for items in ITEMS]
ODD = [
    np.full(9, np.nan),
    np.array([np.inf, -np.inf, 1.7e308, -1.7e308]),
    np.zeros(3),
    np.arange(12)[::-1] * 1e9,
    np.array([5.0, np.nan, 6.0]),
    -(10.0 ** np.arange(7)),
]


def settings(method: str = "auto") -> dict[str, Any]:
    fit = {"l2_clip_norm": 0.05, "learning_rate": 0.02, "epochs": 2, "batch_users": 4, "dropout": 0.0}
    more = {"per_user_gradients": method, "orders": 2, "decay": 0.5, "fit": {**fit, "own_items": True}}
    return {**TRAINING, "encoder": "hstu", **more}


def log_of(times: list[np.ndarray] | None) -> BehaviourLog:
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in ITEMS])])
    catalogue = Catalogue([f"i{k}" for k in range(N)])
    flat = None if times is None else np.concatenate(times)
    names = [f"u{k}" for k in range(len(ITEMS))]
    return BehaviourLog(Sequences(names, np.concatenate(ITEMS), offsets, catalogue, flat))


def moved_model() -> ClientModel:
    """Away from the start, at which the gaps' bias is zero."""
    model = ClientModel(settings(), b"s")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.recommender.encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return model


def test_a_list_is_by_the_times_that_the_log_would_give() -> None:
    model, seen = moved_model(), log_of(USUAL).seen("test")
    of_log = model.scores(seen, model.scorer(PUBLIC))[0]
    of_items_alone = model.scores(list(seen), model.scorer(PUBLIC))[0]
    assert (of_log - of_items_alone).abs().max() > 1e-3
    served = recommend(model, PUBLIC, seen[0], times=seen.times_of(0), count=N)
    assert [entry.score for entry in served] == pytest.approx(
        [float(of_log[e.item]) for e in served], abs=1e-5
    )
    served = recommend(model, PUBLIC, seen[0], count=N)
    wanted = [float(of_items_alone[entry.item]) for entry in served]
    assert [entry.score for entry in served] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("times", [USUAL, ODD, None], ids=["usual", "odd", "none"])
@pytest.mark.parametrize("method", ["hooks", "ghost"])
def test_one_user_changes_a_gradient_round_by_at_most_the_bound(
    method: str, times: list[np.ndarray] | None
) -> None:
    t, agreed = terms("gradients"), settings(method)
    trainer = GradientTrainer(
        moved_model(),
        lambda: log_of(times).training,
        PUBLIC,
        agreed,
        users=6,
        randomness=SeededRandomness(1),
    )
    sums = []
    for users in (np.arange(4), np.arange(3)):
        trainer._randomness = SeededRandomness(7)
        sums.append(trainer.joint_sum(users, t).values)
    difference = int(((sums[0] - sums[1]) ** 2).sum())
    assert (0.9 * t.l2_bound) ** 2 < difference <= t.l2_bound**2
    trainer.close()


def test_no_time_keeps_a_client_from_answering() -> None:
    log, model = log_of(ODD), moved_model()
    private = EncoderFit(
        model, lambda: log.seen("test"), PUBLIC, settings(), users=6, randomness=SeededRandomness(1)
    )
    total = private.clipped_sum(private.wrapped(), np.arange(6), terms("fit"))
    assert total.values.any()
    model = moved_model()
    OrdinaryFit(model, log, PUBLIC, settings(), SeededRandomness(1)).run()
    for weight in model.recommender.state_dict().values():
        assert weight.isfinite().all()
    assert len(rank_targets(model, log, PUBLIC, "test").model) == 6
