"""Training through a tower: it learns, leaves what it is not shown alone, and repeats itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_models.data.catalogue import Catalogue
from recsys_models.data.sequences import Sequences
from recsys_models.encoders import build_encoder
from recsys_models.errors import DataError
from recsys_models.evaluation import evaluate
from recsys_models.item_towers.base import ItemTower, export_vectors
from recsys_models.item_towers.ids import EmbeddingTower
from recsys_models.item_towers.registry import ItemFeatures, build_tower
from recsys_models.item_towers.training import train_with_tower
from recsys_models.training import EncoderScorer

N = 20


def circle(length: int) -> Sequences:
    starts = np.random.default_rng(0).integers(0, N, 64)
    items = (starts[:, None] + np.arange(length)) % N
    catalogue = Catalogue([f"i{n:02d}" for n in range(N)])
    return Sequences([str(u) for u in range(64)], items.reshape(-1), np.arange(65) * length, catalogue)


def trained(name: str, train: Sequences, items: np.ndarray) -> tuple[ItemTower, float, list[float]]:
    torch.manual_seed(0)
    tower = build_tower(name, ItemFeatures(N, content=torch.eye(N)), 16)
    encoder = build_encoder("mean-pool", 16, max_length=8)
    losses = train_with_tower(
        encoder,
        tower,
        train,
        np.random.default_rng(1),
        items=items,
        epochs=30,
        batch_size=16,
        negatives=12,
        learning_rate=0.01,
    )
    targets = (train.items[train.offsets[1:] - 1] + 1) % N
    found = evaluate(EncoderScorer(encoder, export_vectors(tower)), train, targets).means((1,))
    return tower, found["hit@1"], losses


@pytest.mark.parametrize("name", ["embedding", "content", "fusion"])
def test_learns_a_certain_next_item(name: str) -> None:
    _, found, losses = trained(name, circle(8), np.arange(N))
    assert found > 0.7 and losses[-1] < 0.5 * losses[0]


def test_items_that_do_not_exist_yet_are_not_touched() -> None:
    train = circle(8)
    kept = train.items < 18
    counts = np.bincount(train.user_of_event()[kept], minlength=64)
    warm = Sequences(
        train.user_ids, train.items[kept], np.concatenate([[0], np.cumsum(counts)]), train.catalogue
    )
    tower, _, _ = trained("embedding", warm, np.arange(18))
    torch.manual_seed(0)
    fresh = EmbeddingTower(N, 16)
    moved = (export_vectors(tower) - export_vectors(fresh)).abs().amax(dim=1)
    assert not moved[18:].any() and moved[:18].min() > 0


def test_repeats_itself() -> None:
    assert trained("fusion", circle(5), np.arange(N))[2] == trained("fusion", circle(5), np.arange(N))[2]


def test_refuses_what_cannot_be_trained() -> None:
    encoder, tower = build_encoder("mean-pool", 4), EmbeddingTower(N, 4)
    generator = np.random.default_rng(0)
    with pytest.raises(DataError, match="no user has two events"):
        train_with_tower(encoder, tower, circle(1), generator, items=np.arange(N), epochs=1)
    with pytest.raises(DataError, match="0 items"):
        train_with_tower(encoder, tower, circle(3), generator, items=np.arange(0), epochs=1)
    with pytest.raises(DataError, match="learning_rate=nan"):
        train_with_tower(
            encoder, tower, circle(3), generator, items=np.arange(N), epochs=1, learning_rate=float("nan")
        )
