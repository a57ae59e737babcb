"""Canaries in the statistics release: users of eight items drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.statistics import statistics_contributions
from privacy.accounting.analytic_gaussian import gaussian_mu
from privacy.accounting.plan import FederationPlan
from privacy.bounded import UserContributions
from privacy.randomness import RandomSource, SeededRandomness
from privacy.release_terms import ReleaseTerms
from server.scenario import Scenario, override
from simulations.audits.canary_scores import Scores
from simulations.audits.engine import Engine, History, build_engine

_ITEMS_OF_A_CANARY = 8
_HELD_OUT = 2  # the last events of a log are for validation and test, and enter no statistic


@dataclass(frozen=True)
class StatisticsCanaries:
    """Canaries and the base that the attacker knows.

    Attributes:
        engine: under audit.
        terms: of the release.
        logs: one a canary.
        rows: what each of them adds to the release.
        seed: of the noise.
    """

    engine: Engine
    terms: ReleaseTerms
    logs: list[History]
    rows: UserContributions
    seed: int

    @property
    def plan(self) -> FederationPlan:
        """Under audit."""
        return self.engine.plan

    @property
    def count(self) -> int:
        """How many canaries there are."""
        return len(self.logs)

    @property
    def views(self) -> tuple[str, ...]:
        """The guaranteed shares of the noise, and everybody's."""
        return ("as accounted", "as released")

    def attack(self, coin: NDArray[np.bool_], view: str, repetition: int) -> Scores:
        """Release once and score; the rows are sparse enough that the coins of the others matter little."""
        carriers = self.terms.honest_survivors if view == "as accounted" else len(self.plan.cohort)
        known = _released(self.engine, self.terms, self.engine.histories, 1, None)
        users = [*self.engine.histories, *(log for log, heads in zip(self.logs, coin, strict=True) if heads)]
        noise = SeededRandomness(self.seed).derive(view, str(repetition))
        released = _released(self.engine, self.terms, users, carriers, noise)
        scores = _scores(self.rows, (released - known) * self.terms.unit)
        return Scores(scores, scores)


def plant_in_statistics(
    scenario: Scenario, *, epsilon: float, canaries: int, items: int, seed: int
) -> StatisticsCanaries:
    """A statistics release that claims epsilon on its own, with canaries in it.

    Args:
        scenario: the configuration.
        epsilon: claimed.
        canaries: how many.
        items: of the catalogue.
        seed: of canaries and noise.
    """
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
    rows = statistics_contributions(engine.log(logs), engine.public, engine.settings, engine.plan.private)
    return StatisticsCanaries(engine, engine.terms("statistics"), logs, rows, seed)


def _released(
    engine: Engine, terms: ReleaseTerms, users: list[History], clients: int, noise: RandomSource | None
) -> NDArray[np.float64]:
    """The sum over ``clients`` that share the users, by the code each client runs; without noise if there is no source."""
    total = np.zeros(terms.length)
    for client in range(clients):
        log = engine.log(users[client::clients])
        contributions = statistics_contributions(log, engine.public, engine.settings, engine.plan.private)
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
