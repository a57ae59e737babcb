"""The plan shows what a run would charge, and its inverse what a noise would cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

import fedtower
from privacy.accounting.accountant import epsilon
from privacy.accounting.events import ReleaseEvent
from privacy.errors import InputError
from server import budget_cli, budget_plan
from server.budget_plan import expected_quality, plan_statement, read_measured
from server.scenario import Scenario, override, parse_scenario

MEASURED: dict[str, Any] = {
    "log": "made up",
    "rows": [
        {"users": users, "recipe": recipe, "epsilon": budget, "recall@10": recall, "popularity": 0.05}
        for users, recipe, budget, recall in (
            (500, "statistics", None, 0.20),
            (500, "statistics", 1.0, 0.05),
            (500, "statistics", 8.0, 0.15),
            (500, "hybrid", None, 0.20),
            (500, "hybrid", 1.0, 0.05),
            (500, "hybrid", 8.0, 0.16),
            (8000, "statistics", None, 0.20),
            (8000, "statistics", 1.0, 0.10),
            (8000, "statistics", 8.0, 0.18),
            (8000, "hybrid", None, 0.24),
            (8000, "hybrid", 1.0, 0.10),
            (8000, "hybrid", 8.0, 0.22),
        )
    ],
}


def plan(scenario: Scenario | None = None, **changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"users": 2000, "items": 1000, "clients": 5, "measured": MEASURED}
    return plan_statement(scenario or Scenario(), **{**facts, **changes})


def _call(*args: object) -> int:
    with pytest.raises(SystemExit) as done:
        fedtower.run(typer.main.get_command(budget_cli.app), [str(a) for a in args])
    return done.value.code if isinstance(done.value.code, int) else -1


def test_the_schedule_fills_the_budget_release_by_release() -> None:
    statement = plan()
    assert statement["fits"]
    assert 7.99 < statement["epsilon"] <= 8.0
    after = [row["epsilon_after"] for row in statement["releases"]]
    assert after == sorted(after)
    assert after[-1] == statement["epsilon"]
    # The fit stays, but the metrics after it are computed with the fitted encoder.
    assert statement["epsilon_outside"] == statement["epsilon"]
    names = [row["name"] for row in statement["releases"]]
    assert names[:2] == ["popularity", "statistics"]
    assert "fit" in names


def test_own_view_is_what_one_share_of_the_noise_hides() -> None:
    shared = plan()
    assert (shared["noise"], shared["honest_survivors"]) == ("distributed", 3)
    popularity = shared["releases"][0]
    alone = ReleaseEvent("x", popularity["noise_multiplier"] / 3**0.5)
    assert popularity["epsilon_of_one_clients_upload"] == epsilon([alone], 1e-5)
    assert shared["epsilon_of_one_clients_uploads"] > shared["epsilon_outside"]
    everyone_all = plan(clients=4)
    assert everyone_all["noise"] == "per_client"
    assert everyone_all["epsilon_of_one_clients_uploads"] == everyone_all["epsilon_outside"]


def test_outsiders_are_promised_nothing_that_a_noiseless_fit_would_break() -> None:
    nearly_none = override(Scenario(), {"privacy.noise_multipliers": {"fit": 0.02}})
    assert plan(nearly_none)["epsilon_outside"] > 100.0


def test_a_noise_multiplier_costs_what_its_releases_cost() -> None:
    scenario = parse_scenario(
        {"recipe": "statistics", "privacy": {"protect_within_client": False}}, source="test"
    )
    statement = plan(scenario, noise_multiplier=2.0)
    count = len(statement["releases"])
    assert {row["noise_multiplier"] for row in statement["releases"]} == {2.0}
    assert statement["epsilon"] == pytest.approx(epsilon([ReleaseEvent("x", 2.0, count=count)], 1e-5))
    assert not plan(scenario, noise_multiplier=0.3)["fits"]


@pytest.mark.parametrize(
    ("users", "budget", "cell", "recommended"),
    [
        (2500, 8.0, (8000, 8.0), "hybrid"),
        (700, 6.0, (500, 8.0), "statistics"),  # the difference is within the sampling error
        (100_000, 0.5, (8000, 1.0), "statistics"),
    ],
)
def test_expectations_come_from_the_nearest_cell_and_say_which(
    users: int, budget: float, cell: tuple[int, float], recommended: str
) -> None:
    expected = expected_quality(MEASURED, users, budget)
    assert (expected["users"], expected["epsilon"]) == cell
    assert expected["recommended"] == recommended
    row = expected["recipes"]["statistics"]
    assert row["loss"] == pytest.approx(1 - row["recall@10"] / row["without_privacy"])


@pytest.mark.parametrize(
    "changes",
    [
        {"users": 0},
        {"users": 3},
        {"items": 0},
        {"clients": 2},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": float("nan")},
    ],
)
def test_impossible_facts_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        plan(**changes)
    with pytest.raises(InputError, match="no budget to plan"):
        plan(parse_scenario({"privacy": {"mode": "off"}}, source="test"))


def test_a_table_that_is_not_there_names_its_cure(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text('{"rows": [], "log": "x"}')
    for path in (tmp_path / "none.json", tmp_path / "empty.json"):
        with pytest.raises(InputError, match="fedtower bench budget"):
            read_measured(path)


def test_the_command_prints_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_plan, "MEASURED", tmp_path / "measured.json")
    scenario = tmp_path / "s.toml"
    scenario.write_text('recipe = "statistics"\n')
    args = ["plan", scenario, "--users", 6000, "--clients", 10, "--epsilon", 4, "--delta", 1e-6]
    assert _call(*args, "--json") == 0
    statement = json.loads(capsys.readouterr().out)
    assert (statement["users"], statement["clients"], statement["delta"]) == (6000, 10, 1e-6)
    assert 3.99 < statement["epsilon"] <= 4.0
    assert statement["expected"] is None  # nothing was measured: nothing is said
    (tmp_path / "measured.json").write_text(json.dumps(MEASURED))
    assert _call(*args, "--noise-multiplier", 3) == 0
    out = capsys.readouterr().out
    for wanted in ("ε own view", "if masks failed", "expect", 'recipe = "'):
        assert wanted in out
    assert _call("plan", "--epsilon", 0) == 2
    assert "privacy.epsilon" in capsys.readouterr().err


def test_the_table_in_the_repository_has_every_cell_it_is_asked_for() -> None:
    measured = read_measured()
    assert "fedtower bench budget" in measured["command"]
    for users in (100, 2000, 10**6):
        for budget in (0.1, 2.0, 50.0):
            expected = expected_quality(measured, users, budget)
            assert {"statistics", "hybrid"} <= set(expected["recipes"])
            assert expected["recommended"] in expected["recipes"]
