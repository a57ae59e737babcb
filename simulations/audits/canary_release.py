"""A release that claims an epsilon on its own, and what its attacker may see: the same for every canary audit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from privacy.accounting.analytic_gaussian import gaussian_mu
from privacy.randomness import RandomSource, SeededRandomness
from privacy.release_terms import ReleaseTerms
from server.scenario import Scenario, override
from simulations.audits.engine import Engine, build_engine

_BASE_USERS = 20  # whom the attacker knows, and who are always there
_FEWEST_ITEMS = 40


@dataclass(frozen=True)
class ClaimedRelease:
    """The release under audit, over a small population.

    Attributes:
        engine: under audit; its histories are the base users'.
        name: of the release.
        seed: of the noise.
    """

    engine: Engine
    name: str
    seed: int

    @cached_property
    def terms(self) -> ReleaseTerms:
        """Of the release."""
        return self.engine.terms(self.name)

    @property
    def carriers(self) -> dict[str, int]:
        """By view, how many clients add their share of the noise: the guaranteed ones, and everybody."""
        return {"as accounted": self.terms.honest_survivors, "as released": len(self.engine.plan.cohort)}

    def noise(self, view: str, repetition: int) -> RandomSource:
        """Of one repetition of the release."""
        return SeededRandomness(self.seed).derive(view, str(repetition))


def claimed_release(
    scenario: Scenario, name: str, *, epsilon: float, items: int, seed: int, changes: dict[str, Any]
) -> ClaimedRelease:
    """Set up a run whose release of this name, which is also the recipe, claims epsilon on its own.

    Args:
        scenario: the configuration; its delta, clients and noise placement are used.
        name: "statistics" or "gradients".
        epsilon: claimed; the noise multiplier follows from it.
        items: of the catalogue, all of them head items.
        seed: of population and noise.
        changes: to the scenario, besides, by dotted name.
    """
    claimed = override(
        scenario,
        {
            "recipe": name,
            "model.item_tower": scenario.model.item_tower if name == "gradients" else "ids",
            # A scenario of statistics is refused beside settings of gradient rounds.
            **({"gradients": {}} if name == "statistics" else {}),
            "privacy.mode": "on",
            "privacy.epsilon": epsilon,
            "privacy.noise_multipliers": {name: 1.0 / gaussian_mu(epsilon, scenario.privacy.delta)},
            "statistics.head": items,
            "simulation.items": max(items, _FEWEST_ITEMS),
            **changes,
        },
    )
    return ClaimedRelease(build_engine(claimed, users=_BASE_USERS, items=items, seed=seed), name, seed)
