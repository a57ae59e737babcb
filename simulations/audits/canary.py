"""Plants users in a release and asks whether what was released tells who was there.

The worst case of the threat model, which epsilon is stated for: the attacker knows every log but the coin that planted
each canary. ``--release`` says what is attacked (``canary_statistics``, ``canary_gradients``); two views of it:

* ``as accounted``: colluding clients have subtracted their noise and the others have dropped out, so that only the
  shares that are guaranteed remain. Here the claim should be met almost exactly.
* ``as released``: everybody survived, so there is more noise than was accounted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from server.scenario import Scenario
from simulations.audits.canary_gradients import plant_in_gradients
from simulations.audits.canary_scores import Canaries
from simulations.audits.canary_statistics import plant_in_statistics
from simulations.audits.one_run import gaussian_fit, guesses_right, one_run_lower_bound

ReleaseName = Literal["statistics", "gradients"]

_GUESSED_SHARE = 8  # of the canaries, one in this many is guessed: the surest ones


PLANT: dict[ReleaseName, Callable[..., Canaries]] = {
    "statistics": plant_in_statistics,
    "gradients": plant_in_gradients,
}


def run(
    scenario: Scenario,
    *,
    release: ReleaseName = "statistics",
    epsilons: Sequence[float] = (1.0, 8.0),
    canaries: int = 600,
    releases: int = 8,
    items: int = 300,
    seed: int = 0,
) -> dict[str, Any]:
    """Plant canaries in a release that claims epsilon on its own.

    Args:
        scenario: the configuration; its delta, clients, noise placement and the release's own settings are used.
        release: where they are planted.
        epsilons: claims to be tried.
        canaries: planted by a fair coin each.
        releases: repetitions, each with fresh coins and noise: for the estimate. The lower bound uses the first alone.
        items: of the catalogue.
        seed: of canaries, coins and noise.

    Returns:
        ``rows``: per claim and view the estimate and the lower bound. ``findings``: estimates above the claim by more than
        four standard errors, and lower bounds above it. ``ok``: none.
    """
    rows: list[dict[str, Any]] = []
    for epsilon in epsilons:
        planted = PLANT[release](scenario, epsilon=epsilon, canaries=canaries, items=items, seed=seed)
        views = planted.release.carriers
        rows += [_attack(planted, epsilon, view, releases, seed) for view in views]
    findings = [finding for row in rows for finding in row.pop("findings")]
    return {
        "release": release,
        "rows": rows,
        "canaries": canaries,
        "releases": releases,
        "delta": scenario.privacy.delta,
        "findings": findings,
        "ok": not findings,
    }


def _attack(planted: Canaries, epsilon: float, view: str, releases: int, seed: int) -> dict[str, Any]:
    release = planted.release.name
    coins = np.random.default_rng(seed + 1)
    known: list[NDArray[np.float64]] = []
    truth: list[NDArray[np.bool_]] = []
    right, guesses = 0, max(20, planted.count // _GUESSED_SHARE)
    for repetition in range(releases):
        coin = coins.random(planted.count) < 0.5
        scores = planted.attack(coin, view, repetition)
        known.append(scores.known)
        truth.append(coin)
        if repetition == 0:
            right = guesses_right(scores.blind, coin, guesses)
    flat, was_planted = np.concatenate(known), np.concatenate(truth)
    delta = planted.release.engine.plan.target_delta
    fit = gaussian_fit(flat[was_planted], flat[~was_planted], delta)
    bound = one_run_lower_bound(planted.count, guesses, right, delta)
    findings: list[str] = []
    if fit.epsilon_low > epsilon:
        findings.append(
            f"{release} {view}: estimate {fit.epsilon:.2f} exceeds the claim {epsilon:g} beyond its tolerance"
        )
    if bound > epsilon:
        findings.append(f"{release} {view}: lower bound {bound:.2f} (95 %) exceeds the claim {epsilon:g}")
    return {
        "claim": epsilon,
        "view": view,
        "estimate": fit.epsilon,
        "estimate_less_tolerance": fit.epsilon_low,
        "lower_bound_95": bound,
        "guesses_right": right,
        "guesses": guesses,
        "findings": findings,
    }


def format_table(result: dict[str, Any]) -> str:
    """The claims as text."""
    lines = [
        f"{'claimed epsilon':>15} {'view':<13} {'estimate':>9} {'(- 4 s.e.)':>10} {'lower bound 95 %':>17}"
    ]
    for row in result["rows"]:
        lines.append(
            f"{row['claim']:>15g} {row['view']:<13} {row['estimate']:>9.2f} {row['estimate_less_tolerance']:>10.2f} "
            f"{row['lower_bound_95']:>17.2f}"
        )
    lines += [f"FOUND {finding}" for finding in result["findings"]]
    lines.append(
        f"{result['release']}: {result['canaries']} canaries, {result['releases']} releases, delta {result['delta']:g}; "
        "estimate: Gaussian fit (Andrew et al. 2023), no proof; lower bound: one run (Steinke et al. 2023). "
        + ("No claim refuted" if result["ok"] else "CLAIM REFUTED")
    )
    return "\n".join(lines)
