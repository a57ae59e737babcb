"""One table: the federation at several budgets, beside every baseline, on the same users and targets.

Figures are exact (only a simulation can know them); the epsilon of a row covers everything the run released, its metrics
included. Where clients fit without noise at the end, after which nothing may be released, the figures are of what they serve
then. Finished runs are kept in a folder, so a bench that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from privacy.errors import InputError
from recsys_models.data.adapters import load
from recsys_models.data.dataset import Dataset
from server.federation import Watcher
from server.scenario import Scenario, override
from simulations.central_rows import baseline_rows, private_rows, twin_rows
from simulations.protocols import LABELS, Protocol
from simulations.run import simulate
from simulations.synthetic import synthetic_log

Result = dict[str, Any]
FOLDERS = ("ml-100k", "ml-1m", "amazon-beauty")
BUILT_IN = "built-in"
METRICS = ("recall@10", "recall@20", "ndcg@10")
_FEDERATED_PROTOCOLS = ("last-out", "time")
"""Sampled negatives and a random share are judged centrally only; docs/evaluation.md says why."""
# What issue after issue is judged by: least mean recall@10 by data set and epsilon.
REACH: dict[tuple[str, float], float] = {
    ("ml-100k", math.inf): 0.19,
    ("ml-100k", 8.0): 0.12,
    ("ml-1m", math.inf): 0.27,
    ("amazon-beauty", math.inf): 0.075,
}
REACH_UNPROTECTED: dict[tuple[str, float], float] = {
    ("ml-1m", 8.0): 0.20,
    ("ml-1m", 4.0): 0.16,
    ("ml-1m", 1.0): 0.10,
}
"""With ``protect_within_client = false``: of what clients serve after their fit without noise."""


def run(
    dataset: str,
    epsilons: Sequence[float],
    seeds: int,
    *,
    scenario: Scenario,
    folder: Path,
    watcher: Watcher,
    baselines: bool = True,
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
        protocol: one of :data:`simulations.protocols.PROTOCOLS`; the federation runs under the first two.
        twins: encoders to train centrally as well, or ``all``.
        say: one line after each run.

    Returns:
        ``rows`` (one a method and budget: means over seeds, spread, epsilon), ``runs``, ``shortfalls`` and ``ok``.
    """
    path, data = find_dataset(dataset, scenario)
    under = Protocol(data, protocol)
    kept = folder / data.name
    rows: list[Result] = []
    if baselines:
        rows += baseline_rows(under, kept, say)
        rows += private_rows(under, epsilons, kept, say)
    rows += twin_rows(under, twins, kept, say)
    runs: list[Result] = []
    federated = protocol in _FEDERATED_PROTOCOLS
    if federated and protocol != scenario.simulation.protocol:
        scenario = override(scenario, {"simulation.protocol": protocol})
    for epsilon in epsilons if federated else ():
        finished = [
            _one_run(scenario, epsilon, seed, path, kept, watcher, say) for seed in range(1, seeds + 1)
        ]
        runs += finished
        rows.append(_federated_row(epsilon, finished))
    missed = (
        shortfalls(data.name, rows, protects=scenario.privacy.protect_within_client)
        if protocol == "last-out"
        else []
    )
    return {
        "dataset": data.summary(),
        "protocol": protocol,
        "evaluated_users": under.users,
        "metrics": list(under.metrics),
        "split_checksum": under.checksum,
        "clients": scenario.simulation.clients,
        "rows": rows,
        "runs": runs,
        "shortfalls": missed,
        "ok": not missed,
    }


def find_dataset(name: str, scenario: Scenario) -> tuple[Path | None, Dataset]:
    """Load a data set by name or path; the path is None for the built-in log.

    Raises:
        InputError: a known name whose folder is absent.
    """
    if name == BUILT_IN:
        return None, synthetic_log(scenario.simulation.users, scenario.simulation.items, seed=0)
    path = Path(name)
    if name in FOLDERS:
        path = Path(os.environ.get("FEDTOWER_DATA", "../shared/data")) / name
        if not path.is_dir():
            raise InputError(
                f"no folder {path} for data set {name!r}: set FEDTOWER_DATA to the folder that holds it"
            )
    return path, load(path)


def _one_run(
    scenario: Scenario,
    epsilon: float,
    seed: int,
    path: Path | None,
    folder: Path,
    watcher: Watcher,
    say: Callable[[str], None],
) -> Result:
    changes: Result = {"seed": seed}
    if math.isinf(epsilon):
        changes["privacy.mode"] = "off"
    else:
        changes["privacy.epsilon"] = epsilon
    chosen = override(scenario, changes)
    out = folder / f"{_digest(chosen)}-epsilon-{epsilon:g}-seed-{seed}"
    if (out / "report.json").exists():
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    else:
        report = simulate(chosen, out, watcher, data=path)
    simulation = report["simulation"]
    exact = simulation.get("exact_after_fit") or simulation["exact_metrics"]
    spent = report["privacy"]["epsilon"]
    result = {
        "epsilon": _json_number(epsilon),
        "epsilon_spent": spent,
        "seed": seed,
        **{name: exact[name] for name in METRICS},
        "released recall@10": report["metrics"]["recall@10"]["value"],
        "popularity recall@10": exact["popularity recall@10"],
        "seconds": report["seconds"]["total"],
    }
    say(f"epsilon {epsilon:g} seed {seed}: recall@10 {exact['recall@10']:.4f} in {result['seconds']:.0f} s")
    return result


def _digest(scenario: Scenario) -> str:
    import hashlib

    return hashlib.sha256(scenario.model_dump_json().encode()).hexdigest()[:8]


def _federated_row(epsilon: float, runs: list[Result]) -> Result:
    recalls = np.array([r["recall@10"] for r in runs])
    return {
        "method": "fedtower",
        "epsilon": _json_number(epsilon),
        "epsilon_spent": max(
            (r["epsilon_spent"] for r in runs if r["epsilon_spent"] is not None), default=None
        ),
        "seeds": len(runs),
        **{metric: float(np.mean([r[metric] for r in runs])) for metric in METRICS},
        "spread": float(recalls.max() - recalls.min()),
        "popularity recall@10": float(np.mean([r["popularity recall@10"] for r in runs])),
    }


def shortfalls(name: str, rows: Sequence[Result], *, protects: bool = True) -> list[str]:
    """Rows below their reach, one line each."""
    missed: list[str] = []
    for row in rows:
        if row["method"] != "fedtower":
            continue
        epsilon = math.inf if row["epsilon"] == "inf" else float(row["epsilon"])
        reach = (REACH if protects else REACH | REACH_UNPROTECTED).get((name, epsilon))
        if reach is not None and row["recall@10"] < reach:
            missed.append(f"recall@10 {row['recall@10']:.4f} at epsilon {epsilon:g} is below {reach}")
    return missed


def _json_number(epsilon: float) -> float | str:
    return "inf" if math.isinf(epsilon) else float(epsilon)


def format_table(result: Result) -> str:
    """The table as text; the federation's rows last."""
    metrics: list[str] = result["metrics"]
    heads = "".join(f"{name.replace('ndcg', 'NDCG'):>11}" for name in metrics)
    lines = [
        f"{result['dataset']}, {result['clients']} clients, {LABELS[result['protocol']]}, "
        f"{result['evaluated_users']} users judged, checksum {result['split_checksum'][:12]}",
        f"{'method':<36} {'epsilon':>8} {'seeds':>5}{heads}  spread",
    ]
    for row in result["rows"]:
        epsilon = "" if row["epsilon"] is None else str(row["epsilon"])
        spread = "" if row["spread"] is None else f"{row['spread']:.4f}"
        figures = "".join(f"{row[name]:>11.4f}" for name in metrics)
        lines.append(f"{row['method']:<36} {epsilon:>8} {row['seeds']:>5}{figures}  {spread}")
    return "\n".join(lines)


def draw(result: Result, path: Path) -> None:
    """Recall against epsilon, the baselines as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for method in dict.fromkeys(row["method"] for row in result["rows"] if row["epsilon"] is not None):
        points = [row for row in result["rows"] if row["method"] == method]
        ours = method == "fedtower"
        axes.plot(
            [str(row["epsilon"]) for row in points],
            [row["recall@10"] for row in points],
            marker="o" if ours else ".",
            linewidth=2 if ours else 1,
            label=method,
        )
    for row in result["rows"]:
        if row["epsilon"] is None:
            axes.axhline(row["recall@10"], linestyle=":", linewidth=1, color="0.5")
            name = row["method"].split(" (")[0]
            axes.annotate(name, (0, row["recall@10"]), fontsize=7, color="0.35", va="bottom")
    axes.set(xlabel="ε of everything released", ylabel="recall@10", title=result["dataset"])
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
