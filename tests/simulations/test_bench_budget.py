from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import InputError
from server.budget_plan import expected_quality, read_measured
from server.federation import Unwatched
from simulations import bench_budget
from simulations.bench_budget import format_table, run


def measure(
    monkeypatch: pytest.MonkeyPatch, out: Path | None, stop_after: int | None = None, **options: Any
) -> tuple[dict[str, Any], list[tuple[int, str, float | None]]]:
    asked: list[tuple[int, str, float | None]] = []

    def cell(users: int, recipe: str, epsilon: float | None, _seed: int, _watcher: Any) -> dict[str, Any]:
        if stop_after is not None and len(asked) == stop_after:
            raise KeyboardInterrupt
        asked.append((users, recipe, epsilon))
        recall = 0.2 if epsilon is None else 0.01 * epsilon + 0.1 * (recipe == "gradients")
        return {"users": users, "recipe": recipe, "epsilon": epsilon, "recall@10": recall, "popularity": 0.05}

    monkeypatch.setattr(bench_budget, "_cell", cell)
    try:
        result = run([60, 500], [1.0, 8.0], watcher=Unwatched(), out=out, **options)
    except KeyboardInterrupt:
        result = {}
    return result, asked


def test_a_table_that_was_stopped_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "table.json"
    _, first = measure(monkeypatch, out, stop_after=7)
    assert len(json.loads(out.read_text())["rows"]) == len(first) == 7
    result, second = measure(monkeypatch, out)
    assert len(first) + len(second) == 2 * 3 * 3
    assert not set(first) & set(second)
    whole, _ = measure(monkeypatch, None)
    assert result["rows"] == whole["rows"] == read_measured(out)["rows"]
    assert measure(monkeypatch, out)[1] == []
    assert len(measure(monkeypatch, out, again=True)[1]) == 18
    assert "--users 60 500 --recipe statistics hybrid gradients --epsilon 1 8" in result["command"]
    assert format_table(result).count("\n") == 18


def test_only_what_was_asked_for_is_measured_and_recommended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "table.json"
    some, asked = measure(monkeypatch, out, recipes=["statistics"])
    assert {recipe for _, recipe, _ in asked} == {"statistics"}
    assert set(expected_quality(some, 500, 8.0)["recipes"]) == {"statistics"}
    every, _ = measure(monkeypatch, out)
    expected = expected_quality(every, 500, 8.0)
    assert list(expected["recipes"]) == ["statistics", "hybrid", "gradients"]
    assert expected["recommended"] == "gradients"
    assert expected_quality(every, 500, None)["recommended"] == "statistics"  # equals: the fewest rounds
    half = {**every, "rows": [r for r in every["rows"] if (r["recipe"], r["epsilon"]) != ("gradients", None)]}
    assert set(expected_quality(half, 500, 8.0)["recipes"]) == {"statistics", "hybrid"}
    with pytest.raises(InputError, match="no recipe was measured both"):
        expected_quality({**every, "rows": [r for r in every["rows"] if r["epsilon"]]}, 500, 8.0)


def test_another_logs_table_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "table.json"
    measure(monkeypatch, out, recipes=["statistics"])
    with pytest.raises(InputError, match="was measured on"):
        run([60], [1.0], watcher=Unwatched(), out=out, seed=1)
    with pytest.raises(InputError, match="unknown recipe 'magic'"):
        run([60], [1.0], watcher=Unwatched(), recipes=["magic"])


def test_a_hybrid_run_without_gradient_rounds_is_not_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, str]] = []

    def cell(users: int, recipe: str, epsilon: float | None, _seed: int, _watcher: Any) -> dict[str, Any]:
        asked.append((users, recipe))
        code = bench_budget.code_version()["sha256"][:12]
        row = {"users": users, "recipe": recipe, "epsilon": epsilon, "code": code}
        return {**row, "recall@10": 0.01 * len(asked), "popularity": 0.05}

    monkeypatch.setattr(bench_budget, "_cell", cell)
    rows = run([60, 200_000], [1.0], watcher=Unwatched())["rows"]
    assert asked.count((60, "statistics")) == 2
    assert (60, "hybrid") not in asked
    assert asked.count((200_000, "hybrid")) == 2  # has gradient rounds of its own
    found = {(row["users"], row["recipe"], row["epsilon"]): row["recall@10"] for row in rows}
    assert found[60, "hybrid", 1.0] == found[60, "statistics", 1.0]
    # What other code measured is no copy of what this code would do.
    older = tmp_path / "table.json"
    run([60], [1.0], watcher=Unwatched(), recipes=["statistics"], out=older)
    older.write_text(older.read_text().replace(bench_budget.code_version()["sha256"][:12], "0" * 12))
    asked.clear()
    run([60], [1.0], watcher=Unwatched(), recipes=["hybrid"], out=older)
    assert asked == [(60, "hybrid")] * 2
