"""``fedtower budget plan``: what a budget buys, before anybody's data is read.

Only public facts enter: the scenario, how many users, items and clients there are, and a table that was measured on the
generated log (``measured_budgets.json``; the file names the command that makes it again).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from privacy.accounting.accountant import epsilon as epsilon_of
from privacy.accounting.events import ReleaseEvent, seen_outside
from privacy.accounting.plan import FederationPlan
from privacy.errors import InputError
from server.plan import make_plan
from server.scenario import Scenario, override

MEASURED = Path(__file__).with_name("measured_budgets.json")


def plan_statement(
    scenario: Scenario,
    *,
    users: int,
    items: int,
    clients: int,
    noise_multiplier: float | None = None,
    measured: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The schedule of a scenario for these public facts.

    Args:
        scenario: what would be run; its budget is divided as a run would divide it.
        users: enrolled, over all clients.
        items: of the catalogue.
        clients: that take part.
        noise_multiplier: the other way round: every release gets this noise, and the statement says what that costs.
        measured: the table of expected recall; the one beside this module if None, and no expectation without one.

    Raises:
        InputError: privacy is off, a value is out of range, or these clients cannot be planned for.
    """
    if not scenario.private:
        raise InputError("privacy.mode = 'off' has no budget to plan: set it to 'on'")
    if min(users, items, clients) < 1:
        raise InputError(f"users={users}, items={items}, clients={clients} must all be at least 1")
    if users < clients:
        raise InputError(f"{users} users over {clients} clients: give every client at least one")
    plan = _plan(scenario, users, items, clients)
    if noise_multiplier is not None:
        if not 0.0 < noise_multiplier < math.inf:
            raise InputError(f"noise-multiplier={noise_multiplier} must be a positive number")
        fixed = {release.name: noise_multiplier for release in plan.releases}
        plan = _plan(override(scenario, {"privacy.noise_multipliers": fixed}), users, items, clients)
    events = list(plan.events())
    outside = seen_outside(events)
    total = epsilon_of(events, plan.target_delta)
    statement: dict[str, Any] = {
        "users": users,
        "items": items,
        "clients": clients,
        "recipe": scenario.recipe,
        "epsilon": _finite(total),
        "epsilon_budget": plan.epsilon,
        "delta": plan.target_delta,
        "fits": total <= plan.epsilon,
        "epsilon_outside": _finite(epsilon_of(outside, plan.target_delta)),
        "noise": plan.noise,
        "assumed_colluding": plan.colluding,
        "honest_survivors": plan.honest_survivors,
        "epsilon_of_one_clients_uploads": _finite(epsilon_of(_own(plan, outside), plan.target_delta)),
        "releases": [_row(plan, events, i) for i in range(len(events))],
    }
    if measured is None and MEASURED.exists():
        measured = read_measured()
    statement["expected"] = None if measured is None else expected_quality(measured, users, total)
    return statement


def expected_quality(measured: Mapping[str, Any], users: int, epsilon: float | None) -> dict[str, Any]:
    """The measured cells nearest to a deployment, and the recipe that did best there.

    Nothing is interpolated or extrapolated: the answer says where it was measured. Where two recipes differ by less than
    their sampling error, the one with fewer rounds is recommended.

    Args:
        measured: the table.
        users: of the deployment.
        epsilon: its budget; None for one without privacy.

    Returns:
        ``users`` and ``epsilon`` of the cells; by recipe ``recall@10``, ``without_privacy``, ``loss`` (relative) and
        ``error`` (1.96 standard errors of the recall); ``recommended``.
    """
    rows: Sequence[Mapping[str, Any]] = measured["rows"]
    nearest = None if epsilon is None else _nearest_budget(rows, epsilon)
    # A table may be half done: a recipe counts where it was measured both with this budget and without one.
    every = {(r["users"], r["recipe"], r["epsilon"]): r for r in rows}
    whole = [key for key in every if key[2] is None and (*key[:2], nearest) in every]
    if not whole:
        raise InputError(f"no recipe was measured both at epsilon = {nearest} and without privacy")
    nearest_users = min({count for count, _, _ in whole}, key=lambda n: abs(math.log(n / users)))
    names = [recipe for count, recipe, _ in whole if count == nearest_users]
    cells = {
        (recipe, epsilon): every[nearest_users, recipe, epsilon]
        for recipe in names
        for epsilon in {None, nearest}
    }
    recipes: dict[str, Any] = {}
    for recipe in names:
        recall, free = cells[recipe, nearest]["recall@10"], cells[recipe, None]["recall@10"]
        recipes[recipe] = {
            "recall@10": recall,
            "without_privacy": free,
            "loss": 1.0 - recall / free if free else None,
            "error": 1.96 * math.sqrt(recall * (1.0 - recall) / nearest_users),
        }
    best = max(recipes.values(), key=lambda r: r["recall@10"])
    recommended = next(
        name for name, r in recipes.items() if r["recall@10"] >= best["recall@10"] - best["error"]
    )
    popularity = cells[names[0], nearest]["popularity"]
    return {
        "users": nearest_users,
        "epsilon": nearest,
        "log": measured["log"],
        "popularity": popularity,
        "recipes": recipes,
        "recommended": recommended,
    }


def _nearest_budget(rows: Sequence[Mapping[str, Any]], epsilon: float) -> float:
    budgets = {float(r["epsilon"]) for r in rows if r["epsilon"] is not None}
    wanted = min(max(epsilon, 1e-9), 1e9)
    return min(budgets, key=lambda e: abs(math.log(e / wanted)))


def read_measured(path: Path | None = None) -> dict[str, Any]:
    """The table of measured cells.

    Raises:
        InputError: the file is missing or is no such table.
    """
    path = path or MEASURED
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["rows"] and table["log"]:
            return table
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): make it again with fedtower bench budget"
        ) from None
    raise InputError(f"{path} holds no rows: make it again with fedtower bench budget")


def _plan(scenario: Scenario, users: int, items: int, clients: int) -> FederationPlan:
    share, rest = divmod(users, clients)
    users_of = {f"client-{i:04d}": share + (i < rest) for i in range(clients)}
    return make_plan(
        scenario, session="00" * 16, users_of=users_of, n_items=items, catalogue_sha256="00" * 32
    )


def _own(plan: FederationPlan, events: Sequence[ReleaseEvent]) -> list[ReleaseEvent]:
    """What one client's uploads would reveal if secure aggregation failed: they hold one share of the noise each.

    A fit that stayed there has all of its noise.
    """
    return [
        replace(event, noise_multiplier=event.noise_multiplier / math.sqrt(plan.honest_survivors))
        if event.left_the_client
        else event
        for event in events
    ]


def _row(plan: FederationPlan, events: list[ReleaseEvent], i: int) -> dict[str, Any]:
    event, delta = events[i], plan.target_delta
    return {
        "name": event.name,
        "noise_multiplier": event.noise_multiplier,
        "sampling_probability": event.sampling_probability,
        "steps": event.count,
        "left_the_client": event.left_the_client,
        "epsilon_alone": _finite(epsilon_of([event], delta)),
        "epsilon_after": _finite(epsilon_of(events[: i + 1], delta)),
        "epsilon_of_one_clients_upload": _finite(epsilon_of(_own(plan, [event]), delta))
        if event.left_the_client
        else None,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
