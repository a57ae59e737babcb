"""What a budget costs in accuracy, measured on the built-in log: the table behind ``fedtower budget plan``.

Every cell is one simulated federation, and its recall is exact, not a noisy release: the log is generated, so nobody's data
is in it. The table is written after every cell and goes on where it stopped; every row names the code that made it, because a
table may be finished by a later version than began it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from privacy.errors import InputError
from server.budget_plan import read_measured
from server.certificate import code_version
from server.federation import Watcher
from server.report import write_aside
from server.scenario import Scenario, parse_scenario
from simulations.run import simulate

RECIPES = ("statistics", "hybrid", "gradients")
"""In the order of their rounds: of equals the first is recommended."""
CLIENTS = 5
ITEMS = 1000


def run(
    users: Sequence[int],
    epsilons: Sequence[float],
    *,
    watcher: Watcher,
    recipes: Sequence[str] = RECIPES,
    seed: int = 0,
    out: Path | None = None,
    again: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """Measure recall@10 for every number of users, budget and recipe, and once each without privacy.

    Args:
        users: of the built-in log, over 5 clients and 1,000 items.
        epsilons: budgets, positive.
        watcher: is told of progress.
        recipes: some of ``RECIPES``.
        out: table to go on with, written after every cell.
        again: measure cells that the table has already as well.
        seed: of data, clients and noise; one seed, so a cell is uncertain by about sqrt(r (1 - r) / users).
        say: is given one line per cell.

    Returns:
        What ``server/measured_budgets.json`` holds.

    Raises:
        InputError: nothing to measure, or a value out of range.
    """
    if not users or not epsilons or not recipes:
        raise InputError("give at least one number of users, one recipe and one epsilon")
    if unknown := sorted(set(recipes) - set(RECIPES)):
        raise InputError(f"unknown recipe {unknown[0]!r}; use {', '.join(RECIPES)}")
    log = f"built-in, seed {seed}, {ITEMS} items, {CLIENTS} clients, delta 1e-5"
    table = _table_at(out, log)
    kept = {_key(row): row for row in table["rows"]}
    for count in users:
        for recipe in recipes:
            for epsilon in (None, *epsilons):
                if not again and (count, recipe, epsilon) in kept:
                    continue
                started = time.perf_counter()
                row = _like_statistics(count, recipe, epsilon, kept) or _cell(
                    count, recipe, epsilon, seed, watcher
                )
                kept[_key(row)] = row
                say(json.dumps(row))
                table |= {
                    "command": _command(list(kept.values())),
                    "code": code_version(),
                    "seconds": round(table["seconds"] + time.perf_counter() - started, 1),
                    "rows": sorted(kept.values(), key=_order),
                }
                if out is not None:
                    write_aside(out, json.dumps(table, indent=1) + "\n")
    return table


def _table_at(out: Path | None, log: str) -> dict[str, Any]:
    if out is None or not out.exists():
        return {"log": log, "command": "", "code": {}, "seconds": 0.0, "rows": []}
    table = read_measured(out)
    if table["log"] != log:
        raise InputError(f"{out} was measured on {table['log']!r}, not {log!r}: give another --out")
    return table


def _key(row: dict[str, Any]) -> tuple[int, str, float | None]:
    return row["users"], row["recipe"], row["epsilon"]


def _order(row: dict[str, Any]) -> tuple[int, int, float]:
    return row["users"], RECIPES.index(row["recipe"]), row["epsilon"] or 0.0


def _command(rows: list[dict[str, Any]]) -> str:
    """The command that would measure every row of a table anew."""
    users = sorted({row["users"] for row in rows})
    budgets = sorted({row["epsilon"] for row in rows if row["epsilon"] is not None})
    recipes = [recipe for recipe in RECIPES if any(row["recipe"] == recipe for row in rows)]
    parts = [
        "fedtower bench budget --again --users",
        *map(str, users),
        "--recipe",
        *recipes,
        "--epsilon",
        *(f"{e:g}" for e in budgets),
        "--out server/measured_budgets.json",
    ]
    return " ".join(parts)


def format_table(result: dict[str, Any]) -> str:
    """The rows as text."""
    lines = [f"{'users':>7} {'recipe':<11} {'epsilon':>8} {'recall@10':>10} {'popularity':>11}"]
    for row in result["rows"]:
        budget = "none" if row["epsilon"] is None else f"{row['epsilon']:g}"
        lines.append(
            f"{row['users']:>7} {row['recipe']:<11} {budget:>8} {row['recall@10']:>10.4f} {row['popularity']:>11.4f}"
        )
    return "\n".join(lines)


def _like_statistics(
    users: int, recipe: str, epsilon: float | None, kept: dict[Any, dict[str, Any]]
) -> dict[str, Any] | None:
    """A hybrid run too small for gradient rounds is the run of statistics, if this code has made that already."""
    same = kept.get((users, "statistics", epsilon))
    if recipe != "hybrid" or users >= Scenario().gradients.min_users:
        return None
    if same is None or same.get("code") != code_version()["sha256"][:12]:
        return None
    return {**same, "recipe": recipe}


def _cell(users: int, recipe: str, epsilon: float | None, seed: int, watcher: Watcher) -> dict[str, Any]:
    privacy: dict[str, Any] = {"mode": "off"} if epsilon is None else {"epsilon": epsilon, "delta": 1e-5}
    scenario = parse_scenario(
        {
            "name": "budget",
            "recipe": recipe,
            "seed": seed,
            "privacy": privacy,
            "simulation": {"clients": CLIENTS, "users": users, "items": ITEMS},
        },
        source="bench budget",
    )
    with tempfile.TemporaryDirectory(prefix="fedtower-budget-") as folder:
        report = simulate(scenario, Path(folder) / "run", watcher)
    exact = report["simulation"]["exact_metrics"]
    return {
        "users": users,
        "recipe": recipe,
        "epsilon": epsilon,
        "recall@10": round(exact["recall@10"], 4),
        "popularity": round(exact["popularity recall@10"], 4),
        "code": code_version()["sha256"][:12],
    }
