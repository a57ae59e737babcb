"""A server that chooses plan and published arrays to make one user's data decide whether a client answers.

Whether a client refuses is visible and carries no noise, so it must follow from what the server sent, never from a log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.behaviour_log import BehaviourLog
from client.detail_evaluation import detail_contributions, user_detail
from client.evaluation import rank_targets
from client.gradients import GradientTrainer
from client.model import ClientModel
from client.public_state import PublicState
from client.recommend import recommend
from privacy.accounting.schedule import ScheduledRelease
from privacy.errors import InputError, ProtocolError, SensitivityViolation
from privacy.randomness import SeededRandomness
from privacy.release_terms import release_terms
from privacy.wire import federation as wire
from privacy.wire.federation import Answer, Task
from recsys_models.metrics.detail import DetailLayout
from recsys_models.release_shapes import ReleaseShape
from recsys_models.retrieval.transitions import SmoothTransitions, TransitionReadings, from_head
from tests.privacy.accounting.test_plan import plan
from tests.tiny_federation import dataset_of, small_federation

N, DIM, CLIP, TRAP = 15, 4, 0.05, 3
CLIENT = "client-01"
SETTINGS: dict[str, Any] = {
    "encoder": "mean-pool",
    "dim": DIM,
    "max_length": 6,
    "blocks": 1,
    "heads": 1,
    "dropout": 0.0,
    "per_user_gradients": "auto",
    "private": True,
    "gradients": {
        "loss": "sampled-softmax",
        "calibration": 0.75,
        "negatives": 3,
        "l2_clip_norm": CLIP,
        "sampling_probability": 1.0,
        "client_learning_rate": 0.1,
        "local_learning_rate": 0.5,
        "adaptive_clip": False,
        "target_quantile": 0.5,
        "clip_rate": 0.2,
        "item_tower": "ids",
        "content_width": 0,
    },
}
GRADIENTS: dict[str, Any] = SETTINGS["gradients"]
FIT: dict[str, Any] = {
    "steps": 1,
    "l2_clip_norm": 1.0,
    "learning_rate": 0.1,
    "epochs": 3,
    "batch_users": 8,
    "dropout": 0.2,
    "own_items": True,
}
OTHERS = [[5, 6, 7, 8], [9, 10, 11], [1, 2, 4, 5, 6]]
VICTIM = [TRAP, TRAP, 9, 12]


def overflowing(head: list[int] | None = None) -> PublicState:
    """Finite numbers, as a client demands, whose products with themselves are not: for whoever has item ``TRAP``."""
    tower = np.random.default_rng(2).normal(size=(N, DIM)).astype(np.float32)
    tower[TRAP] = 3e38
    state = PublicState(N, DIM)
    state.update({"popularity": np.arange(1, N + 1, dtype=np.float32), "item_tower": tower})
    if head is not None:
        state.update({"head": np.array(head)})
    return state


def log_of(histories: list[list[int]]) -> BehaviourLog:
    return BehaviourLog(dataset_of(histories, N).sequences)


def test_scores_that_overflow_cost_only_the_user_they_belong_to() -> None:
    model, public = ClientModel(SETTINGS, b"s"), overflowing()
    without = rank_targets(model, log_of(OTHERS), public, "test").model
    with_victim = rank_targets(model, log_of([*OTHERS, VICTIM]), public, "test").model
    assert np.array_equal(with_victim[:-1], without)
    layout = DetailLayout(N, (10,), 2.0**-10)
    for histories in (OTHERS, [*OTHERS, VICTIM]):
        detail = user_detail(model, log_of(histories), public, "test", diversity="item-tower")
        assert detail_contributions(detail, layout).users == len(histories)
    assert len(recommend(model, public, np.array(VICTIM), count=3)) == 3


@pytest.mark.filterwarnings("ignore:overflow")
def test_transitions_that_overflow_cost_only_the_user_they_belong_to() -> None:
    factors = np.random.default_rng(4).normal(size=(2, N, 3)).astype(np.float32)
    cells = np.random.default_rng(5).random((N, N))
    cells[TRAP, [1, 2]] = factors[0][TRAP] = 3e38
    public = overflowing()
    readings = TransitionReadings(from_head(cells, np.arange(N), N), SmoothTransitions(*factors))
    public.update({"item_tower": np.ones((N, DIM), np.float32), **readings.to_arrays()})
    model = ClientModel(SETTINGS, b"s")
    without = rank_targets(model, log_of(OTHERS), public, "test").model
    with_victim = rank_targets(model, log_of([*OTHERS, VICTIM]), public, "test").model
    assert np.array_equal(with_victim[:-1], without)
    assert len(recommend(model, public, np.array(VICTIM), count=3)) == 3


def outcome(histories: list[list[int]], seed: int) -> str:
    try:
        trainer = GradientTrainer(
            ClientModel(SETTINGS, b"s"),
            lambda: [np.array(history) for history in histories],
            overflowing(),
            SETTINGS,
            users=4,
            randomness=SeededRandomness(seed),
        )
    except (SensitivityViolation, InputError) as error:
        return type(error).__name__
    trainer.close()
    return "ready"


@pytest.mark.parametrize("seed", range(6))
def test_the_guard_says_the_same_whoever_the_users_are(seed: int) -> None:
    assert outcome([*OTHERS, VICTIM], seed) == outcome(OTHERS, seed) == outcome([], seed)


@pytest.mark.parametrize("histories", [[], OTHERS, [[14, 14, 14]]])
def test_a_head_that_changes_between_steps_is_refused_whatever_users_have(
    histories: list[list[int]],
) -> None:
    state = PublicState(N, DIM)
    state.update({"item_tower": np.ones((N, DIM), dtype=np.float32), "head": np.array([1, 5, 14])})
    release = ScheduledRelease("gradients", "gradients", 1.0, steps=2, noise_multiplier=1.0)
    trainer = GradientTrainer(
        ClientModel(SETTINGS, b"s"),
        lambda: [np.array(history) for history in histories],
        state,
        SETTINGS,
        users=4,
        randomness=SeededRandomness(1),
    )
    # One row fewer: of the users' items only the last is outside it now.
    state.update({"head": np.array([1, 5])})
    terms = release_terms(plan(releases=(release,)), "gradients", ReleaseShape(2 * DIM, CLIP))
    with pytest.raises(ProtocolError, match="head"):
        trainer.check(terms, None, 1)
    trainer.close()


def agree_with(client: Any, agreed: Task, settings: dict[str, Any]) -> str:
    parameters = {**agreed.parameters, "settings": {**agreed.parameters["settings"], **settings}}
    return Answer.decode(client.answer(wire.AGREE, Task("plan", parameters).encode())).refusal


@pytest.mark.parametrize(
    "settings",
    [
        {"decay": 1e200},  # overflows for a user with four head items, and for nobody else
        {"decay": -1.0},
        {"decay": "x"},  # fails for a user with two head items
        {"orders": 2.5},
        {"orders": 0},
        {"gram_share": 1.5},
        {"dim": 0},
        {"dim": True},
        {"max_length": 0},
        {"encoder": "weights"},
        {"blocks": 10**9},
        {"heads": 2},  # of an encoder that has none
        {"encoder": "attention", "heads": 3},  # of 8 dimensions
        {"dropout": 1.0},
        {"gradients": {}},
        {"gradients": {**GRADIENTS, "loss": "triplet"}},
        {"gradients": {**GRADIENTS, "loss": "softmax"}, "head": 10_001},
        {"gradients": {**GRADIENTS, "calibration": 1.5}},
        {
            "gradients": {
                "loss": "sampled-softmax",
                "calibration": 0.75,
                "negatives": 0,  # fails as soon as anybody is drawn
                "l2_clip_norm": 1.0,
                "sampling_probability": 0.5,
                "client_learning_rate": 0.01,
                "local_learning_rate": 0.5,
                "adaptive_clip": False,
                "target_quantile": 0.5,
                "clip_rate": 0.2,
                "item_tower": "ids",
                "content_width": 0,
            }
        },
        {"gradients": {**GRADIENTS, "item_tower": "images"}},
        {"gradients": {**GRADIENTS, "item_tower": "content"}},  # of no width
        {"gradients": {**GRADIENTS, "content_width": 8}},  # of which nothing is trained
        {"gradients": {**GRADIENTS, "item_tower": "fusion", "content_width": 10**6}},
        {"fit": FIT | {"l2_clip_norm": 1e300}},
        {"fit": FIT | {"epochs": -1}},
        {"fit": FIT | {"epochs": 10_001}},
        {"fit": FIT | {"epochs": 2.5}},
        {"fit": FIT | {"dropout": 0.95}},
        {"fit": FIT | {"dropout": -0.1}},
        {"fit": FIT | {"own_items": 1}},
        {"fit": FIT | {"own_items": "yes"}},
        {"fit": {name: value for name, value in FIT.items() if name != "own_items"}},
        {"fit": FIT | {"publish": True}},
        {"evaluation": {"group_bounds": [], "min_group_users": 20, "diversity": "titles"}},
        {"unheard_of": 1},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_are_refused_before_they_meet_data(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch)
    small.federation.enrol()
    client = small.clients[CLIENT]
    agreed = Task.decode(small.wire.answers(wire.AGREE, CLIENT)[-1].request)
    assert agree_with(client, agreed, settings) == "settings-out-of-range"
    assert agree_with(client, agreed, {"fit": FIT}) == ""
    assert agree_with(client, agreed, {}) == ""


def test_an_agreement_that_fails_half_way_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch)
    small.federation.run()
    client = small.clients[CLIENT]
    agreed = Task.decode(small.wire.answers(wire.AGREE, CLIENT)[-1].request)
    client._fitted_without_noise = True  # such an encoder must never serve another plan
    before = (client.plan, client.model, client.public)

    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr("client.handlers.ClientModel", fails)
        assert agree_with(client, agreed, {"users": 61}) == "internal"
    assert before == (client.plan, client.model, client.public)
    assert client._fitted_without_noise
    assert agree_with(client, agreed, {"users": 61}) == ""
    assert client.model is not before[1]
    assert not client._fitted_without_noise


def test_a_long_history_does_not_round_the_scores_of_others_anew() -> None:
    """Item vectors that differ in their last bits: rounding decides the ranks, and may depend on nobody else."""
    items, dim, random = 40, 16, np.random.default_rng(0)
    one = random.normal(size=dim).astype(np.float32) * 3
    tower = np.stack([one * np.float32(1 + 2e-7 * k) for k in random.integers(-3, 4, items)])
    public = PublicState(items, dim)
    public.update({"item_tower": tower.astype(np.float32)})
    model = ClientModel(
        {"encoder": "attention", "dim": dim, "max_length": 30, "blocks": 1, "heads": 1, "dropout": 0.0}, b"s"
    )
    histories = [random.permutation(items)[: random.integers(3, 8)].tolist() for _ in range(100)]
    longer = [*histories, random.permutation(items)[:32].tolist()]
    without, with_her = (
        rank_targets(model, BehaviourLog(dataset_of(h, items).sequences), public, "test").model
        for h in (histories, longer)
    )
    assert np.array_equal(with_her[:-1], without)
