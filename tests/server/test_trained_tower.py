"""Rows and a map of content, laid out, moved and added up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from server.item_tower import SCORE_NORM, TowerOptimizer, random_tower
from server.trained_tower import TowerInTraining

N, DIM, WIDTH = 12, 4, 3
HEAD = np.array([1, 4, 5, 9])
RANDOM = np.random.default_rng(0)
CONTENT = RANDOM.normal(size=(N, WIDTH)).astype(np.float32)
BEFORE = RANDOM.normal(size=(N, DIM)).astype(np.float32)
OF_MAP, OF_ROWS = RANDOM.normal(size=(WIDTH, DIM)), RANDOM.normal(size=(len(HEAD), DIM))


def in_training(item_tower: Any, before: np.ndarray | None, seed: int = 1) -> TowerInTraining:
    content = CONTENT[:, :0] if item_tower == "ids" else CONTENT
    return TowerInTraining(item_tower, before, HEAD, content, dim=DIM, seed=seed)


@pytest.mark.parametrize("item_tower", ["ids", "content", "fusion"])
def test_a_step_moves_what_is_trained_and_nothing_else(item_tower: str) -> None:
    parts = {"ids": [OF_ROWS], "content": [OF_MAP.T], "fusion": [OF_MAP.T, OF_ROWS]}[item_tower]
    tower = in_training(item_tower, BEFORE)
    assert np.array_equal(tower.vectors, BEFORE)
    tower.step(TowerOptimizer("fedavg", 0.5), np.concatenate([part.ravel() for part in parts]))
    wanted = BEFORE.astype(np.float64)
    if item_tower != "ids":
        wanted -= 0.5 * CONTENT @ OF_MAP
    if item_tower != "content":
        wanted[HEAD] -= 0.5 * OF_ROWS
    np.testing.assert_allclose(tower.vectors, wanted, atol=1e-6)


def test_starts() -> None:
    assert np.array_equal(in_training("ids", None).vectors, random_tower(HEAD, N, DIM, 1))
    start = in_training("content", None).vectors
    assert start.any(axis=1).all()  # also of items outside the head
    assert np.array_equal(start, in_training("fusion", None).vectors)
    assert not np.array_equal(start, in_training("content", None, seed=2).vectors)


def test_a_random_map_keeps_the_lengths_of_content() -> None:
    content = RANDOM.normal(size=(500, 64)).astype(np.float32)
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    tower = TowerInTraining("content", None, HEAD, content, dim=32, seed=3)
    assert np.linalg.norm(tower.vectors, axis=1).mean() == pytest.approx(SCORE_NORM, rel=0.05)
