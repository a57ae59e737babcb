"""The quality bench: which figure falls short, both protections in one table, the same table twice, and going on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedtower import app
from privacy.errors import InputError
from server.federation import Unwatched
from server.scenario import Scenario
from simulations import bench_quality
from simulations.bench_plots import draw_budgets
from simulations.bench_quality import (
    FEDERATION,
    REACH,
    REACH_UNPROTECTED,
    UNPROTECTED,
    format_table,
    shortfalls,
)
from tests.tiny_federation import small_scenario

Row = dict[str, Any]


def row(epsilon: float | str, recall: float, *, protects: bool = True, popularity: float = 0.0) -> Row:
    return {
        "method": FEDERATION if protects else UNPROTECTED,
        "protect_within_client": protects,
        "epsilon": epsilon,
        "recall@10": recall,
        "ndcg@10": 1.0,
        "popularity recall@10": popularity,
    }


@pytest.mark.parametrize(
    ("name", "epsilon", "protects"),
    [(*key, True) for key in REACH] + [(*key, False) for key in REACH_UNPROTECTED],
)
def test_a_figure_below_its_reach_is_named_and_one_at_it_is_not(
    name: str, epsilon: float, protects: bool
) -> None:
    written = "inf" if math.isinf(epsilon) else epsilon
    for metric, least in (REACH if protects else REACH_UNPROTECTED)[name, epsilon].items():
        reached = row(written, 1.0, protects=protects) | {metric: least}
        assert shortfalls(name, [reached]) == []
        (line,) = shortfalls(name, [reached | {metric: least - 1e-6}])
        assert metric in line and f"at epsilon {epsilon:g} " in line and line.endswith(f"below {least}")
        assert (UNPROTECTED in line) == (not protects)
        assert shortfalls(name, [reached | {metric: math.nan}])[0].startswith(f"{metric} nan")


def test_what_is_asked_of_a_row_depends_on_whom_it_protects_and_on_its_budget() -> None:
    assert shortfalls("ml-1m", [row(8.0, 0.15)]) == []
    assert shortfalls("ml-1m", [row(8.0, 0.15, protects=False)]) != []
    assert shortfalls("ml-100k", [row(8.0, 0.119, protects=False)]) != [], (
        "never less than of protected users"
    )
    assert shortfalls("ml-100k", [row(2.0, 0.0)]) == []
    assert shortfalls("another", [row("inf", 0.0)]) == []


def test_a_private_row_must_not_fall_below_popularity_at_its_budget() -> None:
    central = {"method": "popularity (central, DP)", "epsilon": 1.0, "recall@10": 0.09}
    below = row(1.0, 0.08, popularity=0.07)
    (line,) = shortfalls("any", [central, below])
    assert "below popularity with noise, 0.0900" in line
    assert shortfalls("any", [central | {"epsilon": 8.0}, below]) == []
    (line,) = shortfalls("any", [row(1.0, 0.06, popularity=0.07)])
    assert "0.0700" in line
    assert shortfalls("any", [row("inf", 0.06, popularity=0.07)]) == []


def test_a_federation_without_privacy_is_held_to_the_centralised_twin_of_its_encoder() -> None:
    twin = {"method": "gru (central, no privacy)", "epsilon": None, "recall@10": 0.2, "ndcg@10": 1.0}
    near, far = row("inf", 0.1941), row("inf", 0.1939)
    assert shortfalls("any", [twin, near], twin="gru") == []
    (line,) = shortfalls("any", [twin, far], twin="gru")
    assert "recall@10 0.1939" in line and "3% below gru (central, no privacy), 0.2000" in line
    (line,) = shortfalls("any", [twin, near | {"ndcg@10": 0.96}], twin="gru")
    assert line.startswith("ndcg@10")
    assert shortfalls("any", [twin, far], twin="attention") == [], "another encoder is no twin"
    assert shortfalls("any", [twin, row(8.0, 0.1)], twin="gru") == [], "noise may cost more"


def pretend(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, bool]]:
    """Runs that take no time: recall@10 is 0.3 without privacy, else 0.1, and 0.2 for unprotected users."""
    asked: list[tuple[float, bool]] = []

    def measured(scenario: Scenario, epsilon: float, seed: int, *_: Any) -> Row:
        protects = scenario.privacy.protect_within_client or math.isinf(epsilon)
        asked.append((epsilon, protects))
        recall = 0.3 if math.isinf(epsilon) else 0.1 if protects else 0.2
        written = "inf" if math.isinf(epsilon) else epsilon
        figures = {
            "recall@20": 0.4,
            "epsilon_spent": None,
            "seed": seed,
            "code": "other",
            "notices": ["Not used."],
        }
        return row(written, recall + seed / 1000, protects=protects) | figures

    monkeypatch.setattr(bench_quality, "measured_run", measured)
    return asked


def test_one_command_measures_both_protections_and_the_run_without_privacy_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = pretend(monkeypatch)
    result = bench_quality.run(
        "built-in",
        [math.inf, 8.0],
        2,
        scenario=small_scenario(),
        folder=tmp_path,
        watcher=Unwatched(),
        baselines=False,
        also_unprotected=True,
    )
    assert asked == [(math.inf, True)] * 2 + [(8.0, True)] * 2 + [(8.0, False)] * 2
    assert [(one["method"], one["epsilon"]) for one in result["rows"]] == [
        (FEDERATION, "inf"),
        (FEDERATION, 8.0),
        (UNPROTECTED, 8.0),
    ]
    assert [one["recall@10"] for one in result["rows"]] == pytest.approx([0.3015, 0.1015, 0.2015])
    assert format_table(result).count("Not used.") == 1
    assert "6 of 6 runs were kept from other code" in format_table(result)
    draw_budgets(result, tmp_path / "plots" / "both.png")
    assert (tmp_path / "plots" / "both.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("least", "code"), [(0.09, 0), (0.11, 1)])
def test_check_ends_with_1_and_names_the_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: float, code: int
) -> None:
    pretend(monkeypatch)
    monkeypatch.setitem(REACH, ("synthetic-2000x1000", 4.0), {"recall@10": least})
    arguments = ["bench", "quality", "built-in", "--epsilon", "4", "--seeds", "1", "--no-baselines"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path), "--check"])
    assert done.exit_code == code, done.output
    assert (f"recall@10 0.1010 of {FEDERATION} at epsilon 4 is below {least}" in done.output) == bool(code)
    assert CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)]).exit_code == 0
    assert (tmp_path / "built-in.png").exists()


def test_both_protections_and_one_of_them_cannot_be_asked_for_together() -> None:
    with pytest.raises(InputError, match="measures both"):
        CliRunner().invoke(
            app,
            ["bench", "quality", "built-in", "--also-unprotected", "--protect-within-client"],
            catch_exceptions=False,
        )


def measure(folder: Path, epsilons: list[float]) -> dict[str, Any]:
    return bench_quality.run(
        "built-in",
        epsilons,
        1,
        scenario=small_scenario(),
        folder=folder,
        watcher=Unwatched(),
        baselines=False,
    )


def test_the_same_seeds_give_the_same_table_and_the_same_tower(tmp_path: Path) -> None:
    first, second = (measure(tmp_path / name, [math.inf, 8.0]) for name in ("first", "second"))
    assert format_table(first) == format_table(second)
    assert "other code" not in format_table(first)
    without_time = [
        [{k: v for k, v in run.items() if k != "seconds"} for run in r["runs"]] for r in (first, second)
    ]
    assert without_time[0] == without_time[1]
    towers = [run["item_tower_sha256"] for run in first["runs"]]
    assert len(set(towers)) == len(towers) == 2


def test_a_finished_run_is_kept_and_an_interrupted_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measure(tmp_path, [8.0])
    (kept,) = (tmp_path / "synthetic-60x40").iterdir()
    report = json.loads((kept / "report.json").read_text())
    assert report["item_tower_sha256"] == first["runs"][0]["item_tower_sha256"]

    def never(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bench_quality, "simulate", never)
        assert measure(tmp_path, [8.0]) == first
        (kept / "code.sha256").write_text("another\n")
        assert measure(tmp_path, [8.0])["other_code"] == 1
    (kept / "report.json").unlink()
    remains = kept.with_name(f"{kept.name}.part")
    remains.mkdir()
    (remains / "ledger.sqlite").write_bytes(b"half")
    again = measure(tmp_path, [8.0])
    assert again["rows"] == first["rows"] and again["other_code"] == 0
    assert not remains.exists()
