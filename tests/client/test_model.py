from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.calibration_fit import calibrate
from client.model import ClientModel
from client.public_state import PublicState
from client.recommend import recommend
from privacy.errors import InputError
from recsys_models.metrics.calibration import Calibration, calibration_of_recall
from recsys_models.retrieval.blend import ChannelScores

N, DIM = 12, 4
ENCODERS = ["mean-pool", "gru", "attention"]


def settings(encoder: str) -> dict[str, Any]:
    return {"encoder": encoder, "dim": DIM, "max_length": 6, "blocks": 1, "heads": 1, "dropout": 0.0}


def state() -> PublicState:
    random = np.random.default_rng(0)
    public = PublicState(N, DIM)
    public.update(
        {
            "popularity": np.arange(N, dtype=np.float32),
            "item_tower": random.normal(size=(N, DIM)).astype(np.float32),
        }
    )
    return public


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_start_follows_from_public_bytes_alone(encoder: str) -> None:
    torch.manual_seed(1)
    one = ClientModel(settings(encoder), b"session").recommender.state_dict()
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    same = ClientModel(settings(encoder), b"session").recommender.state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    other = ClientModel(settings(encoder), b"another").recommender.state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    if encoder != "mean-pool":  # which starts as the same pool for everybody
        assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_saved_model_scores_the_same_and_is_its_owners_alone(encoder: str, tmp_path: Path) -> None:
    model = ClientModel(settings(encoder), b"a")
    with torch.no_grad():
        for parameter in model.recommender.parameters():
            parameter.add_(torch.randn(parameter.shape))
    model.save(tmp_path / "encoder.safetensors")
    assert stat.S_IMODE((tmp_path / "encoder.safetensors").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.safetensors"]
    again = ClientModel(settings(encoder), b"b")
    scorer = ChannelScores(state().channels())
    histories = [np.array([1, 2, 3]), np.array([5] * 20)]
    assert not torch.equal(again.scores(histories, scorer), model.scores(histories, scorer))
    again.load(tmp_path / "encoder.safetensors")
    assert torch.equal(again.scores(histories, scorer), model.scores(histories, scorer))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_list_leaves_out_what_was_seen_and_is_in_order(encoder: str) -> None:
    history = np.array([0, 3, 7])
    found = recommend(ClientModel(settings(encoder), b"a"), state(), history, count=20)
    assert sorted(r.item for r in found) == [i for i in range(N) if i not in history]
    assert [r.score for r in found] == sorted((r.score for r in found), reverse=True)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_user_without_history_gets_what_is_popular(encoder: str) -> None:
    nobody = np.zeros(0, dtype=np.int64)
    model = ClientModel(settings(encoder), b"a")
    scores = model.scores([nobody], ChannelScores(state().channels()))
    assert bool(scores.isfinite().all())
    assert [r.item for r in recommend(model, state(), nobody, count=3)] == [N - 1, N - 2, N - 3]


def test_a_list_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="count=0: ask for at least one"):
        recommend(ClientModel(settings("mean-pool"), b"a"), state(), np.array([1]), count=0)


def test_probabilities_follow_the_fitted_calibration_and_are_kept(tmp_path: Path) -> None:
    model, history = ClientModel(settings("mean-pool"), b"a"), np.array([0, 3, 7])
    before = recommend(model, state(), history, count=N)
    assert sum(r.probability for r in before) == pytest.approx(1.0)
    scorer, random = ChannelScores(state().channels()), np.random.default_rng(0)
    # What comes next is drawn evenly, so nothing that tells items apart is worth its confidence.
    histories = [random.permutation(N)[:4] for _ in range(300)]
    calibration = calibrate(model, histories, scorer)
    assert calibration == model.calibration
    assert calibration.temperature > 2.0 or calibration.chance > 0.5
    model.save(tmp_path / "encoder.safetensors")
    again = ClientModel(settings("mean-pool"), b"b")
    again.load(tmp_path / "encoder.safetensors")
    assert again.calibration == calibration
    after = recommend(again, state(), history, count=N)
    assert [r.item for r in after] == [r.item for r in before]
    assert after[0].probability < before[0].probability
    assert calibrate(ClientModel(settings("mean-pool"), b"a"), histories[:9], scorer) == Calibration()


@pytest.mark.parametrize("users", [0, 9])
def test_too_few_users_leave_the_calibration_that_the_release_gave(users: int) -> None:
    model, random = ClientModel(settings("mean-pool"), b"a"), np.random.default_rng(0)
    model.calibration = released = calibration_of_recall(0.2)
    histories = [random.permutation(N)[:4] for _ in range(users)]
    assert calibrate(model, histories, ChannelScores(state().channels())) == released
    assert model.calibration == released
