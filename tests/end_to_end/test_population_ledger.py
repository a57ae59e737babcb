"""Runs of two deployments on one population's ledger: each within its slice, all within the population's budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from privacy.accounting.ledger import Ledger
from privacy.errors import BudgetExceeded, InputError
from server.certificate import certificate
from server.federation import Unwatched
from server.ledger_statement import compare_with_report, end_of, open_ledger
from server.run import open_run_ledger
from server.scenario import Scenario, parse_scenario
from simulations.run import simulate


@pytest.fixture
def population(tmp_path: Path) -> Path:
    path = tmp_path / "shop.sqlite"
    shop = Ledger.open(path, population="shop", epsilon_budget=8.0, target_delta=1e-5)
    shop.give_slice("web", 4.0, end_of("2999-12-31"))
    shop.give_slice("app", 4.0, end_of("2999-12-31"))
    return path


def scenario(
    path: Path | None, epsilon: float, deployment: str | None, window: str | None = None
) -> Scenario:
    ledger: dict[str, Any] = {"path": str(path), "deployment": deployment, "window": window}
    return parse_scenario(
        {
            "recipe": "statistics",
            "encoder": "mean-pool",
            "seed": 1,
            "fit": {"steps": 1},
            "model": {"dim": 8},
            "statistics": {"head": 20},
            "privacy": {"epsilon": epsilon},
            "simulation": {"users": 120, "items": 40},
            "ledger": {name: value for name, value in ledger.items() if value not in (None, "None")},
        },
        source="test",
    )


def test_runs_share_a_population_and_keep_to_their_slices(population: Path, tmp_path: Path) -> None:
    first = simulate(scenario(population, 4.0, "web", "2026"), tmp_path / "web", Unwatched())
    shop = open_ledger(population)
    web, app = shop.slices()
    assert 3.99 < web.epsilon_spent <= 4.0
    assert app.epsilon_spent == 0.0
    assert first["privacy"]["epsilon"] == shop.epsilon_spent()
    assert not (tmp_path / "web" / "ledger.sqlite").exists()
    assert compare_with_report(shop, tmp_path / "web") == 0.0
    stated = certificate(tmp_path / "web")
    assert stated["population"] == "shop"
    assert {(r["deployment"], r["window"]) for r in stated["releases"]} == {("web", "2026")}

    with pytest.raises(BudgetExceeded, match="slice of deployment 'web'"):
        simulate(scenario(population, 4.0, "web", "2026"), tmp_path / "again", Unwatched())
    assert "refused" in json.loads((tmp_path / "again" / "report.json").read_text())

    simulate(scenario(population, 4.0, "app", "2026"), tmp_path / "app", Unwatched())
    assert [s.epsilon_spent > 3.99 for s in shop.slices()] == [True, True]
    assert 4.0 < shop.epsilon_spent() <= 8.0


def test_a_closed_window_stops_a_run_before_anything_is_asked_of_a_log(
    population: Path, tmp_path: Path
) -> None:
    shop = open_ledger(population)
    shop.close_window("2025")
    with pytest.raises(BudgetExceeded, match="data window '2025' was closed"):
        simulate(scenario(population, 4.0, "web", "2025"), tmp_path / "run", Unwatched())
    assert shop.entries() == []
    client = Ledger.open(
        tmp_path / "run" / "clients" / "client-01" / "ledger.sqlite",
        population="client-01", epsilon_budget=4.0, target_delta=1e-5,
    )  # fmt: skip
    assert client.entries() == []


def test_what_a_scenario_may_not_ask_of_a_ledger(population: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no ledger here"):
        open_run_ledger(scenario(tmp_path / "none.sqlite", 4.0, None), tmp_path)
    with pytest.raises(InputError, match="has no slice"):
        open_run_ledger(scenario(population, 4.0, "tv"), tmp_path)
    other = scenario(population, 4.0, "web")
    other = other.model_copy(update={"privacy": other.privacy.model_copy(update={"delta": 1e-6})})
    with pytest.raises(InputError, match="kept at delta 1e-05"):
        open_run_ledger(other, tmp_path)
