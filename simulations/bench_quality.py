"""One table: the federation at several budgets, beside every baseline, on the same users and targets.

Figures are exact (only a simulation can know them); the epsilon of a row covers everything the run released, its metrics
included. Finished runs are kept in a folder, so a bench that was interrupted goes on where it stopped.
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
from recsys_models.baselines import EASE, ImplicitALS, ItemKNN, Popularity, RandomRanking, TransitionCounts
from recsys_models.data.adapters import load
from recsys_models.data.dataset import Dataset
from recsys_models.data.splits import leave_last_out
from recsys_models.evaluation import Scorer, evaluate
from server.federation import Watcher
from server.scenario import Scenario, override
from simulations.run import simulate
from simulations.synthetic import synthetic_log

Result = dict[str, Any]
FOLDERS = ("ml-100k", "ml-1m", "amazon-beauty")
BUILT_IN = "built-in"
METRICS = ("recall@10", "recall@20", "ndcg@10")
_SOURCE = {"recall@10": "hit@10", "recall@20": "hit@20", "ndcg@10": "ndcg@10"}
# Dense item-item baselines need items x items floats, several times over.
_MOST_ITEMS_DENSE = 6000
# What issue after issue is judged by: least mean recall@10 by data set and epsilon.
REACH: dict[tuple[str, float], float] = {("ml-100k", math.inf): 0.12, ("ml-100k", 8.0): 0.10}


def run(
    dataset: str,
    epsilons: Sequence[float],
    seeds: int,
    *,
    scenario: Scenario,
    folder: Path,
    watcher: Watcher,
    baselines: bool = True,
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
        baselines: also the centralised, non-private baselines.
        say: one line after each run.

    Returns:
        ``rows`` (one a method and budget: means over seeds, spread, epsilon), ``runs``, ``shortfalls`` and ``ok``.
    """
    path, data = find_dataset(dataset, scenario)
    rows = [_baseline_row(name, scorer, data) for name, scorer in _baselines(data)] if baselines else []
    runs: list[Result] = []
    for epsilon in epsilons:
        finished = [
            _one_run(scenario, epsilon, seed, path, folder / data.name, watcher, say)
            for seed in range(1, seeds + 1)
        ]
        runs += finished
        rows.append(_federated_row(epsilon, finished))
    missed = shortfalls(data.name, rows)
    return {
        "dataset": data.summary(),
        "split_checksum": data.split_checksum,
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
    exact = report["simulation"]["exact_metrics"]
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


def _baselines(data: Dataset) -> list[tuple[str, Callable[[], Scorer]]]:
    train = leave_last_out(data.sequences).train
    found: list[tuple[str, Callable[[], Scorer]]] = [
        ("random", lambda: RandomRanking(data.catalogue.n_items)),
        ("popularity", lambda: Popularity(train)),
    ]
    if data.catalogue.n_items <= _MOST_ITEMS_DENSE:
        found += [
            ("item-kNN, recency", lambda: ItemKNN(train)),
            ("EASE", lambda: EASE(train)),
            ("EASE, recency", lambda: EASE(train, decay=0.9)),
            ("transition counts", lambda: TransitionCounts(train)),
        ]
    found.append(("iALS", lambda: ImplicitALS(train, dim=64, unobserved_weight=0.3, l2=0.01)))
    return found


def _baseline_row(name: str, build: Callable[[], Scorer], data: Dataset) -> Result:
    split = leave_last_out(data.sequences)
    means = evaluate(build(), split.history("test"), split.target("test")).means()
    return {
        "method": f"{name} (central, no privacy)",
        "epsilon": None,
        "seeds": 1,
        **{metric: means[_SOURCE[metric]] for metric in METRICS},
        "spread": None,
    }


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


def shortfalls(name: str, rows: Sequence[Result]) -> list[str]:
    """Rows below their reach, one line each."""
    missed: list[str] = []
    for row in rows:
        if row["method"] != "fedtower":
            continue
        epsilon = math.inf if row["epsilon"] == "inf" else float(row["epsilon"])
        reach = REACH.get((name, epsilon))
        if reach is not None and row["recall@10"] < reach:
            missed.append(f"recall@10 {row['recall@10']:.4f} at epsilon {epsilon:g} is below {reach}")
    return missed


def _json_number(epsilon: float) -> float | str:
    return "inf" if math.isinf(epsilon) else float(epsilon)


def format_table(result: Result) -> str:
    """The table as text; the federation's rows last."""
    lines = [
        f"{result['dataset']}, {result['clients']} clients, full ranking, last item out",
        f"{'method':<36} {'epsilon':>8} {'seeds':>5} {'recall@10':>10} {'recall@20':>10} {'NDCG@10':>9}  spread",
    ]
    for row in result["rows"]:
        epsilon = "" if row["epsilon"] is None else str(row["epsilon"])
        spread = "" if row["spread"] is None else f"{row['spread']:.4f}"
        lines.append(
            f"{row['method']:<36} {epsilon:>8} {row['seeds']:>5} {row['recall@10']:>10.4f} {row['recall@20']:>10.4f} "
            f"{row['ndcg@10']:>9.4f}  {spread}"
        )
    return "\n".join(lines)


def draw(result: Result, path: Path) -> None:
    """Recall against epsilon, the baselines as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    points = [row for row in result["rows"] if row["method"] == "fedtower"]
    labels = [str(row["epsilon"]) for row in points]
    axes.plot(labels, [row["recall@10"] for row in points], marker="o", linewidth=2, label="fedtower")
    for row in result["rows"]:
        if row["method"] != "fedtower":
            axes.axhline(row["recall@10"], linestyle=":", linewidth=1, color="0.5")
            axes.annotate(
                row["method"].split(" (")[0], (0, row["recall@10"]), fontsize=7, color="0.35", va="bottom"
            )
    axes.set(xlabel="ε of everything released", ylabel="recall@10", title=result["dataset"])
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
