"""How ``fedtower budget`` shows a plan and a ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from server.console import print_table
from server.report_tables import Table, number


def print_plan(statement: dict[str, Any]) -> None:
    """Print ``server.budget_plan.plan_statement`` as a table, its cost, and what to expect."""
    cells = [
        (
            row["name"],
            number(row["noise_multiplier"], 3),
            number(row["sampling_probability"], 3),
            str(row["steps"]),
            number(row["epsilon_alone"], 3),
            number(row["epsilon_after"], 3),
            number(row["epsilon_of_one_clients_upload"], 2) if row["left_the_client"] else "stays",
        )
        for row in statement["releases"]
    ]
    header = ("release", "σ/C", "q", "steps", "ε alone", "ε after", "ε own view")
    note = (
        f"recipe {statement['recipe']}, {statement['users']:,} users, {statement['items']:,} items, "
        f"{statement['clients']} clients, δ = {statement['delta']:g}"
    )
    console = Console(highlight=False)
    print_table(Table("Plan", header, cells, note), console)
    verdict = "within" if statement["fits"] else "ABOVE"
    console.print(
        f"\ncosts    ε = {number(statement['epsilon'], 4)}, {verdict} the budget {statement['epsilon_budget']:g}; "
        f"ε = {number(statement['epsilon_outside'], 4)} for those outside the clients\n"
        f"noise    {statement['noise']}: if masks failed, one client's own uploads would reveal "
        f"ε = {number(statement['epsilon_of_one_clients_uploads'], 2)}",
        soft_wrap=True,
    )
    expected = statement["expected"]
    if expected is None:
        return
    console.print(
        f"\nexpect   measured with {expected['users']:,} users at ε = {expected['epsilon']:g} ({expected['log']}):",
        soft_wrap=True,
    )
    for recipe, cell in expected["recipes"].items():
        console.print(
            f"         {recipe:<11} Recall@10 {cell['recall@10']:.4f} ± {cell['error']:.4f}, "
            f"{cell['without_privacy']:.4f} without privacy; popularity {expected['popularity']:.4f}",
            soft_wrap=True,
        )
    console.print(f'recipe   recipe = "{expected["recommended"]}"')


def print_statement(statement: dict[str, Any]) -> None:
    """Print ``server.ledger_statement.ledger_statement`` as a table, its slices, and what is left."""
    rows: Sequence[dict[str, Any]] = statement["releases"]
    is_divided = any(row["deployment"] or row["window"] for row in rows)
    cells = [
        (
            row["name"],
            number(row["epsilon_alone"], 3),
            number(row["epsilon_after"], 3),
            number(row["noise_multiplier"], 3),
            number(row["sampling_probability"], 3),
            str(row["steps"]),
            "yes" if row["left_the_client"] else "no",
            row["status"],
            *((row["deployment"] or "–", row["window"] or "–") if is_divided else ()),
        )
        for row in rows
    ]
    header = ("release", "ε alone", "ε after", "σ/C", "q", "steps", "left", "status")
    header += ("slice", "window") if is_divided else ()
    note = f"population {statement['population']!r}, δ = {statement['delta']:g}"
    console = Console(highlight=False)
    print_table(Table("Ledger", header, cells, note, frozenset({0, 6, 7, 8, 9})), console)
    for given in statement["slices"]:
        console.print(
            f"slice  {given['deployment']}: ε = {given['epsilon_spent']:.6f} of {given['epsilon']:g}, "
            f"{given['status']}, until {given['expires']}"
        )
    for window, at in statement["closed_windows"].items():
        console.print(f"window {window}: closed at {at}")
    console.print(
        f"\nspent  ε = {statement['epsilon']:.6f} of {statement['epsilon_budget']:g}, "
        f"{statement['epsilon_left']:.6f} left\n"
        f"       ε = {statement['epsilon_left_the_client']:.6f} for those outside the clients\n"
        f"head   {statement['head_hash']}"
    )
