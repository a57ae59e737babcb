from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from recsys_models.data import Catalogue, Sequences
from recsys_models.encoders import ENCODERS, build_encoder
from recsys_models.errors import DataError
from recsys_models.evaluation import evaluate
from recsys_models.training import EncoderScorer, TrainingSettings, train_centrally, training_windows

N_ITEMS = 20


def circle(users: int, length: int) -> Sequences:
    """Everybody walks round the catalogue from a start of her own: the next item is certain."""
    starts = np.random.default_rng(0).integers(0, N_ITEMS, users)
    items = (starts[:, None] + np.arange(length)) % N_ITEMS
    return Sequences(
        [str(u) for u in range(users)],
        items.reshape(-1),
        np.arange(users + 1) * length,
        Catalogue([f"i{n:02d}" for n in range(N_ITEMS)]),
    )


@pytest.mark.parametrize("negatives", [0, 8])
@pytest.mark.parametrize("name", ENCODERS)
def test_learns_a_certain_next_item(name: str, negatives: int) -> None:
    torch.manual_seed(0)
    train = circle(64, 8)
    encoder, tower = build_encoder(name, 16, max_length=8), nn.Embedding(N_ITEMS, 16)
    targets = (train.items[train.offsets[1:] - 1] + 1) % N_ITEMS
    before = evaluate(EncoderScorer(encoder, tower.weight.detach()), train, targets).means((1,))["hit@1"]
    settings = TrainingSettings(
        epochs=60, batch_size=32, learning_rate=1e-2, negatives=negatives, device="cpu"
    )
    losses = train_centrally(encoder, tower, train, settings, np.random.default_rng(1))
    after = evaluate(EncoderScorer(encoder, tower.weight.detach()), train, targets).means((1,))["hit@1"]
    assert losses[-1] < 0.5 * losses[0]
    assert before < 0.6
    assert after > 0.9


@pytest.mark.parametrize("loss", ["bpr", "bce", "gbce"])
def test_learns_with_every_loss(loss: str) -> None:
    torch.manual_seed(0)
    train = circle(64, 8)
    encoder, tower = build_encoder("mean-pool", 16, max_length=8), nn.Embedding(N_ITEMS, 16)
    targets = (train.items[train.offsets[1:] - 1] + 1) % N_ITEMS
    settings = TrainingSettings(
        epochs=60, batch_size=32, learning_rate=1e-2, negatives=8, loss=loss, device="cpu"
    )
    train_centrally(encoder, tower, train, settings, np.random.default_rng(1))
    assert evaluate(EncoderScorer(encoder, tower.weight.detach()), train, targets).means((1,))["hit@1"] > 0.9


def test_windows_hold_every_next_item_pair_once() -> None:
    train = Sequences(
        ["a", "b", "c"],
        np.concatenate([np.arange(17), np.arange(3), [5]]),
        np.array([0, 17, 20, 21]),
        circle(1, 2).catalogue,
    )
    for seed in range(5):
        windows = training_windows(train, 4, np.random.default_rng(seed))
        pairs = sorted((int(a), int(b)) for w in windows for a, b in pairwise(w))
        assert pairs == sorted([(n, n + 1) for n in range(16)] + [(0, 1), (1, 2)])
        assert max(w.size for w in windows) <= 5


def test_scorer_leaves_the_mode_alone() -> None:
    encoder = build_encoder("gru", 4, dropout=0.5).train()
    scores = EncoderScorer(encoder, torch.randn(N_ITEMS, 4))([np.array([1, 2]), np.array([], dtype=np.int64)])
    assert scores.shape == (2, N_ITEMS)
    assert not scores[1].any()
    assert encoder.training


def test_refuses_a_tower_of_another_catalogue() -> None:
    with pytest.raises(DataError, match="the tower has 3 rows, the catalogue 20 items"):
        train_centrally(
            build_encoder("gru", 4),
            nn.Embedding(3, 4),
            circle(2, 3),
            TrainingSettings(),
            np.random.default_rng(),
        )


def test_refuses_users_with_nothing_to_learn() -> None:
    with pytest.raises(DataError, match="no user has two events"):
        train_centrally(
            build_encoder("gru", 4),
            nn.Embedding(N_ITEMS, 4),
            circle(2, 1),
            TrainingSettings(device="cpu"),
            np.random.default_rng(),
        )


@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"learning_rate": float("nan")}, {"negatives": -1}, {"loss": "hinge"}, {"loss": "bpr"}],
)
def test_refuses_bad_settings(change: dict[str, float]) -> None:
    with pytest.raises(DataError):
        TrainingSettings(**change)
