"""The bench over populations: every cell once, the log of its own size and seed, and a picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import InputError
from server.federation import Unwatched
from server.scenario import Scenario
from simulations import bench_quality, bench_users
from simulations.bench_plots import draw_users
from simulations.bench_users import format_table, run
from tests.tiny_federation import small_scenario


def test_every_population_is_measured_at_every_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, float, int]] = []

    def measured(scenario: Scenario, epsilon: float, seed: int, data: Any, *_: Any) -> dict[str, Any]:
        assert data is None, "the log is that of the run's seed"
        users = scenario.simulation.users
        asked.append((users, epsilon, seed))
        figures = {"recall@10": users / 1000 + seed / 100, "recall@20": 0.4, "ndcg@10": 0.1}
        more = {"popularity recall@10": 0.05, "epsilon_spent": epsilon, "protect_within_client": True}
        return {**figures, **more, "notices": [], "code": "other"}

    monkeypatch.setattr(bench_users, "measured_run", measured)
    result = run([90, 60, 90], [8.0, 1.0], 2, scenario=small_scenario(), folder=tmp_path, watcher=Unwatched())
    assert asked == [
        (users, epsilon, seed) for users in (60, 90) for epsilon in (1.0, 8.0) for seed in (1, 2)
    ]
    assert [(row["users"], row["epsilon"]) for row in result["rows"]] == [
        (60, 1.0),
        (60, 8.0),
        (90, 1.0),
        (90, 8.0),
    ]
    assert [row["recall@10"] for row in result["rows"]] == pytest.approx([0.075, 0.075, 0.105, 0.105])
    assert "8 of 8 runs were kept from other code" in format_table(result)
    draw_users(result, tmp_path / "users.png")
    assert (tmp_path / "users.png").read_bytes().startswith(b"\x89PNG")


def test_a_cell_is_a_federation_on_a_log_of_its_size_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure() -> dict[str, Any]:
        return run([70], [math.inf], 1, scenario=small_scenario(), folder=tmp_path, watcher=Unwatched())

    result = measure()
    (kept,) = (tmp_path / "synthetic-70x40").iterdir()
    report = json.loads((kept / "report.json").read_text())
    assert report["users"] == 70
    assert result["rows"][0]["recall@10"] == report["simulation"]["exact_metrics"]["recall@10"]
    monkeypatch.setattr(bench_quality, "simulate", lambda *_, **__: pytest.fail("measured again"))
    assert measure() == result


def test_nothing_to_measure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one"):
        bench_users.run([], [1.0], 1, scenario=small_scenario(), folder=tmp_path, watcher=Unwatched())
