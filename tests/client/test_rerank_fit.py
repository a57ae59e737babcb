"""A re-ranker learns what the blend cannot say, is kept only where it helps, and never where the plan promises protection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from client.model import ClientModel
from client.plan_settings import check_settings
from client.public_state import PublicState
from client.recommend import recommend
from client.rerank_fit import RerankFit
from privacy.errors import InputError, PolicyRefusal
from privacy.randomness import SeededRandomness
from recsys_models.retrieval.blend import ChannelScores
from server.scenario import Scenario, override
from tests.client.test_training import SETTINGS
from tests.server.test_plan import planned

N, DIM = 40, 8
MODEL = {**SETTINGS, "dim": DIM, "reranker": "neumf"}
RANDOM = np.random.default_rng(3)


def public() -> PublicState:
    state = PublicState(N, DIM)
    tower = RANDOM.normal(size=(N, DIM)).astype(np.float32)
    state.update({"popularity": np.ones(N, np.float32), "item_tower": tower})
    return state


PUBLIC = public()
SCORER = ChannelScores(PUBLIC.channels())


def learnable(users: int = 120) -> list[np.ndarray]:
    """What comes next is the item whose vector is most unlike the newest: the opposite of what an untrained encoder says."""
    opposite = np.argmin(PUBLIC.item_tower @ PUBLIC.item_tower.T, axis=1)
    newest = RANDOM.integers(0, N, users)
    return [np.array([item, opposite[item]]) for item in newest]


def fitted(histories: list[np.ndarray], steps: int = 120) -> tuple[ClientModel, bool]:
    model = ClientModel(MODEL, b"s")
    kept = RerankFit(model, histories, SCORER, randomness=SeededRandomness(1)).run(64, steps)
    return model, kept


def test_it_learns_what_the_blend_cannot_and_is_saved_with_it(tmp_path: Path) -> None:
    model, kept = fitted(learnable())
    assert kept and model.reranker is not None
    history = np.array([7])
    best = recommend(model, PUBLIC, history, count=1)[0].item
    assert best == int(np.argmin(PUBLIC.item_tower @ PUBLIC.item_tower[7]))
    model.save(tmp_path / "encoder.safetensors")
    again = ClientModel(MODEL, b"other")
    again.load(tmp_path / "encoder.safetensors")
    assert torch.equal(again.scores([history], SCORER), model.scores([history], SCORER))
    plain = ClientModel(MODEL, b"other")
    plain.save(tmp_path / "plain.safetensors")
    again.load(tmp_path / "plain.safetensors")
    assert again.reranker is None


def test_it_is_not_kept_where_it_does_not_raise_the_reciprocal_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RerankFit, "_reciprocal_ranks", lambda *_: np.full(24, 0.25))
    model, kept = fitted(learnable(), steps=20)
    assert not kept and model.reranker is None


def test_a_client_of_few_users_fits_none() -> None:
    model, kept = fitted(learnable(users=9))
    assert not kept and model.reranker is None


def test_the_same_seed_fits_the_same_reranker() -> None:
    histories = learnable()
    weights = [fitted(histories, steps=40)[0].reranker for _ in range(2)]
    assert all(reranker is not None for reranker in weights)
    one, two = (reranker.state_dict() for reranker in weights if reranker is not None)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_neither_server_nor_client_have_it_beside_protection_within_a_client() -> None:
    with pytest.raises(InputError, match="one user of a client would show"):
        override(Scenario(), {"model.reranker": "neumf"})
    plan = planned({"model.reranker": "neumf", "privacy.protect_within_client": False})
    assert plan.settings["reranker"] == "neumf"
    check_settings(plan.settings, protects_within_client=False)
    with pytest.raises(PolicyRefusal, match="fitted without noise"):
        check_settings(plan.settings, protects_within_client=True)
