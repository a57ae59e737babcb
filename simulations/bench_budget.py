"""What a budget costs in accuracy, measured on the built-in log: the table behind ``fedtower budget plan``.

Every cell is one simulated federation, and its recall is exact, not a noisy release: the log is generated, so nobody's data
is in it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from privacy.errors import InputError
from server.certificate import code_version
from server.federation import Watcher
from server.scenario import parse_scenario
from simulations.run import simulate

RECIPES = ("statistics", "hybrid")
CLIENTS = 5
ITEMS = 1000


def run(
    users: Sequence[int],
    epsilons: Sequence[float],
    *,
    watcher: Watcher,
    seed: int = 0,
    say: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """Measure recall@10 for every number of users, budget and recipe, and once each without privacy.

    Args:
        users: of the built-in log, over 5 clients and 1,000 items.
        epsilons: budgets, positive.
        watcher: is told of progress.
        seed: of data, clients and noise; one seed, so a cell is uncertain by about sqrt(r (1 - r) / users).
        say: is given one line per cell.

    Returns:
        What ``server/measured_budgets.json`` holds.

    Raises:
        InputError: nothing to measure, or a value out of range.
    """
    if not users or not epsilons:
        raise InputError("give at least one number of users and one epsilon")
    started = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for count in users:
        for recipe in RECIPES:
            for epsilon in (None, *epsilons):
                rows.append(_cell(count, recipe, epsilon, seed, watcher))
                say(json.dumps(rows[-1]))
    return {
        "log": f"built-in, seed {seed}, {ITEMS} items, {CLIENTS} clients, delta 1e-5",
        "command": "fedtower bench budget --users "
        + " ".join(str(u) for u in users)
        + " --epsilon "
        + " ".join(f"{e:g}" for e in epsilons)
        + " --out server/measured_budgets.json",
        "code": code_version(),
        "seconds": round(time.perf_counter() - started, 1),
        "rows": rows,
    }


def format_table(result: dict[str, Any]) -> str:
    """The rows as text."""
    lines = [f"{'users':>7} {'recipe':<11} {'epsilon':>8} {'recall@10':>10} {'popularity':>11}"]
    for row in result["rows"]:
        budget = "none" if row["epsilon"] is None else f"{row['epsilon']:g}"
        lines.append(
            f"{row['users']:>7} {row['recipe']:<11} {budget:>8} {row['recall@10']:>10.4f} {row['popularity']:>11.4f}"
        )
    return "\n".join(lines)


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
    }
