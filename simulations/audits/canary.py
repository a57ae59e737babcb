"""Plants users in the statistics release and asks whether the released sum tells who was there.

The worst case of the threat model, which epsilon is stated for: the attacker knows every log but the coin that planted
each canary, and sees the sum. Two views of it:

* ``as accounted``: colluding clients have subtracted their noise and the others have dropped out, so that only the
  shares that are guaranteed remain. Here the claim should be met almost exactly.
* ``as released``: everybody survived, so there is more noise than was accounted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.statistics import statistics_contributions
from privacy.accounting.analytic_gaussian import gaussian_mu
from privacy.bounded import UserContributions
from privacy.randomness import RandomSource, SeededRandomness
from privacy.release_terms import ReleaseTerms
from server.scenario import Scenario, override
from simulations.audits.engine import Engine, History, build_engine
from simulations.audits.one_run import gaussian_fit, guesses_right, one_run_lower_bound

_ITEMS_OF_A_CANARY = 8
_HELD_OUT = 2  # the last events of a log are for validation and test, and enter no statistic
_GUESSED_SHARE = 8  # of the canaries, one in this many is guessed: the surest ones


@dataclass(frozen=True)
class _Population:
    """Canaries and the base that the attacker knows."""

    engine: Engine
    terms: ReleaseTerms
    canaries: list[History]
    rows: UserContributions


def run(
    scenario: Scenario,
    *,
    epsilons: Sequence[float] = (1.0, 8.0),
    canaries: int = 600,
    releases: int = 8,
    items: int = 300,
    seed: int = 0,
) -> dict[str, Any]:
    """Plant canaries in a statistics release that claims epsilon on its own.

    Args:
        scenario: the configuration; its delta, statistics settings, clients and noise placement are used.
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
        population = _population(scenario, epsilon, canaries, items, seed)
        for view, carriers in (
            ("as accounted", population.terms.honest_survivors),
            ("as released", len(population.engine.plan.cohort)),
        ):
            rows.append(_attack(population, epsilon, view, carriers, releases, seed))
    findings = [finding for row in rows for finding in row.pop("findings")]
    return {
        "rows": rows,
        "canaries": canaries,
        "releases": releases,
        "delta": scenario.privacy.delta,
        "findings": findings,
        "ok": not findings,
    }


def _population(scenario: Scenario, epsilon: float, canaries: int, items: int, seed: int) -> _Population:
    claimed = override(
        scenario,
        {
            "recipe": "statistics",
            "privacy.mode": "on",
            "privacy.epsilon": epsilon,
            "privacy.noise_multipliers": {"statistics": 1.0 / gaussian_mu(epsilon, scenario.privacy.delta)},
            "statistics.head": items,
            "simulation.items": max(items, 40),
        },
    )
    engine = build_engine(claimed, users=20, items=items, seed=seed)
    random = np.random.default_rng(seed)
    logs = [random.permutation(engine.n_items)[: _ITEMS_OF_A_CANARY + _HELD_OUT] for _ in range(canaries)]
    rows = statistics_contributions(engine.log(logs), engine.public, engine.settings)
    return _Population(engine, engine.terms("statistics"), logs, rows)


def _attack(
    population: _Population, epsilon: float, view: str, carriers: int, releases: int, seed: int
) -> dict[str, Any]:
    engine, terms = population.engine, population.terms
    known = _released(engine, terms, engine.histories, 1, None)
    coins = np.random.default_rng(seed + 1)
    noise = SeededRandomness(seed)
    scores: list[NDArray[np.float64]] = []
    planted: list[NDArray[np.bool_]] = []
    for repetition in range(releases):
        coin = coins.random(len(population.canaries)) < 0.5
        users = [*engine.histories, *(c for c, heads in zip(population.canaries, coin, strict=True) if heads)]
        released = _released(engine, terms, users, carriers, noise.derive(view, str(repetition)))
        scores.append(_scores(population.rows, (released - known) * terms.unit))
        planted.append(coin)
    flat, truth = np.concatenate(scores), np.concatenate(planted)
    fit = gaussian_fit(flat[truth], flat[~truth], engine.plan.target_delta)
    guesses = max(20, len(population.canaries) // _GUESSED_SHARE)
    right = guesses_right(scores[0], planted[0], guesses)
    bound = one_run_lower_bound(len(population.canaries), guesses, right, engine.plan.target_delta)
    findings: list[str] = []
    if fit.epsilon_low > epsilon:
        findings.append(
            f"statistics {view}: estimate {fit.epsilon:.2f} exceeds the claim {epsilon:g} beyond its tolerance"
        )
    if bound > epsilon:
        findings.append(f"statistics {view}: lower bound {bound:.2f} (95 %) exceeds the claim {epsilon:g}")
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


def _released(
    engine: Engine, terms: ReleaseTerms, users: list[History], clients: int, noise: RandomSource | None
) -> NDArray[np.float64]:
    """The sum over ``clients`` that share the users, by the code each client runs; without noise if there is no source."""
    total = np.zeros(terms.length)
    for client in range(clients):
        log = engine.log(users[client::clients])
        contributions = statistics_contributions(log, engine.public, engine.settings)
        if noise is None:
            np.add.at(total, contributions.indices, contributions.values / terms.unit)
        else:
            total += terms.protect(contributions, noise.derive(str(client)))
    return total


def _scores(rows: UserContributions, released: NDArray[np.float64]) -> NDArray[np.float64]:
    """Projection of the sum on each canary's row: 1 if it is there, 0 if not, and noise."""
    products = np.add.reduceat(rows.values * released[rows.indices], rows.offsets[:-1])
    squares = np.add.reduceat(rows.values**2, rows.offsets[:-1])
    return products / squares


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
        f"{result['canaries']} canaries, {result['releases']} releases, delta {result['delta']:g}; estimate: Gaussian fit "
        "(Andrew et al. 2023), no proof; lower bound: one run (Steinke et al. 2023). "
        + ("No claim refuted" if result["ok"] else "CLAIM REFUTED")
    )
    return "\n".join(lines)
