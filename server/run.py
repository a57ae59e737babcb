"""One run from start to report: open the ledger, run the federation, write the run folder.

The run folder holds ``report.json``, ``report.md``, ``report.html``, ``item_tower.safetensors`` (tower, popularity and
transitions), ``ledger.sqlite``, ``catalogue.json`` and ``catalogue.sha256``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from privacy.accounting.accountant import epsilon as epsilon_of
from privacy.accounting.accountant import gdp_mu
from privacy.accounting.ledger import Ledger
from privacy.errors import BudgetExceeded, InputError, PolicyRefusal, ProtocolError
from privacy.secagg.keys import Roster
from privacy.secagg.roster_file import load_roster
from recsys_models.data.catalogue import Catalogue
from recsys_models.item_towers.text import content_vectors
from recsys_models.metrics.intervals import Estimate
from recsys_models.release_shapes import content_width
from server.federation import Federation, Watcher
from server.item_tower import tower_sha256
from server.ledger_statement import open_ledger
from server.plan import notices
from server.published import ARRAYS_FILE, CATALOGUE_FILE
from server.quality import Quality, random_quality
from server.report import write_report
from server.resume import resumed
from server.scenario import Scenario, load_scenario
from server.tower_start import make_start
from server.transport import Transport

Report = dict[str, Any]


def run(
    scenario: Scenario,
    transport: Transport,
    out: Path,
    *,
    roster: Roster | None,
    session: str,
    catalogue: Catalogue,
    watcher: Watcher,
    after_release: Callable[[str], None] = lambda _name: None,
    complete: Callable[[Report, Federation], None] = lambda _report, _federation: None,
) -> Report:
    """Run a federation and write its folder, whether it ends well or is refused.

    Args:
        scenario: what is asked for.
        transport: reaches the clients.
        out: run folder.
        roster: pinned identity keys, or None to pin those the clients enrol with.
        session: hex name of the run.
        catalogue: the items all clients hold.
        watcher: is told of progress.
        after_release: see ``Federation``.
        complete: adds to the report before it is written (simulations add lists and exact figures).

    Returns:
        The report.

    Raises:
        BudgetExceeded, PolicyRefusal, ProtocolError: after the folder was written with what there is; the report's
            ``refused`` holds the reason.
    """
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    start = make_start(scenario, catalogue, Path(scenario.ledger.path or out / "ledger.sqlite"))
    content = content_of(scenario, catalogue)
    ledger = open_run_ledger(scenario, out)
    federation = Federation(
        scenario,
        transport,
        ledger,
        roster,
        session=session,
        n_items=catalogue.n_items,
        catalogue_sha256=catalogue.sha256,
        watcher=watcher,
        after_release=after_release,
        start=start,
        content=content,
    )
    refusal: Exception | None = None
    try:
        federation.run()
    except (BudgetExceeded, PolicyRefusal, ProtocolError) as error:
        refusal = error
    report = make_report(federation, seconds=time.perf_counter() - started)
    if refusal is not None:
        report["refused"] = str(refusal)
    complete(report, federation)
    _write_folder(report, federation, catalogue, out)
    if refusal is not None:
        raise refusal
    return report


def content_of(scenario: Scenario, catalogue: Catalogue) -> NDArray[np.float32] | None:
    """Public content vectors ``[n_items, F]``: a channel, what towers are filled from and maps are trained of.

    Raises:
        InputError: a map is asked for and the catalogue says nothing about any item.
        DataError: pretrained vectors are asked for and not installed.
    """
    tower = scenario.model.item_tower
    if tower == "ids" and scenario.model.content == "off":
        return None
    width = content_width(catalogue.n_items)
    content = content_vectors(catalogue, width, method=scenario.model.text_method)
    if content.any():
        return content
    if tower != "ids":
        raise InputError(
            f"model.item_tower = {tower!r}, but the catalogue has neither titles nor texts nor attributes: use 'ids'"
        )
    return None


def open_run_ledger(scenario: Scenario, out: Path) -> Ledger:
    """The ledger a run is charged to: its population's, as the named deployment may use it, or one in its own folder.

    Raises:
        InputError: the population's ledger is not there, is kept at another delta, or the deployment has no slice.
        LedgerError: the ledger cannot be trusted.
    """
    asked = scenario.ledger
    if asked.path is None:
        ledger = Ledger.open(
            out / "ledger.sqlite",
            population=scenario.name,
            epsilon_budget=scenario.privacy.epsilon,
            target_delta=scenario.privacy.delta,
        )
    else:
        ledger = open_ledger(Path(asked.path))
        if ledger.target_delta != scenario.privacy.delta:
            raise InputError(
                f"{asked.path} is kept at delta {ledger.target_delta:g}, the scenario asks for "
                f"{scenario.privacy.delta:g}: set privacy.delta = {ledger.target_delta:g}"
            )
    return ledger.charging(deployment=asked.deployment, window=asked.window)


def make_report(federation: Federation, *, seconds: float) -> Report:
    """The run's facts as one JSON-serialisable object (docs/evaluation.md describes the keys)."""
    outcome, scenario = federation.outcome, federation.scenario
    report: Report = {
        "privacy": _privacy(federation),
        "left_the_client": {
            "user_encoder": 0,
            **{
                kind: federation.exchange.bytes_by_kind[kind]
                for kind in ("masked_update", "masked_metrics", "keys")
            },
        },
        "catalogue_sha256": federation.catalogue_sha256,
        "seed": scenario.seed,
        "clients": len(federation.plan.cohort) if federation.has_plan else 0,
        "users": federation.plan.settings["users"] if federation.has_plan else 0,
        "items": federation.n_items,
        "seconds": {**outcome.seconds, "total": round(seconds, 3)},
        "scenario": scenario.model_dump(mode="json", exclude_none=True),
        "series": _series(outcome.qualities),
        "dropouts": federation.exchange.dropouts,
        "chosen": outcome.chosen,
        "version": _version(),
    }
    compared = {name: quality for name, quality in outcome.qualities.items() if quality.compared}
    if compared:
        report["blend"] = [
            {
                "release": name,
                "chosen": quality.chosen,
                "began_with": quality.began_with,
                "recall@10": _estimates(quality.compared, quality.users),
            }
            for name, quality in compared.items()
        ]
    if outcome.clip_norms:
        report["clip_norms"] = outcome.clip_norms
    final = outcome.qualities.get("metrics-final")
    if final is not None:
        report["metrics"] = _estimates(final.model, final.users)
        report["baselines"] = {
            "popularity": _estimates(final.popularity, final.users),
            "random": _estimates(random_quality(final.users, federation.n_items, 0.0), final.users),
        }
    unused = notices(scenario, report["users"]) if federation.has_plan else []
    if unused:
        report["notices"] = unused
    if federation.start is not None:
        report["started_from"] = federation.start.provenance
    if outcome.detail is not None:
        report["detail"] = outcome.detail
    if "item_tower" in outcome.arrays:
        report["item_tower_sha256"] = tower_sha256(outcome.arrays["item_tower"])
    return report


def _privacy(federation: Federation) -> Report:
    scenario = federation.scenario
    facts: Report = {
        "mode": scenario.privacy.mode,
        "epsilon": None,
        # The population's, which may hold more than this run.
        "epsilon_budget": federation.ledger.epsilon_budget if scenario.private else None,
        "delta": scenario.privacy.delta,
        "unit": "user",
        "relation": "add/remove one user",
        "noise": federation.plan.noise if federation.has_plan and scenario.private else "none",
        "releases": [],
    }
    if not scenario.private:
        return facts
    spent: list[Any] = []
    for entry in federation.ledger.entries():
        if entry.status == "released":
            continue
        spent.append(entry.event)
        facts["releases"].append(
            {
                "name": entry.event.name,
                "epsilon_alone": epsilon_of([entry.event], scenario.privacy.delta),
                "epsilon_after": epsilon_of(spent, scenario.privacy.delta),
                "noise_multiplier": entry.event.noise_multiplier,
                "sampling_probability": entry.event.sampling_probability,
                "steps": entry.event.count,
                "left_the_client": entry.event.left_the_client,
            }
        )
    facts["epsilon"] = federation.ledger.epsilon_spent()
    facts["epsilon_outside"] = federation.ledger.epsilon_spent(left_the_client_only=True)
    facts["mu_gdp"] = gdp_mu(spent) if spent else 0.0
    if federation.has_plan:
        facts["assumed_colluding"] = federation.plan.colluding
        facts["threshold"] = federation.plan.threshold
        facts["protect_within_client"] = federation.plan.protect_within_client
    return facts


def _estimates(estimates: dict[str, Estimate], users: float) -> Report:
    return {name: _estimate(estimate, users) for name, estimate in estimates.items()}


def _estimate(estimate: Estimate, users: float) -> Report:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": round(users)}


def _series(qualities: dict[str, Quality]) -> list[Report]:
    return [
        {
            "round": index + 1,
            "release": name,
            "recall@10": _estimate(quality.model["recall@10"], quality.users),
        }
        for index, (name, quality) in enumerate(qualities.items())
    ]


def _version() -> str:
    try:
        return version("fedtower")
    except PackageNotFoundError:
        return "source tree"


def _write_folder(report: Report, federation: Federation, catalogue: Catalogue, out: Path) -> None:
    # The subspace rounds' basis was only the way to the tower.
    published = {name: array for name, array in federation.outcome.arrays.items() if name != "basis"}
    arrays = {name: np.ascontiguousarray(array) for name, array in published.items()}
    if arrays:
        aside = out / f"{ARRAYS_FILE}.part"
        # One key: safetensors writes several in an order of its own, and equal runs must give equal files.
        facts = {"catalogue_sha256": federation.catalogue_sha256, "chosen": federation.outcome.chosen}
        save_file(arrays, aside, metadata={"fedtower": json.dumps(facts, sort_keys=True)})
        aside.replace(out / ARRAYS_FILE)
    # Whose rows these are: a later run finds its items in it by id and by content (server.published).
    catalogue.save(out / CATALOGUE_FILE)
    (out / "catalogue.sha256").write_text(federation.catalogue_sha256 + "\n", encoding="ascii")
    write_report(report, out)


def run_federation(
    *, scenario_path: Path, out: Path, transport: Transport, resume: Path | None = None
) -> Report:
    """Entry of the Flower ServerApp: the scenario's folder holds ``catalogue.json`` and ``roster.json`` beside it.

    Args:
        scenario_path: TOML file.
        out: run folder.
        transport: reaches the clients.
        resume: folder of the run to go on from.

    Raises:
        InputError: a file is missing or wrong.
    """
    from server.console import RunProgress

    scenario = load_scenario(scenario_path)
    if resume is not None:
        scenario = resumed(resume, scenario)
    catalogue = Catalogue.load(scenario_path.parent / "catalogue.json")
    roster = load_roster(scenario_path.parent / "roster.json")
    with RunProgress(epsilon_budget=scenario.privacy.epsilon, privacy_off=not scenario.private) as watcher:
        return run(
            scenario,
            transport,
            out,
            roster=roster,
            session=session_name(scenario),
            catalogue=catalogue,
            watcher=watcher,
        )


def session_name(scenario: Scenario) -> str:
    """16 bytes as hex: from the operating system, or from the seed of a simulation."""
    if scenario.seed is None:
        return os.urandom(16).hex()
    import hashlib

    later = f" run {scenario.resume.number}" if scenario.resume.number > 1 else ""
    return hashlib.sha256(f"session {scenario.seed}{later}".encode()).hexdigest()[:32]


def require_empty(out: Path) -> None:
    """Refuse a run folder that already holds a run: its ledger would be continued by accident.

    Raises:
        InputError: names the folder.
    """
    if any((out / name).exists() for name in ("ledger.sqlite", "report.json")):
        raise InputError(f"{out} already holds a run's ledger: choose another --out, or remove the folder")
