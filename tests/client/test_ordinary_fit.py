"""The fit without noise: what it learns, what it may look at, and what stays when there is nothing to fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.behaviour_log import BehaviourLog
from client.evaluation import rank_targets
from client.model import ClientModel
from client.ordinary_fit import OrdinaryFit
from client.public_state import PublicState
from privacy.randomness import SeededRandomness
from recsys_models.metrics.ranking import reciprocal_rank, target_ranks
from recsys_models.retrieval.blend import CHANNELS
from recsys_models.retrieval.transitions import (
    SmoothTransitions,
    SparseTransitions,
    TransitionReadings,
    count_transitions,
)
from tests.tiny_federation import dataset_of

N, DIM, USERS = 30, 8, 40
RANDOM = np.random.default_rng(0)
SETTINGS: dict[str, Any] = {
    "encoder": "gru",
    "dim": DIM,
    "max_length": 8,
    "blocks": 1,
    "heads": 1,
    "dropout": 0.0,
    "private": True,
    "orders": 2,
    "decay": 0.5,
    "fit": {"learning_rate": 0.02, "epochs": 8, "batch_users": 4, "dropout": 0.2, "own_items": True},
}


def public_of(tower: np.ndarray) -> PublicState:
    state = PublicState(N, DIM)
    state.update({"popularity": np.arange(1, N + 1, dtype=np.float32), "item_tower": tower})
    return state


# Everybody walks the same round tour of the catalogue, which item indices say nothing of.
TOUR = RANDOM.permutation(N)


def tower(turns: list[int]) -> np.ndarray:
    """Item vectors on circles, each of which the tour goes round this many times."""
    angles = 0.3 + 2.0 * np.pi * np.outer(np.arange(N), turns) / N
    vectors = np.zeros((N, DIM), dtype=np.float32)
    vectors[TOUR] = 1.5 * np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    return vectors


# What comes next lies far from what was there, so that an untrained encoder finds it last.
TOWER = tower([4, 7, 11, 13])
PUBLIC = public_of(TOWER)


def walks(users: int = USERS, length: int = 9) -> list[list[int]]:
    return [TOUR[np.arange(3 * k, 3 * k + length) % N].tolist() for k in range(users)]


def log_of(histories: list[list[int]]) -> BehaviourLog:
    return BehaviourLog(dataset_of(histories, N).sequences)


def settings_with(encoder: str = "gru", **fit: Any) -> dict[str, Any]:
    return {**SETTINGS, "encoder": encoder, "fit": {**SETTINGS["fit"], **fit}}


def fitted(
    log: BehaviourLog, settings: dict[str, Any] = SETTINGS, seed: int = 1, public: PublicState = PUBLIC
) -> tuple[ClientModel, OrdinaryFit]:
    model = ClientModel(settings, b"s")
    fit = OrdinaryFit(model, log, public, settings, SeededRandomness(seed))
    fit.run()
    return model, fit


def state_of(model: ClientModel) -> dict[str, torch.Tensor]:
    own = {} if model.own_items is None else {"own items": model.own_items}
    return {name: value.clone() for name, value in (model.recommender.state_dict() | own).items()}


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def recall_at_1(model: ClientModel, log: BehaviourLog) -> float:
    return float(np.mean(rank_targets(model, log, PUBLIC, "test").model == 1))


def assert_counts(found: SparseTransitions | None, histories: list[np.ndarray]) -> None:
    wanted = count_transitions(histories, N, orders=2, decay=0.5)
    assert found is not None
    assert np.array_equal(found.matrix.toarray(), wanted.matrix.toarray())


def test_it_finds_what_users_of_this_client_do_next() -> None:
    log = log_of(walks())
    model = ClientModel(SETTINGS, b"s")
    before, published = recall_at_1(model, log), PUBLIC.item_tower.copy()
    model, _ = fitted(log)
    assert before < 0.2
    assert recall_at_1(model, log) > 0.8
    assert np.array_equal(PUBLIC.item_tower, published)


def of_the_encoder(model: ClientModel, log: BehaviourLog) -> float:
    """Mean reciprocal rank of the test item by the encoder alone."""
    histories = log.seen("test")
    items = model.items_for(model.scorer(PUBLIC))
    scores = model.user_vectors(histories, items) @ items.T
    return float(reciprocal_rank(target_ranks(scores.numpy(), log.targets("test"), histories)).mean())


@pytest.mark.parametrize("encoder", ["gru", "mean-pool", "attention"])
@pytest.mark.parametrize(("own_items", "least"), [(True, 0.3), (False, 0.08)])
def test_the_encoder_learns_and_moves_item_vectors_only_where_the_plan_says_so(
    encoder: str, own_items: bool, least: float
) -> None:
    log, settings = log_of(walks()), settings_with(encoder, own_items=own_items)
    model, _ = fitted(log, settings)
    assert of_the_encoder(ClientModel(settings, b"s"), log) < 0.05
    assert of_the_encoder(model, log) > least
    assert model.own_items is not None and not model.own_items.requires_grad
    factors = model.own_items.numpy() / TOWER
    assert (
        np.ptp(factors) > 0.1 * factors.mean()
    ) == own_items  # else the published vectors times one factor


def test_a_training_that_helps_nobody_is_not_kept() -> None:
    # What comes next lies closest to what was there: nothing can be better than that.
    model, _ = fitted(log_of(walks()), settings_with(epochs=2), public=public_of(tower([1, 2, 3, 5])))
    untouched = state_of(ClientModel(SETTINGS, b"s"))
    assert all(torch.equal(value, untouched[n]) for n, value in state_of(model).items() if n != "mix.weight")
    assert model.own_items is None


@pytest.mark.parametrize("own_items", [True, False])
@pytest.mark.parametrize("encoder", ["mean-pool", "attention"])
def test_every_encoder_can_be_fitted(encoder: str, own_items: bool) -> None:
    encoder_settings = settings_with(encoder, epochs=1, own_items=own_items)
    model, _ = fitted(log_of(walks(12)), encoder_settings)
    assert not are_equal(state_of(model), state_of(ClientModel(encoder_settings, b"s")))


def test_own_transitions_hold_the_validation_item_only_when_nothing_is_judged_on_it_any_longer() -> None:
    log = log_of(walks())
    model, fit = fitted(log, settings_with(epochs=1))
    assert_counts(model.own_transitions, log.training)
    before = state_of(model)
    fit.count_all()
    assert_counts(model.own_transitions, log.seen("test"))
    assert are_equal(state_of(model), before)


def test_the_blend_is_fitted_on_counts_that_have_not_met_its_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    log, met = log_of(walks()), []

    def noting(*_: object) -> torch.Tensor:
        met.append(model.own_transitions)
        return torch.full((len(CHANNELS),), 0.25)

    monkeypatch.setattr("client.ordinary_fit.fit_blend_weights", noting)
    model = ClientModel(SETTINGS, b"s")
    OrdinaryFit(model, log, PUBLIC, settings_with(epochs=1), SeededRandomness(1)).run()
    (counted,) = met
    assert_counts(counted, log.training)
    assert model.recommender.mix.weight.tolist() == [[0.25] * len(CHANNELS)]


def test_nothing_depends_on_what_is_to_be_found_in_the_test() -> None:
    histories = walks()
    others = [[*history[:-1], (history[-1] + 7) % N] for history in histories]
    models = []
    for log in (log_of(histories), log_of(others)):
        model, fit = fitted(log, settings_with(epochs=2))
        fit.count_all()
        models.append(model)
    assert are_equal(state_of(models[0]), state_of(models[1]))
    assert_counts(models[1].own_transitions, log_of(histories).seen("test"))


def test_the_validation_item_trains_no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    # It picks the epoch; with every epoch as good as any other, the first is picked whatever it is.
    monkeypatch.setattr(OrdinaryFit, "_reciprocal_rank", lambda *_: 0.5)
    monkeypatch.setattr(OrdinaryFit, "_fit_blend", lambda _: None)
    histories = walks()
    others = [[*history[:-2], (history[-2] + 7) % N, history[-1]] for history in histories]
    one, two = (state_of(fitted(log_of(h), settings_with(epochs=2))[0]) for h in (histories, others))
    assert are_equal(one, two)


@pytest.mark.parametrize(
    "histories",
    [[], [[]], [[4]], [[4, 5]], [[4, 5], [7], []]],
    ids=["nobody", "no event", "one event", "two events", "few of each"],
)
def test_users_with_nothing_to_fit_leave_the_model_as_it_was(histories: list[list[int]]) -> None:
    log, untouched = log_of(histories), state_of(ClientModel(SETTINGS, b"s"))
    model, fit = fitted(log)
    fit.count_all()
    assert are_equal(state_of(model), untouched)
    assert model.own_transitions is None and model.own_items is None


@pytest.mark.parametrize(
    ("private", "head", "counted"), [(True, N, True), (False, N - 1, True), (False, N, False)]
)
def test_published_transitions_take_the_place_of_own_ones_where_they_hold_them(
    private: bool, head: int, counted: bool
) -> None:
    everybody = count_transitions(log_of(walks(60)).training, N, orders=2, decay=0.5)
    nothing = SmoothTransitions(*np.zeros((2, N, 0), np.float32))
    public, log = public_of(TOWER), log_of(walks())
    public.update({"head": np.arange(head), **TransitionReadings(everybody, nothing).to_arrays()})
    model, fit = fitted(log, {**settings_with(epochs=1), "private": private}, public=public)
    fit.count_all()
    if counted:
        assert_counts(model.own_transitions, log.seen("test"))
    else:
        assert model.own_transitions is not None
        assert (model.own_transitions.matrix != everybody.matrix).nnz == 0


def test_own_transitions_are_counted_where_none_were_published() -> None:
    public = public_of(TOWER)
    public.update({"head": np.arange(N)})
    model, _ = fitted(log_of(walks()), {**settings_with(epochs=1), "private": False}, public=public)
    assert model.own_transitions is not None


def test_users_of_one_training_event_fit_the_blend_alone() -> None:
    # Three events: one to train on, which is no pair; the validation item follows it.
    model, _ = fitted(log_of([TOUR[k : k + 3].tolist() for k in range(20)]))
    untouched = state_of(ClientModel(SETTINGS, b"s"))
    moved = {name for name, value in state_of(model).items() if not torch.equal(value, untouched[name])}
    assert moved == {"mix.weight"}
    assert model.own_items is None


def test_no_epochs_train_no_encoder() -> None:
    model, _ = fitted(log_of(walks()), settings_with(epochs=0))
    untouched = state_of(ClientModel(SETTINGS, b"s"))
    moved = {name for name, value in state_of(model).items() if not torch.equal(value, untouched[name])}
    assert moved == {"mix.weight"}


def test_the_same_seed_fits_the_same_model_whatever_torch_drew_before() -> None:
    log, states = log_of(walks()), []
    for seed, torch_seed in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(torch_seed)
        states.append(state_of(fitted(log, settings_with("attention", epochs=2), seed)[0]))
    assert are_equal(states[0], states[1])
    assert not are_equal(states[0], states[2])


def test_dropout_lasts_as_long_as_the_training() -> None:
    log = log_of(walks())
    settings = settings_with("attention", epochs=1)
    with_dropout, without = (
        fitted(log, {**settings, "fit": {**settings["fit"], "dropout": p}})[0] for p in (0.5, 0.0)
    )
    assert not are_equal(state_of(with_dropout), state_of(without))
    layers = [m for m in with_dropout.recommender.modules() if isinstance(m, torch.nn.Dropout)]
    assert layers
    assert {layer.p for layer in layers} == {0.0}


def test_what_was_fitted_is_saved_and_scores_the_same(tmp_path: Path) -> None:
    log = log_of(walks())
    model, fit = fitted(log)
    fit.count_all()
    assert model.own_items is not None and model.own_transitions is not None
    model.save(tmp_path / "encoder.safetensors")
    again = ClientModel(SETTINGS, b"other")
    again.load(tmp_path / "encoder.safetensors")
    histories = log.seen("test")
    assert torch.equal(
        again.scores(histories, again.scorer(PUBLIC)), model.scores(histories, model.scorer(PUBLIC))
    )
    # Both are part of it: without either, scores are others.
    for name in ("own_items", "own_transitions"):
        again.load(tmp_path / "encoder.safetensors")
        setattr(again, name, None)
        scores = again.scores(histories, again.scorer(PUBLIC))
        assert not torch.allclose(scores, model.scores(histories, model.scorer(PUBLIC)), atol=1e-3)
    # And a model that has none replaces them.
    ClientModel(SETTINGS, b"plain").save(tmp_path / "plain.safetensors")
    again.load(tmp_path / "encoder.safetensors")
    again.load(tmp_path / "plain.safetensors")
    assert again.own_items is None and again.own_transitions is None


def overflowing() -> PublicState:
    """Finite numbers, as a client demands, whose products are not: for whoever has one item."""
    vectors = TOWER.copy()
    vectors[TOUR[3]] = 3e38
    return public_of(vectors)


@pytest.mark.parametrize("own_items", [True, False])
@pytest.mark.parametrize("encoder", ["mean-pool", "gru", "attention"])
def test_published_numbers_that_overflow_stop_no_clients_fit(encoder: str, own_items: bool) -> None:
    """Whether a client answers is visible: it must not depend on whether somebody here has such an item."""
    public = overflowing()
    everybody = walks()
    for histories in (everybody, [[item for item in walk if item != TOUR[3]] for walk in everybody]):
        log = log_of(histories)
        model, fit = fitted(log, settings_with(encoder, epochs=1, own_items=own_items), public=public)
        fit.count_all()
        scores = model.scores(log.seen("test"), model.scorer(public))
        assert bool(scores.isfinite().all())


def test_a_training_that_comes_to_no_numbers_is_not_kept() -> None:
    model, _ = fitted(log_of(walks()), settings_with(epochs=1), public=overflowing())
    untouched = state_of(ClientModel(SETTINGS, b"s"))
    assert all(torch.equal(value, untouched[n]) for n, value in state_of(model).items() if n != "mix.weight")
    assert model.own_items is None
    assert model.own_transitions is not None  # which are of no published number
