"""``fedtower budget``: what a ledger has spent, and whether a report tells the truth about it.

Both commands read the ledger file alone. ε is recomputed from the events in it, by two accountants.
"""

from __future__ import annotations

import json
import math
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privacy.accounting.events import ReleaseEvent
    from privacy.accounting.ledger import Ledger, LedgerEntry

# A report's ε may differ from the recomputed one by this much, for the digits of its JSON text.
TOLERANCE = 1e-6

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Show and verify a privacy ledger.")

LedgerPath = Annotated[Path, typer.Argument(help="The ledger file; its .counter lies beside it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def show(ledger: LedgerPath, as_json: AsJson = False) -> None:
    """Show every release in the ledger, what it cost, and what is left."""
    statement = ledger_statement(open_ledger(ledger))
    if as_json:
        typer.echo(json.dumps(statement, indent=2))
    else:
        _print_statement(statement)


@app.command()
def verify(
    ledger: LedgerPath,
    report: Annotated[
        Path | None, typer.Option(help="A report.json, or its run folder, to compare with.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the chain of hashes, recompute ε, and compare it with a report; exit code 4 if anything fails."""
    opened = open_ledger(ledger)
    opened.verify()
    found: dict[str, Any] = {
        "population": opened.population,
        "epsilon": opened.epsilon_spent(),
        "epsilon_budget": opened.epsilon_budget,
        "delta": opened.target_delta,
        "head_hash": opened.head_hash(),
        "verified": True,
    }
    if report is not None:
        found["report_difference"] = compare_with_report(opened, report)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(
        f"ledger   holds: ε = {found['epsilon']:.6f} of {found['epsilon_budget']:g} at δ = {found['delta']:g}"
    )
    if report is not None:
        typer.echo(f"report   agrees: |difference| = {found['report_difference']:.1e}, at most {TOLERANCE:g}")
    typer.echo(f"head     {found['head_hash']}")


def open_ledger(path: Path) -> Ledger:
    """Open an existing ledger on its own terms, which are in the file.

    Raises:
        InputError: there is no such file.
        LedgerError: the file cannot be trusted.
    """
    from privacy.accounting.chain import ChainedLog
    from privacy.accounting.ledger import Ledger
    from privacy.errors import InputError, LedgerError

    if not path.is_file():
        raise InputError(f"{path}: there is no ledger here; give the file that a run or a client keeps")
    with ChainedLog(path, create=False).transaction() as transaction:
        openings = [row.body for row in transaction.rows if row.kind == "open"]
    if not openings:
        raise LedgerError(f"{path}: no budget was ever opened in this ledger")
    terms = openings[-1]
    return Ledger.open(
        path,
        population=terms["population"],
        epsilon_budget=terms["epsilon_budget"],
        target_delta=terms["target_delta"],
        create=False,
    )


def compare_with_report(ledger: Ledger, report: Path) -> float:
    """Compare a report's claims with what the ledger's events cost.

    Returns:
        The absolute difference of the two epsilons, at most ``TOLERANCE``.

    Raises:
        InputError: the report claims no epsilon (privacy was off, or it is no report).
        LedgerError: the report claims another epsilon, delta or a larger budget than the ledger holds.
    """
    from privacy.errors import InputError, LedgerError
    from server.report import read_report

    privacy = read_report(report).get("privacy") or {}
    claimed = privacy.get("epsilon")
    if privacy.get("mode") == "off" or claimed is None:
        raise InputError(
            f"{report}: claims no epsilon (privacy was off, or nothing was released); nothing to verify"
        )
    if privacy.get("delta") != ledger.target_delta:
        raise LedgerError(
            f"{report}: claims delta {privacy.get('delta')}, the ledger holds {ledger.target_delta}"
        )
    spent = ledger.epsilon_spent()
    difference = abs(float(claimed) - spent)
    if not difference <= TOLERANCE:
        raise LedgerError(f"{report}: claims epsilon {claimed}, the ledger's events cost {spent:.9g}")
    if not spent <= ledger.epsilon_budget:
        raise LedgerError(f"epsilon {spent:.9g} of the ledger exceeds its budget {ledger.epsilon_budget:g}")
    return difference


def ledger_statement(ledger: Ledger) -> dict[str, Any]:
    """Everything in a ledger as JSON values; equal neighbours (the rounds of one release) make one line."""
    from privacy.accounting.accountant import epsilon, gdp_mu

    spent: list[ReleaseEvent] = []
    releases: list[dict[str, Any]] = []
    for _, group in groupby(ledger.entries(), key=_release_of):
        entries = list(group)
        events = [entry.event for entry in entries]
        status = entries[0].status
        if status != "released":
            spent += events
        releases.append(
            {
                "name": _stem(entries[0]),
                "status": status,
                "epsilon_alone": _finite(epsilon(events, ledger.target_delta)),
                "epsilon_after": _finite(epsilon(spent, ledger.target_delta)),
                "noise_multiplier": events[0].noise_multiplier,
                "sampling_probability": events[0].sampling_probability,
                "steps": sum(event.count for event in events),
                "left_the_client": events[0].left_the_client,
                "first_at": entries[0].at,
                "last_at": entries[-1].at,
            }
        )
    total = ledger.epsilon_spent()
    return {
        "population": ledger.population,
        "epsilon": total,
        "epsilon_left_the_client": ledger.epsilon_spent(left_the_client_only=True),
        "epsilon_budget": ledger.epsilon_budget,
        "epsilon_left": max(0.0, ledger.epsilon_budget - total),
        "delta": ledger.target_delta,
        "gdp_mu": _finite(gdp_mu(spent)),
        "head_hash": ledger.head_hash(),
        "releases": releases,
    }


def _stem(entry: LedgerEntry) -> str:
    return entry.event.name.partition("/")[0]  # "gradients/7" is round 7 of "gradients"


def _release_of(entry: LedgerEntry) -> tuple[object, ...]:
    event = entry.event
    terms = event.noise_multiplier, event.sampling_probability, event.left_the_client
    return _stem(entry), entry.status, *terms


def _finite(value: float | None) -> float | None:
    # JSON has no infinity; a release without noise costs null.
    return value if value is not None and math.isfinite(value) else None


def _print_statement(statement: dict[str, Any]) -> None:
    from rich.console import Console

    from server.console import print_table
    from server.report_tables import Table, number

    rows: Sequence[dict[str, Any]] = statement["releases"]
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
        )
        for row in rows
    ]
    header = ("release", "ε alone", "ε after", "σ/C", "q", "steps", "left", "status")
    note = f"population {statement['population']!r}, δ = {statement['delta']:g}"
    console = Console(highlight=False)
    print_table(Table("Ledger", header, cells, note, frozenset({0, 6, 7})), console)
    console.print(
        f"\nspent  ε = {statement['epsilon']:.6f} of {statement['epsilon_budget']:g}, "
        f"{statement['epsilon_left']:.6f} left\n"
        f"       ε = {statement['epsilon_left_the_client']:.6f} for those outside the clients\n"
        f"head   {statement['head_hash']}"
    )
