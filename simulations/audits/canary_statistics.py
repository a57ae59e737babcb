"""Canaries in the statistics release: users of eight items drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.statistics import statistics_contributions
from privacy.bounded import UserContributions
from privacy.randomness import RandomSource
from server.scenario import Scenario
from simulations.audits.canary_release import ClaimedRelease, claimed_release
from simulations.audits.canary_scores import Scores
from simulations.audits.engine import History

_ITEMS_OF_A_CANARY = 8
_HELD_OUT = 2  # the last events of a log are for validation and test, and enter no statistic


@dataclass(frozen=True)
class StatisticsCanaries:
    """Canaries and the base that the attacker knows.

    Attributes:
        release: under audit.
        logs: one a canary.
        rows: what each of them adds to the release.
        known: what the base users add, without noise, in grid steps.
    """

    release: ClaimedRelease
    logs: list[History]
    rows: UserContributions
    known: NDArray[np.float64]

    @property
    def count(self) -> int:
        """How many canaries there are."""
        return len(self.logs)

    def attack(self, coin: NDArray[np.bool_], view: str, repetition: int) -> Scores:
        """Release once and score; the rows are sparse enough that the coins of the others matter little."""
        base = self.release.engine.histories
        users = [*base, *(log for log, heads in zip(self.logs, coin, strict=True) if heads)]
        noise = self.release.noise(view, repetition)
        released = _released(self.release, users, self.release.carriers[view], noise)
        scores = _scores(self.rows, (released - self.known) * self.release.terms.unit)
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
    release = claimed_release(scenario, "statistics", epsilon=epsilon, items=items, seed=seed, changes={})
    engine = release.engine
    random = np.random.default_rng(seed)
    logs = [random.permutation(engine.n_items)[: _ITEMS_OF_A_CANARY + _HELD_OUT] for _ in range(canaries)]
    known = _released(release, engine.histories, 1, None)
    return StatisticsCanaries(release, logs, _contributions(release, logs), known)


def _contributions(release: ClaimedRelease, users: list[History]) -> UserContributions:
    engine = release.engine
    return statistics_contributions(engine.log(users), engine.public, engine.settings, engine.plan.private)


def _released(
    release: ClaimedRelease, users: list[History], clients: int, noise: RandomSource | None
) -> NDArray[np.float64]:
    """The sum over ``clients`` that share the users, by the code each client runs; without noise if there is no source."""
    terms = release.terms
    total = np.zeros(terms.length)
    for client in range(clients):
        contributions = _contributions(release, users[client::clients])
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
