"""Predicted ratings beside the bias baseline: each user's newest rating, from the ones before it.

One federation without privacy publishes an item tower; each client then fits ratings of its own users, as in a deployment
(``client.rating_fit``). The baseline is mean + item + user deviation, from the same ratings of the same client.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from client.rating_fit import rated_users
from privacy.errors import InputError
from recsys_models.data.dataset import Dataset
from server.scenario import Scenario, override
from simulations.audits.small_run import run_small
from simulations.bench_quality import find_dataset
from simulations.run import Simulation, build_simulation

Result = dict[str, Any]
METHODS = ("mean", "bias baseline", "rating head")


def run(dataset: str, *, scale: Sequence[float] = (1.0, 5.0), clients: int = 5, seed: int = 1) -> Result:
    """Measure on one data set.

    Args:
        dataset: a named one, or a path.
        scale: lowest and highest rating.
        clients: among how many its users are divided.
        seed: of division and fit.

    Returns:
        ``rows``: RMSE and MAE by method; ``gain``: mean squared error of the baseline less the head's, with its standard
        error over users; ``ok``: the head's RMSE is below the baseline's.

    Raises:
        InputError: the log has no ratings, or the federation stopped.
    """
    data = find_dataset(dataset, Scenario())
    if data.sequences.values is None:
        raise InputError(f"{data.name}: the log has no column 'value', so there is no rating to predict")
    scenario = override(
        Scenario(),
        {
            "seed": seed,
            "privacy.mode": "off",
            "recipe": "statistics",
            "encoder": "mean-pool",
            "fit.steps": 1,
            "evaluation.detail": "off",
            "simulation.clients": clients,
            "model.rating_scale": (float(scale[0]), float(scale[1])),
        },
    )
    errors = _errors(scenario, data, (float(scale[0]), float(scale[1])))
    rows = [
        {"method": name, "rmse": float(np.sqrt(np.mean(each**2))), "mae": float(np.mean(np.abs(each)))}
        for name, each in zip(METHODS, errors, strict=True)
    ]
    gain = errors[1] ** 2 - errors[2] ** 2
    return {
        "dataset": data.name,
        "users": int(errors.shape[1]),
        "rows": rows,
        "gain": {"value": float(gain.mean()), "standard_error": float(gain.std() / np.sqrt(len(gain)))},
        "ok": rows[2]["rmse"] < rows[1]["rmse"],
    }


def _errors(scenario: Scenario, data: Dataset, scale: tuple[float, float]) -> np.ndarray:
    """Prediction less rating, [methods, users]."""
    with tempfile.TemporaryDirectory() as folder:
        simulation: Simulation = build_simulation(scenario, data, Path(folder))
        stopped = run_small(scenario, simulation.clients, Path(folder), data.catalogue)
        if stopped:
            raise InputError(f"{data.name}: the federation stopped: {stopped}")
    found: list[list[float]] = []
    for client in simulation.clients.values():
        model, tower = client.model.rating, client.public.item_tower
        if model is None:
            continue
        before, everything = (rated_users(s, scale) for s in (client.log.before_test, client.log.sequences))
        for known, whole in zip(before, everything, strict=True):
            if len(whole.items) == len(known.items):
                continue  # too short a log to hold its newest rating out
            item, given = whole.items[-1:], whole.values[-1]
            bias, head = (float(model.predict(known, item, tower, by_bias=b)[0]) for b in (True, False))
            found.append([model.biases.mean - given, bias - given, head - given])
    return np.array(found).T


def format_table(result: Result) -> str:
    """The rows as text, then the gain."""
    lines = [f"{'method':<16}{'RMSE':>9}{'MAE':>9}"]
    lines += [f"{row['method']:<16}{row['rmse']:>9.4f}{row['mae']:>9.4f}" for row in result["rows"]]
    gain = result["gain"]
    lines.append(
        f"{result['dataset']}, newest rating of {result['users']:,} users: the head's mean squared error is "
        f"{gain['value']:.4f} ± {gain['standard_error']:.4f} below the bias baseline's"
    )
    return "\n".join(lines)
