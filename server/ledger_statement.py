"""What a ledger says, as JSON values; nothing but the file is asked.

ε is recomputed from the events in it, by two accountants.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from privacy.accounting.accountant import epsilon, gdp_mu
from privacy.accounting.chain import ChainedLog
from privacy.accounting.events import ReleaseEvent
from privacy.accounting.ledger import Ledger, LedgerEntry
from privacy.accounting.ledger_rows import moment_of, text_of
from privacy.errors import InputError, LedgerError
from server.report import read_report

# A report's ε may differ from the recomputed one by this much, for the digits of its JSON text.
TOLERANCE = 1e-6


def open_ledger(path: Path) -> Ledger:
    """Open an existing ledger on its own terms, which are in the file.

    Raises:
        InputError: there is no such file.
        LedgerError: the file cannot be trusted.
    """
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
                "deployment": entries[0].deployment,
                "window": entries[0].window,
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
        "slices": [
            {
                "deployment": given.slice.deployment,
                "epsilon": given.slice.epsilon,
                "epsilon_spent": given.epsilon_spent,
                "expires": text_of(given.slice.expires),
                "status": given.status,
            }
            for given in ledger.slices()
        ],
        "closed_windows": ledger.closed_windows(),
    }


def _stem(entry: LedgerEntry) -> str:
    return entry.event.name.partition("/")[0]  # "gradients/7" is round 7 of "gradients"


def _release_of(entry: LedgerEntry) -> tuple[object, ...]:
    event = entry.event
    terms = event.noise_multiplier, event.sampling_probability, event.left_the_client
    return _stem(entry), entry.status, entry.deployment, entry.window, *terms


def _finite(value: float | None) -> float | None:
    # JSON has no infinity; a release without noise costs null.
    return value if value is not None and math.isfinite(value) else None


def end_of(text: str) -> datetime:
    """The first moment after a day (UTC), or the time that is given with its zone.

    Raises:
        InputError: it is neither.
    """
    try:
        return datetime.combine(date.fromisoformat(text), time(0), UTC) + timedelta(days=1)
    except ValueError:
        return moment_of(text)
