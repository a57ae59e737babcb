"""A privacy certificate: what a ledger proves, and what it does not, in one machine-readable object.

Its parts follow NIST SP 800-226, "Guidelines for Evaluating Differential Privacy Guarantees" (2025): the guarantee with
its unit and relation, the mechanism, the trust model, the accounting, and the hazards that no epsilon covers. What only a
person can answer is listed as such, empty.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from privacy.accounting.accountant import cross_check, epsilon, epsilon_second_opinion, gdp_mu
from privacy.accounting.events import ReleaseEvent, seen_outside
from privacy.accounting.ledger import Ledger, LedgerEntry
from privacy.errors import InputError
from server.ledger_statement import compare_with_report, ledger_statement, open_ledger
from server.report import read_report

FORMAT = 1
PACKAGES = ("client", "server", "recsys_models", "privacy", "simulations")

OUTSIDE = (
    "A user's own recommendations are made from her own log and are not hidden from her.",
    "Who takes part, when, and how many bytes a client sends are visible to the server.",
    "The number of a client's users is told to the server, rounded down to two digits (exact below 100).",
    "The item catalogue is public to the federation.",
    "A person with logs at several clients counts as several users; her losses compose.",
    "Settings that were chosen by looking at other results on the same logs.",
    "Timing and other side channels of the client's machine, and programs that run on it.",
    "A roll-back of a ledger together with its counter: keep this certificate's head hash elsewhere.",
)
FOR_A_PERSON = (
    "purpose and legal basis",
    "why one user's log at one client is the right unit",
    "why this epsilon is acceptable",
    "who collects and keeps the logs, and for how long",
    "whom users can ask",
)


def certificate(source: Path) -> dict[str, Any]:
    """State what a run's or a client's ledger proves.

    Args:
        source: a run folder, whose report must then agree with its ledger, or a ledger file.

    Returns:
        JSON values; the same ledger, report and code give the same object.

    Raises:
        InputError: there is no ledger, it holds no release, or privacy was off.
        LedgerError: the ledger cannot be trusted, or the report claims something else.
    """
    report = read_report(source) if source.is_dir() and (source / "report.json").is_file() else None
    path = _ledger_of(source, report)
    ledger = open_ledger(path)
    if report is not None:
        compare_with_report(ledger, source)
    counted = [entry for entry in ledger.entries() if entry.status != "released"]
    if not counted:
        raise InputError(f"{path}: nothing was released, so there is nothing to certify")
    events = [entry.event for entry in counted]
    statement = ledger_statement(ledger)
    return {
        "kind": "privacy certificate",
        "format": FORMAT,
        "shape": "NIST SP 800-226 (2025)",
        "population": ledger.population,
        "as_of": max(entry.at for entry in counted),
        # None: the ledger is older than the record of it.
        "protects": {"system": True, "simulated": False}.get(_randomness(counted)),
        "guarantee": _guarantee(ledger, events),
        "mechanism": _mechanism(counted),
        "trust_model": _trust_model(events, ledger.target_delta, report),
        "accounting": _accounting(events, ledger.target_delta),
        "releases": [_release(entry, ledger.target_delta) for entry in counted],
        "slices": statement["slices"],
        "closed_windows": statement["closed_windows"],
        "left_the_client_bytes": None if report is None else report.get("left_the_client"),
        # Earlier releases that the tower was started from; their cost is in epsilon only where they are in this ledger.
        "stands_on": None if report is None else report.get("started_from"),
        "outside": list(OUTSIDE),
        "for_a_person_to_add": dict.fromkeys(FOR_A_PERSON, ""),
        "ledger": {"head_hash": statement["head_hash"], "verified": True},
        "code": code_version(),
    }


def _ledger_of(source: Path, report: dict[str, Any] | None) -> Path:
    """A run's ledger lies in its folder, or where its scenario says."""
    if not source.is_dir():
        return source
    scenario = (report or {}).get("scenario") or {}
    return Path((scenario.get("ledger") or {}).get("path") or source / "ledger.sqlite")


def code_version(home: Path | None = None) -> dict[str, str]:
    """The installed version, and one SHA-256 over every Python file of the five packages (path and content)."""
    home = home or Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for file in sorted(file for package in PACKAGES for file in (home / package).rglob("*.py")):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(home).as_posix()} {content}\n".encode())
    try:
        number = version("fedtower")
    except PackageNotFoundError:
        number = "source tree"
    return {"version": number, "sha256": digest.hexdigest()}


def _guarantee(ledger: Ledger, events: list[ReleaseEvent]) -> dict[str, Any]:
    return {
        "definition": "(epsilon, delta)-differential privacy of everything the ledger holds, together",
        "unit": "one user's whole log at one client",
        "relation": "add or remove one user",
        "epsilon": ledger.epsilon_spent(),
        "delta": ledger.target_delta,
        "epsilon_outside_the_clients": ledger.epsilon_spent(left_the_client_only=True),
        "epsilon_budget": ledger.epsilon_budget,
        # None where users were sampled: there is then no exact mu.
        "gdp_mu": gdp_mu(events),
    }


def _mechanism(counted: list[LedgerEntry]) -> dict[str, Any]:
    return {
        "name": "discrete Gaussian on a sum over users",
        "accounted_as": "Gaussian of the same scale",
        "bound": "each user's contribution is clipped in L2 and truncated to a grid; the bound holds in integers",
        "randomness": _randomness(counted),
    }


def _randomness(counted: list[LedgerEntry]) -> str:
    """One word for all: "system", or "simulated" as soon as one release was: the weakest counts."""
    kinds = {str(entry.event.detail.get("randomness", "not recorded")) for entry in counted}
    return next(kind for kind in ("simulated", "not recorded", "system") if kind in kinds)


def _trust_model(events: list[ReleaseEvent], delta: float, report: dict[str, Any] | None) -> dict[str, Any]:
    outside = seen_outside(events)
    privacy = {} if report is None else report.get("privacy") or {}
    own_view = own_view_epsilon(outside, delta)
    is_shared = any(_shares(event) not in (None, 1) for event in outside)
    return {
        "noise": "distributed" if is_shared else "per_client",
        "sum": "the server and the other clients see sums over clients only (secure aggregation)",
        "epsilon_of_the_sums": epsilon(outside, delta),
        "epsilon_of_one_clients_uploads_if_secure_aggregation_failed": own_view,
        "assumptions": [
            "X25519, Ed25519, HKDF-SHA256, AES-256-CTR and ChaCha20-Poly1305 hold",
            "client keys were pinned over an honest channel",
            *(["enough clients are honest and add their share of the noise"] if is_shared else []),
        ],
        "assumed_colluding": privacy.get("assumed_colluding"),
        "survivors_required": privacy.get("threshold"),
        "protect_within_client": privacy.get("protect_within_client"),
    }


def own_view_epsilon(events: list[ReleaseEvent], delta: float) -> float | None:
    """What one client's uploads would cost if their masks were opened: only its own share of the noise is in them.

    Returns:
        None if the ledger does not say how the noise was shared, or nothing bounds it.
    """
    shares = [_shares(event) for event in events]
    if any(count is None for count in shares):
        return None
    alone = [
        replace(event, noise_multiplier=event.noise_multiplier / math.sqrt(count or 1))
        for event, count in zip(events, shares, strict=True)
    ]
    value = epsilon(alone, delta)
    return value if math.isfinite(value) else None


def _shares(event: ReleaseEvent) -> int | None:
    count = event.detail.get("noise_shares")
    return count if isinstance(count, int) else None


def _accounting(events: list[ReleaseEvent], delta: float) -> dict[str, Any]:
    is_sampled = any(event.sampling_probability < 1.0 for event in events)
    return {
        "accountant": f"privacy loss distributions, dp_accounting {version('dp_accounting')}",
        "epsilon": cross_check(events, delta),
        "second_opinion": {
            "method": "Rényi upper bound" if is_sampled else "analytic Gaussian (Balle and Wang 2018)",
            "epsilon": epsilon_second_opinion(events, delta),
        },
        "composition": "every release since the ledger was opened, reserved ones included",
    }


def _release(entry: LedgerEntry, delta: float) -> dict[str, Any]:
    event = entry.event
    alone = epsilon([event], delta)
    return {
        "name": event.name,
        "status": entry.status,
        "at": entry.at,
        "deployment": entry.deployment,
        "window": entry.window,
        "epsilon_alone": alone if math.isfinite(alone) else None,
        "noise_multiplier": event.noise_multiplier,
        "sampling_probability": event.sampling_probability,
        "sampling": "everybody"
        if event.sampling_probability == 1.0
        else f"Poisson, each user with probability {event.sampling_probability:g}, drawn by the client",
        "steps": event.count,
        "left_the_client": event.left_the_client,
        **event.detail,
    }
