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
from recsys_models.training import EncoderScorer, TrainingSettings, train_centrally, train_next_item
from recsys_models.training_windows import batches_of_like_length, training_windows

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
        epochs=60, batch_size=32, learning_rate=1e-2, warm_up_steps=0, negatives=negatives, device="cpu"
    )
    losses = train_centrally(encoder, tower, train, settings, np.random.default_rng(1)).losses
    after = evaluate(EncoderScorer(encoder, tower.weight.detach()), train, targets).means((1,))["hit@1"]
    assert losses[-1] < 0.5 * losses[0]
    assert before < 0.6
    assert after > 0.9


def short_or_long(users: int, *, timed: bool) -> Sequences:
    """Everybody meets items 0 and 1: who meets 1 within a minute goes on to 2, who does after a day to 3."""
    is_long = np.random.default_rng(0).random(users) < 0.5
    items = np.stack([np.zeros(users), np.ones(users), 2 + is_long], axis=1).astype(np.int64)
    gap = np.where(is_long, 86_400.0, 40.0)
    times = 1.7e9 + np.stack([np.zeros(users), gap, gap + 60.0], axis=1)
    return Sequences(
        [str(u) for u in range(users)],
        items.reshape(-1),
        np.arange(users + 1) * 3,
        circle(1, 2).catalogue,
        times.reshape(-1) if timed else None,
    )


@pytest.mark.parametrize("timed", [True, False])
def test_learns_what_the_time_gap_alone_can_tell(timed: bool) -> None:
    torch.manual_seed(0)
    whole = short_or_long(64, timed=timed)
    targets = whole.items[whole.offsets[1:] - 1]
    encoder = build_encoder("hstu", 8, max_length=4, start="random")
    tower = nn.Embedding(N_ITEMS, 8)
    settings = TrainingSettings(epochs=15, batch_size=16, learning_rate=2e-2, warm_up_steps=0, device="cpu")
    train_centrally(encoder, tower, whole, settings, np.random.default_rng(1))
    seen = whole.cut(np.full(64, 2))
    found = evaluate(EncoderScorer(encoder, tower.weight.detach()), seen, targets).means((1,))["hit@1"]
    # Without times everybody is the same: at best whatever more of them went on to.
    share = float(np.mean(targets == 3))
    assert found > 0.95 if timed else found <= max(share, 1.0 - share)


@pytest.mark.parametrize("loss", ["bpr", "bce", "gbce"])
def test_learns_with_every_loss(loss: str) -> None:
    torch.manual_seed(0)
    train = circle(64, 8)
    encoder, tower = build_encoder("mean-pool", 16, max_length=8), nn.Embedding(N_ITEMS, 16)
    targets = (train.items[train.offsets[1:] - 1] + 1) % N_ITEMS
    settings = TrainingSettings(
        epochs=60,
        batch_size=32,
        learning_rate=1e-2,
        warm_up_steps=0,
        decay=False,
        negatives=8,
        loss=loss,
        device="cpu",
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


def test_batches_hold_every_window_once_and_little_padding() -> None:
    generator = np.random.default_rng(0)
    windows = [np.zeros(n, dtype=np.int64) for n in generator.integers(2, 50, 1000)]
    batches = batches_of_like_length(windows, 32, generator)
    assert sorted(np.concatenate(batches)) == list(range(1000))
    padded = sum(len(b) * max(len(windows[w]) for w in b) for b in batches)
    assert padded < 1.15 * sum(len(w) for w in windows)


def test_keeps_the_best_look_and_stops_when_patience_ends() -> None:
    encoder, tower = build_encoder("mean-pool", 4, max_length=8), nn.Embedding(N_ITEMS, 4)
    figures = iter([0.1, 0.3, 0.2, 0.2, 0.9])
    kept: list[torch.Tensor] = []

    def validate() -> float:
        kept.append(tower.weight.detach().clone())
        return next(figures)

    settings = TrainingSettings(epochs=9, patience=2, device="cpu")
    training = train_centrally(
        encoder, tower, circle(8, 8), settings, np.random.default_rng(0), validate=validate
    )
    assert (training.best_epoch, training.validation) == (2, [0.1, 0.3, 0.2, 0.2])
    assert torch.equal(tower.weight, kept[1])
    assert not torch.equal(kept[3], kept[1])


def test_frozen_item_vectors_stay() -> None:
    torch.manual_seed(0)
    train = circle(64, 8)
    encoder, items = build_encoder("attention", 16, max_length=8), torch.randn(N_ITEMS, 16)
    before = items.clone()
    settings = TrainingSettings(epochs=30, batch_size=32, learning_rate=1e-2, warm_up_steps=0, device="cpu")
    losses = train_next_item(encoder, items, train, settings, np.random.default_rng(1)).losses
    assert torch.equal(items, before)
    assert losses[-1] < 0.5 * losses[0]


def test_same_seeds_give_the_same_weights() -> None:
    def trained() -> torch.Tensor:
        torch.manual_seed(3)
        encoder, tower = build_encoder("attention", 8, max_length=8, dropout=0.2), nn.Embedding(N_ITEMS, 8)
        settings = TrainingSettings(epochs=2, negatives=5, device="cpu")
        train_centrally(encoder, tower, circle(32, 8), settings, np.random.default_rng(1))
        return tower.weight.detach()

    assert torch.equal(trained(), trained())


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
    [
        {"epochs": 0},
        {"patience": 0},
        {"learning_rate": float("nan")},
        {"negatives": -1},
        {"loss": "hinge"},
        {"loss": "bpr"},
    ],
)
def test_refuses_bad_settings(change: dict[str, float]) -> None:
    with pytest.raises(DataError):
        TrainingSettings(**change)
