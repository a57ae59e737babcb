from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from recsys_models.errors import DataError
from recsys_models.metrics.sums import user_metric_rows
from recsys_models.release_shapes import RANKERS, release_shape, statistics_layout
from recsys_models.statistics import statistics_rows

SETTINGS: dict[str, Any] = {
    "dim": 8,
    "gram_share": 0.5,
    "subspace_rank": 12,
    "orders": 3,
    "decay": 0.6,
    "gradients": {
        "l2_clip_norm": 0.7,
        "adaptive_clip": False,
        "item_tower": "ids",
        "content_width": 0,
    },
    "fit": {"l2_clip_norm": 0.9},
}


@pytest.mark.parametrize(
    ("kind", "length", "norm"),
    [
        ("popularity", 40, 1.0),
        ("statistics", 10 * 11 // 2 + 100, 1.0),
        ("statistics-subspace", 40 * 12, 1.0),
        ("gradients", 80, 0.7),
        ("fit", 1, 0.9),
    ],
)
def test_lengths_and_norms(kind: str, length: int, norm: float) -> None:
    shape = release_shape(kind, n_items=40, head=10, settings=SETTINGS, private=True)
    assert (shape.length, shape.l2_clip_norm, shape.unit) == (length, norm, None)


@pytest.mark.parametrize(("tower", "cells"), [("content", 5 * 8), ("fusion", (5 + 10) * 8)])
@pytest.mark.parametrize("is_adaptive", [False, True])
def test_a_map_of_content_has_cells_that_no_catalogue_adds_to(
    tower: str, cells: int, is_adaptive: bool
) -> None:
    adaptive = {"adaptive_clip": True, "target_quantile": 0.5, "clip_rate": 0.2} if is_adaptive else {}
    gradients = SETTINGS["gradients"] | adaptive | {"item_tower": tower, "content_width": 5}
    shape = release_shape(
        "gradients", n_items=40, head=10, settings=SETTINGS | {"gradients": gradients}, private=True
    )
    assert shape.length == cells + is_adaptive
    assert shape.facts["item_tower"] == tower


@pytest.mark.parametrize("private", [True, False])
def test_no_users_metrics_are_clipped(private: bool) -> None:
    shape = release_shape("metrics", n_items=40, head=10, settings=SETTINGS, private=private)
    assert shape.unit is not None
    assert (shape.l2_clip_norm / shape.unit).is_integer()
    for ranks in itertools.product([1, 7, 15, 40], repeat=len(RANKERS)):
        rows = user_metric_rows({name: np.array([r]) for name, r in zip(RANKERS, ranks, strict=True)})
        assert rows.length == shape.length
        assert np.linalg.norm(rows.values) <= shape.l2_clip_norm
    best = user_metric_rows({name: np.array([1]) for name in RANKERS})
    assert (
        np.linalg.norm(best.values) > shape.l2_clip_norm - shape.unit
    )  # and no slack that noise would pay for


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(DataError, match="release kind 'weights' is unknown"):
        release_shape("weights", n_items=4, head=2, settings=SETTINGS, private=True)


@pytest.mark.parametrize("private", [True, False])
def test_the_layout_is_the_settings(private: bool) -> None:
    layout = statistics_layout(7, SETTINGS, private)
    assert (layout.head, layout.gram_share, layout.orders, layout.decay) == (7, 0.5, 3, 0.6)
    assert layout.normalised == private


def test_without_a_gram_share_statistics_are_transitions_alone() -> None:
    shape = release_shape(
        "statistics", n_items=40, head=10, settings=SETTINGS | {"gram_share": 0.0}, private=True
    )
    assert (shape.length, shape.l2_clip_norm) == (100, 1.0)


def test_counts_are_clipped_for_nobody_where_privacy_is_off() -> None:
    shape = release_shape("statistics", n_items=40, head=10, settings=SETTINGS, private=False)
    layout = statistics_layout(10, SETTINGS, False)
    tireless = np.tile([3, 5], 500)
    rows = statistics_rows([tireless], np.arange(40), layout)
    assert 100.0 < np.linalg.norm(rows.values) < shape.l2_clip_norm
