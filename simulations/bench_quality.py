"""One table: the federation at several budgets, beside every baseline, on the same users and targets.

Figures are exact (only a simulation can know them); the epsilon of a row covers everything the run released, its metrics
included. Where clients fit without noise at the end, after which nothing may be released, the figures are of what they serve
then. Finished runs are kept in a folder, so a bench that was interrupted goes on where it stopped; each names the code that
made it, because a table may be finished by a later version than began it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from privacy.errors import InputError
from recsys_models.data.adapters import load
from recsys_models.data.dataset import Dataset
from server.certificate import code_version
from server.federation import Watcher
from server.scenario import Scenario, override
from simulations.central_rows import DP_POPULARITY, baseline_rows, plain_method, private_rows
from simulations.protocols import LABELS, Protocol
from simulations.run import simulate
from simulations.synthetic import synthetic_log
from simulations.twin_rows import twin_rows

Result = dict[str, Any]
FOLDERS = ("ml-100k", "ml-1m", "amazon-beauty")
BUILT_IN = "built-in"
METRICS = ("recall@10", "recall@20", "ndcg@10")
FEDERATION = "fedtower"
UNPROTECTED = "fedtower, unprotected within clients"
"""With ``protect_within_client = false``: of what clients serve after their fit without noise."""
_CODE_FILE = "code.sha256"
_FEDERATED_PROTOCOLS = ("last-out", "time")
"""Sampled negatives and a random share are judged centrally only; docs/evaluation.md says why."""
# What issue after issue is judged by: least means by data set and epsilon. Whatever the data set, a run with privacy must
# besides not fall below popularity at its budget.
REACH: dict[tuple[str, float], dict[str, float]] = {
    ("ml-100k", math.inf): {"recall@10": 0.19},
    ("ml-100k", 8.0): {"recall@10": 0.12},
    ("ml-1m", math.inf): {"recall@10": 0.27, "ndcg@10": 0.155},
    ("amazon-beauty", math.inf): {"recall@10": 0.075},
}
REACH_UNPROTECTED: dict[tuple[str, float], dict[str, float]] = {
    ("ml-1m", 8.0): {"recall@10": 0.20},
    ("ml-1m", 4.0): {"recall@10": 0.16},
    ("ml-1m", 1.0): {"recall@10": 0.10},
}
"""Of the rows :data:`UNPROTECTED`."""
FEDERATION_COST = 0.03
"""Most that a federation without privacy may lose against the centralised twin of its encoder, as a share."""


def run(
    dataset: str,
    epsilons: Sequence[float],
    seeds: int,
    *,
    scenario: Scenario,
    folder: Path,
    watcher: Watcher,
    baselines: bool = True,
    also_unprotected: bool = False,
    protocol: str = "last-out",
    twins: Sequence[str] = (),
    say: Callable[[str], None] = lambda _line: None,
) -> Result:
    """Measure a data set.

    Args:
        dataset: ``built-in``, a known name (``ml-100k``, ``ml-1m``, ``amazon-beauty``) or a path.
        epsilons: budgets; ``inf`` is privacy off.
        seeds: 1, 2, ... up to this many for each budget.
        scenario: everything else.
        folder: where finished runs are kept.
        watcher: is told of progress.
        baselines: also the central baselines, without privacy and with it at each budget.
        also_unprotected: a second row at each finite budget, with users of one client not protected from each other.
        protocol: one of :data:`simulations.protocols.PROTOCOLS`; the federation runs under the first two.
        twins: encoders to train centrally as well, or ``all``; at the federation's size, from as many seeds.
        say: one line after each run.

    Returns:
        ``rows`` (one a method and budget: means over seeds, spread, epsilon), ``runs``, ``shortfalls``, ``other_code`` (how
        many runs were kept from other code than this) and ``ok``.
    """
    data = find_dataset(dataset, scenario)
    under = Protocol(data, protocol)
    kept = folder / data.name
    rows: list[Result] = []
    if baselines:
        rows += baseline_rows(under, kept, say)
        rows += private_rows(under, epsilons, kept, say)
    size = scenario.encoder_size
    rows += twin_rows(under, twins, kept, say, size=size, length=scenario.model.max_length, seeds=seeds)
    runs: list[Result] = []
    federated = protocol in _FEDERATED_PROTOCOLS
    if federated and protocol != scenario.simulation.protocol:
        scenario = override(scenario, {"simulation.protocol": protocol})
    for epsilon in epsilons if federated else ():
        for protects in _protections(scenario, epsilon, also_unprotected):
            chosen = override(scenario, {"privacy.protect_within_client": protects})
            finished = [
                measured_run(chosen, epsilon, seed, data, kept, watcher, say) for seed in range(1, seeds + 1)
            ]
            runs += finished
            rows.append(federated_row(epsilon, finished))
    missed = shortfalls(data.name, rows, twin=scenario.encoder) if protocol == "last-out" else []
    code = code_version()["sha256"]
    return {
        "dataset": data.summary(),
        "protocol": protocol,
        "evaluated_users": under.users,
        "metrics": list(under.metrics),
        "split_checksum": under.checksum,
        "clients": scenario.simulation.clients,
        "encoder": f"{scenario.encoder}, {size.dim} wide, {size.blocks} deep",
        "rows": rows,
        "runs": runs,
        "other_code": sum(one["code"] != code for one in runs),
        "shortfalls": missed,
        "ok": not missed,
    }


def _protections(scenario: Scenario, epsilon: float, also_unprotected: bool) -> tuple[bool, ...]:
    # Without privacy nobody is protected from anybody, whatever the scenario says.
    asked = scenario.privacy.protect_within_client
    return (True, False) if also_unprotected and math.isfinite(epsilon) else (asked,)


def find_dataset(name: str, scenario: Scenario) -> Dataset:
    """Load a data set by name or path; the built-in log is the one of seed 0, whatever the runs' seeds.

    Raises:
        InputError: a known name whose folder is absent.
    """
    if name == BUILT_IN:
        return synthetic_log(scenario.simulation.users, scenario.simulation.items, seed=0)
    path = Path(name)
    if name in FOLDERS:
        path = Path(os.environ.get("FEDTOWER_DATA", "../shared/data")) / name
        if not path.is_dir():
            raise InputError(
                f"no folder {path} for data set {name!r}: set FEDTOWER_DATA to the folder that holds it"
            )
    return load(path)


def measured_run(
    scenario: Scenario,
    epsilon: float,
    seed: int,
    data: Dataset | None,
    folder: Path,
    watcher: Watcher,
    say: Callable[[str], None],
) -> Result:
    """One run's exact figures, from its kept folder if it was finished before.

    Args:
        scenario: everything but budget and seed.
        epsilon: budget; ``inf`` is privacy off.
        seed: of the run.
        data: whose users; None is the built-in log of the run's own seed.
        folder: where finished runs are kept.
        watcher: is told of progress.
        say: one line when the figures are there.
    """
    changes: Result = {"seed": seed}
    if math.isinf(epsilon):
        changes["privacy.mode"] = "off"
    else:
        changes["privacy.epsilon"] = epsilon
    chosen = override(scenario, changes)
    out = folder / f"{_digest(chosen)}-epsilon-{epsilon:g}-seed-{seed}"
    if not (out / "report.json").exists():
        # Aside until it is whole: a run folder that an interruption left is never taken for a finished run.
        unfinished = out.with_name(f"{out.name}.part")
        for remains in (unfinished, out):
            shutil.rmtree(remains, ignore_errors=True)
        simulate(chosen, unfinished, watcher, data=data)
        (unfinished / _CODE_FILE).write_text(code_version()["sha256"] + "\n", encoding="ascii")
        unfinished.replace(out)
    result = _figures(out, epsilon, seed)
    say(
        f"epsilon {epsilon:g} seed {seed}: recall@10 {result['recall@10']:.4f} in {result['seconds']:.0f} s"
        f"{'' if result['protect_within_client'] else ', unprotected within clients'}"
    )
    return result


def _figures(out: Path, epsilon: float, seed: int) -> Result:
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    simulation = report["simulation"]
    exact = simulation.get("exact_after_fit") or simulation["exact_metrics"]
    code = out / _CODE_FILE
    return {
        "epsilon": _json_number(epsilon),
        "epsilon_spent": report["privacy"]["epsilon"],
        "seed": seed,
        # Without privacy there is nothing to leave out.
        "protect_within_client": report["privacy"].get("protect_within_client", True),
        **{name: exact[name] for name in METRICS},
        "released recall@10": report["metrics"]["recall@10"]["value"],
        "popularity recall@10": exact["popularity recall@10"],
        "item_tower_sha256": report["item_tower_sha256"],
        "seconds": report["seconds"]["total"],
        "notices": report.get("notices", []),
        "code": code.read_text(encoding="ascii").strip() if code.exists() else "unknown",
    }


def _digest(scenario: Scenario) -> str:
    return hashlib.sha256(scenario.model_dump_json().encode()).hexdigest()[:8]


def federated_row(epsilon: float, runs: list[Result]) -> Result:
    """Means over the seeds of one budget."""
    recalls = np.array([r["recall@10"] for r in runs])
    protects = runs[0]["protect_within_client"]
    return {
        "method": FEDERATION if protects else UNPROTECTED,
        "protect_within_client": protects,
        "epsilon": _json_number(epsilon),
        "epsilon_spent": max(
            (r["epsilon_spent"] for r in runs if r["epsilon_spent"] is not None), default=None
        ),
        "seeds": len(runs),
        **{metric: float(np.mean([r[metric] for r in runs])) for metric in METRICS},
        "spread": float(recalls.max() - recalls.min()),
        "popularity recall@10": float(np.mean([r["popularity recall@10"] for r in runs])),
    }


def shortfalls(name: str, rows: Sequence[Result], *, twin: str = "") -> list[str]:
    """Figures of the federation below their reach, one line each: what, whose, at which budget, and the reach.

    Args:
        name: of the data set.
        rows: of the table.
        twin: the federation's encoder; where the table has its centralised twin, a federation without privacy is held to it.
    """
    private = {row["epsilon"]: row["recall@10"] for row in rows if row["method"] == DP_POPULARITY}
    twins = [row for row in rows if row["method"] == plain_method(twin)]
    missed: list[str] = []
    for row in rows:
        if row["method"] not in (FEDERATION, UNPROTECTED):
            continue
        epsilon = math.inf if row["epsilon"] == "inf" else float(row["epsilon"])
        whose = f"{row['method']} at epsilon {epsilon:g}"
        reaches = REACH if row["method"] == FEDERATION else REACH | REACH_UNPROTECTED
        missed += [
            f"{metric} {row[metric]:.4f} of {whose} is below {least}"
            for metric, least in reaches.get((name, epsilon), {}).items()
            if not row[metric] >= least
        ]
        missed += [
            f"{metric} {row[metric]:.4f} of {whose} is more than {FEDERATION_COST:.0%} below {central['method']}, "
            f"{central[metric]:.4f}"
            for central in twins
            for metric in ("recall@10", "ndcg@10")
            if math.isinf(epsilon) and not row[metric] >= (1.0 - FEDERATION_COST) * central[metric]
        ]
        popularity = max(row["popularity recall@10"], private.get(row["epsilon"], 0.0))
        if math.isfinite(epsilon) and not row["recall@10"] >= popularity:
            missed.append(
                f"recall@10 {row['recall@10']:.4f} of {whose} is below popularity with noise, {popularity:.4f}"
            )
    return missed


def _json_number(epsilon: float) -> float | str:
    return "inf" if math.isinf(epsilon) else float(epsilon)


def format_table(result: Result) -> str:
    """The table as text; the federation's rows last."""
    metrics: list[str] = result["metrics"]
    heads = "".join(f"{name.replace('ndcg', 'NDCG'):>11}" for name in metrics)
    lines = [
        f"{result['dataset']}, {result['clients']} clients ({result['encoder']}), {LABELS[result['protocol']]}, "
        f"{result['evaluated_users']} users judged, checksum {result['split_checksum'][:12]}",
        f"{'method':<46} {'epsilon':>8} {'seeds':>5}{heads}  spread",
    ]
    for row in result["rows"]:
        epsilon = "" if row["epsilon"] is None else str(row["epsilon"])
        spread = "" if row["spread"] is None else f"{row['spread']:.4f}"
        figures = "".join(f"{row[name]:>11.4f}" for name in metrics)
        lines.append(f"{row['method']:<46} {epsilon:>8} {row['seeds']:>5}{figures}  {spread}")
    return "\n".join([*lines, *footnotes(result)])


def footnotes(result: Result) -> list[str]:
    """What the runs did not use of what was asked for, once each, and whether some were kept from other code than this."""
    lines = list(dict.fromkeys(notice for one in result["runs"] for notice in one["notices"]))
    if result["other_code"]:
        lines.append(
            f"{result['other_code']} of {len(result['runs'])} runs were kept from other code than this: "
            "give another --out to measure them anew"
        )
    return lines
