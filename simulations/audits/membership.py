"""Tell members from strangers by the lists they are served: a black-box attack, beside what epsilon allows it.

The attacker has the logs of all candidates and may ask the recommender. For the last items of a log it asks with
everything before and looks for the item in the list served: whoever took part finds her own next items a little higher
(Zhang et al., "Membership Inference Attacks Against Recommender Systems", CCS 2021, in its simplest form). Half of the
candidates are members; each is served by the client that holds, or would hold, her log.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.handlers import ClientHandlers
from client.recommend import recommend
from privacy.accounting.analytic_gaussian import gaussian_mu
from privacy.errors import ProtocolError
from recsys_models.data.sequences import Sequences
from server.scenario import Scenario, override
from simulations.audits.small_run import run_small
from simulations.run import build_simulation
from simulations.synthetic import synthetic_log

FALSE_POSITIVE_RATES = (0.01, 0.05)
_QUESTIONS = 4
_LIST_LENGTH = 20
_CLIENTS = 3


@dataclass(frozen=True)
class Scores:
    """The attacker's confidence in each candidate."""

    members: NDArray[np.float64]
    strangers: NDArray[np.float64]

    @property
    def area(self) -> float:
        """Chance that a member scores above a stranger, ties half: 0.5 is guessing."""
        both = np.concatenate([self.members, self.strangers])
        order = np.unique(both, return_inverse=True)[1]
        counts = np.bincount(order)
        ranks = (np.cumsum(counts) - (counts - 1) / 2)[order[: self.members.size]]
        pairs = ranks.sum() - self.members.size * (self.members.size + 1) / 2
        return float(pairs / (self.members.size * self.strangers.size))

    def true_positives(self, false_positive_rate: float) -> float:
        """Share of members above the score that at most this share of strangers exceeds."""
        allowed = math.floor(false_positive_rate * self.strangers.size)
        threshold = np.sort(self.strangers)[-allowed - 1]
        return float((self.members > threshold).mean())


def run(scenario: Scenario, *, users: int = 600, items: int = 200, seed: int = 0) -> dict[str, Any]:
    """Attack the scenario's recommender and the same one without privacy.

    Args:
        scenario: the configuration; population and clients are small.
        users: candidates, at least 200, half of them members.
        items: of the catalogue.
        seed: of the run.

    Returns:
        ``rows``: per false-positive rate what the attack reaches here and without privacy, and the most that any attack may
        reach at this epsilon. ``area``, ``area_without_privacy``. ``findings``: where the attack exceeds what epsilon allows
        by more than four standard errors. ``ok``.
    """
    private = override(scenario, {"privacy.mode": "on"})
    open_door = override(scenario, {"privacy.mode": "off", "privacy.noise_multipliers": {}})
    here, unprotected = (_attack(each, users, items, seed) for each in (private, open_door))
    epsilon, delta = private.privacy.epsilon, private.privacy.delta
    rows: list[dict[str, float]] = []
    findings: list[str] = []
    for rate in FALSE_POSITIVE_RATES:
        reached, allowed = here.true_positives(rate), most_true_positives(epsilon, delta, rate)
        error = math.sqrt(max(reached * (1.0 - reached), 1e-4) / here.members.size)
        if reached - 4.0 * error > allowed:
            findings.append(
                f"{reached:.3f} of members found at a false-positive rate of {rate:g}, epsilon allows {allowed:.3f}"
            )
        rows.append(
            {
                "false_positive_rate": rate,
                "reached": reached,
                "without_privacy": unprotected.true_positives(rate),
                "allowed": allowed,
                "allowed_gaussian": gaussian_true_positives(epsilon, delta, rate),
            }
        )
    return {
        "epsilon": epsilon,
        "delta": delta,
        "candidates": users,
        "rows": rows,
        "area": here.area,
        "area_without_privacy": unprotected.area,
        "findings": findings,
        "ok": not findings,
    }


def most_true_positives(epsilon: float, delta: float, false_positive_rate: float) -> float:
    """What (epsilon, delta)-DP allows any attack (Kairouz, Oh, Viswanath 2015, Theorem 2.1)."""
    rate = false_positive_rate
    return min(1.0, math.exp(epsilon) * rate + delta, 1.0 - math.exp(-epsilon) * (1.0 - delta - rate))


def gaussian_true_positives(epsilon: float, delta: float, false_positive_rate: float) -> float:
    """What a Gaussian mechanism of this epsilon allows: its whole trade-off curve, not one point of it."""
    normal = NormalDist()
    return normal.cdf(normal.inv_cdf(false_positive_rate) + gaussian_mu(epsilon, delta))


def _attack(scenario: Scenario, users: int, items: int, seed: int) -> Scores:
    small = override(scenario, {"seed": seed, "simulation.clients": _CLIENTS, "simulation.users": users // 2})
    dataset = synthetic_log(users, items, seed=seed)
    members, strangers = np.arange(0, users, 2), np.arange(1, users, 2)
    taking_part = replace(dataset, sequences=dataset.sequences.subset(members), user_attributes=None)
    with tempfile.TemporaryDirectory() as folder:
        simulation = build_simulation(small, taking_part, Path(folder))
        refused = run_small(small, simulation.clients, Path(folder), dataset.catalogue)
        if refused:
            raise ProtocolError(f"the run under attack was refused: {refused}")
        clients = list(simulation.clients.values())
        served_by = {user: client for client in clients for user in client.log.sequences.user_ids}
        names = dataset.sequences.user_ids
        return Scores(
            np.array([_score(served_by[names[user]], dataset.sequences, user) for user in members.tolist()]),
            np.array(
                [
                    _score(clients[k % len(clients)], dataset.sequences, u)
                    for k, u in enumerate(strangers.tolist())
                ]
            ),
        )


def _score(client: ClientHandlers, sequences: Sequences, user: int) -> float:
    """Mean reciprocal rank of a candidate's last training items in the lists served for what came before."""
    history, times = sequences.of(user)[:-2], sequences.histories([user]).times_of(0)
    ranks: list[float] = []
    for at in range(max(1, len(history) - _QUESTIONS), len(history)):
        known = None if times is None else times[:at]
        served = recommend(client.model, client.public, history[:at], times=known, count=_LIST_LENGTH)
        found = [place for place, entry in enumerate(served, start=1) if entry.item == history[at]]
        ranks.append(1.0 / found[0] if found else 0.0)
    return float(np.mean(ranks)) if ranks else 0.0


def format_table(result: dict[str, Any]) -> str:
    """The rates as text."""
    lines = [
        f"{'false positives':>15} {'found here':>10} {'no privacy':>10} {'allowed':>8} {'allowed, Gaussian':>18}"
    ]
    for row in result["rows"]:
        lines.append(
            f"{row['false_positive_rate']:>15.2f} {row['reached']:>10.3f} {row['without_privacy']:>10.3f} "
            f"{row['allowed']:>8.3f} {row['allowed_gaussian']:>18.3f}"
        )
    lines += [f"FOUND {finding}" for finding in result["findings"]]
    lines.append(
        f"{result['candidates']} candidates, epsilon {result['epsilon']:g}: area under the curve {result['area']:.3f}, "
        f"without privacy {result['area_without_privacy']:.3f} (0.5 is guessing)"
    )
    return "\n".join(lines)
