"""The cold-item bench: what it holds out, what it finds, and that it would notice a leak."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recsys_models.data.dataset import Dataset
from recsys_models.data.splits import leave_last_out
from simulations.bench_cold_items import cold_task, format_table, run, shortfalls
from simulations.synthetic import synthetic_log


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthetic_log(500, 300, seed=0)


@pytest.fixture(scope="module")
def result(data: Dataset) -> dict[str, Any]:
    return run(data, epochs=1)


def test_training_never_meets_a_cold_item(data: Dataset) -> None:
    task = cold_task(data, 0)
    split = leave_last_out(data.sequences)
    assert task.cold.sum() == 30
    assert not task.cold[task.train.items].any()
    assert task.train.n_events == np.count_nonzero(~task.cold[split.train.items])
    asked = task.targets >= 0
    assert task.cold[task.targets[asked]].all() and np.array_equal(task.targets[asked], split.test[asked])
    assert not task.cold[split.test[~asked & (split.test >= 0)]].any()
    for user in (0, 7):
        kept = split.train.of(user)
        assert np.array_equal(task.train.of(user), kept[~task.cold[kept]])


def test_content_finds_cold_items_and_the_index_does_not(result: dict[str, Any]) -> None:
    rows = {row["model"]: row for row in result["rows"]}
    chance = result["chance"]
    assert chance == {"full": 10 / 300, "cold": 10 / 30}
    for row in rows.values():
        if row["by"] == "index":
            assert row["full_low"] <= chance["full"]
    assert rows["likeness of content, untrained"]["full"] > 4 * chance["full"]
    assert rows["trained content map"]["cold"] > 1.5 * chance["cold"]
    assert rows["statistics tower, filled from content"]["full"] > rows["statistics tower"]["full"]


def test_the_last_line_is_the_figure(result: dict[str, Any]) -> None:
    last = format_table(result).splitlines()[-1]
    best = max(row["full"] for row in result["rows"] if row["by"] == "content")
    assert f"by content {best:.4f}" in last and "by index" in last


def test_the_same_seed_gives_the_same_figures(data: Dataset, result: dict[str, Any]) -> None:
    def figures(one: dict[str, Any]) -> list[tuple[float, float]]:
        return [(row["full"], row["cold"]) for row in one["rows"]]

    assert figures(run(data, epochs=1)) == figures(result)


def test_names_a_leak_and_a_miss() -> None:
    chance = {"full": 0.01, "cold": 0.1}
    content = {"model": "map", "by": "content", "full": 0.12, "full_low": 0.1, "cold": 0.3, "cold_low": 0.2}
    index = {"model": "table", "by": "index", "full": 0.008, "full_low": 0.004}
    assert shortfalls([content, index], chance, 500) == []
    (leak,) = shortfalls([content, {**index, "full": 0.05, "full_low": 0.03}], chance, 500)
    assert "table" in leak and "a leak" in leak
    for poor in (0.09, float("nan")):
        (missed,) = shortfalls([{**content, "full": poor}, index], chance, 500)
        assert "wanted 0.1000" in missed
    for luck in (0.1, float("nan")):
        (missed,) = shortfalls([{**content, "cold_low": luck}, index], chance, 500)
        assert "map" in missed and "not surely above chance 0.1000" in missed
