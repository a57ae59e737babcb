"""The configured engine on a small population: the releases' own code and numbers, without transport."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.behaviour_log import BehaviourLog
from client.model import ClientModel
from client.public_state import PublicState
from client.terms import agreed_terms
from privacy.accounting.plan import FederationPlan
from privacy.randomness import SeededRandomness
from privacy.release_terms import ReleaseTerms
from recsys_models.data.catalogue import Catalogue
from recsys_models.data.sequences import Sequences
from recsys_models.item_towers.subspace import start_basis
from recsys_models.retrieval.transitions import SmoothTransitions, TransitionReadings, from_head
from server.item_tower import random_tower
from server.plan import make_plan
from server.run import content_of
from server.scenario import Scenario
from simulations.synthetic import synthetic_log

History = NDArray[np.int64]


class Rewindable(SeededRandomness):
    """A seeded stream that can be started again, so that two runs draw alike for the users they share."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._seed = seed

    def rewind(self) -> None:
        """Begin the stream anew."""
        super().__init__(self._seed)


@dataclass(frozen=True)
class Engine:
    """What one client of the configured federation computes with.

    Attributes:
        plan: as the server would propose it for the scenario's own numbers of users and clients.
        catalogue: of the audit's population.
        public: a published state; drawn at random, since a bound must hold for every one.
        histories: a few ordinary users.
        seed: of everything drawn.
    """

    plan: FederationPlan
    catalogue: Catalogue
    public: PublicState
    histories: list[History]
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """The agreed settings as handlers pass them on."""
        return {**self.plan.settings, "private": self.plan.private}

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return self.catalogue.n_items

    def terms(self, name: str) -> ReleaseTerms:
        """The release's numbers, as a client computes them."""
        return agreed_terms(self.plan, name, self.public)

    def log(self, histories: Sequence[History]) -> BehaviourLog:
        """A client's log with these users, in this order."""
        offsets = np.concatenate([[0], np.cumsum([len(h) for h in histories])]).astype(np.int64)
        items = np.concatenate([*histories, np.zeros(0, np.int64)]).astype(np.int64)
        names = [f"user-{k}" for k in range(len(histories))]
        return BehaviourLog(Sequences(names, items, offsets, self.catalogue))

    def model(self) -> ClientModel:
        """A client's model before any training, without dropout: neighbours are compared with each user's masks held fixed."""
        return ClientModel({**self.plan.settings, "dropout": 0.0}, b"audit")


def build_engine(scenario: Scenario, *, users: int = 24, items: int = 150, seed: int = 0) -> Engine:
    """Set a scenario's engine up.

    Args:
        scenario: the configuration under audit; its plan is made for its own numbers of users and clients, its
            model and clip norms are kept.
        users: ordinary users in the audit's population.
        items: most items of it; fewer than a real catalogue, so that an audit takes seconds.
        seed: of population, public state and noise.
    """
    dataset = synthetic_log(users, max(40, min(items, scenario.simulation.items)), seed=seed)
    simulation = scenario.simulation
    enrolled = max(1, simulation.users // simulation.clients)
    plan = make_plan(
        scenario,
        session=f"{seed:032x}",
        users_of={f"client-{k}": enrolled for k in range(simulation.clients)},
        n_items=dataset.catalogue.n_items,
        catalogue_sha256=dataset.catalogue.sha256,
    )
    sequences = dataset.sequences
    histories = [sequences.of(user) for user in range(sequences.n_users)]
    public = _public_state(dataset.catalogue.n_items, plan, histories, seed)
    content = content_of(scenario, dataset.catalogue)
    if content is not None:
        public.update({"content": content})
    return Engine(plan, dataset.catalogue, public, histories, seed)


def _public_state(n_items: int, plan: FederationPlan, histories: list[History], seed: int) -> PublicState:
    dim, head_size = int(plan.settings["dim"]), min(int(plan.settings["head"]), n_items)
    counts = np.bincount(np.concatenate(histories), minlength=n_items).astype(np.float64)
    head = np.sort(np.argsort(-counts, kind="stable")[:head_size]).astype(np.int64)
    random = np.random.default_rng(seed)
    cells = random.normal(size=(head_size, head_size))
    factors = random.normal(size=(2, n_items, dim)).astype(np.float32)
    transitions = TransitionReadings(from_head(cells, head, n_items), SmoothTransitions(*factors))
    rank = int(plan.settings["subspace_rank"])
    public = PublicState(n_items, dim, rank)
    if rank:
        public.update({"basis": start_basis(counts, rank, seed)})
    public.update(
        {
            "popularity": (counts + random.normal(size=n_items)).astype(np.float32),
            "head": head,
            "item_tower": random_tower(head, n_items, dim, seed),
            **transitions.to_arrays(),
        }
    )
    return public


@contextmanager
def replaced(*replacements: tuple[object, str, Any]) -> Iterator[None]:
    """Attributes replaced for a while: ``(module or class, name, replacement)``."""
    originals = [(place, name, getattr(place, name)) for place, name, _ in replacements]
    for place, name, replacement in replacements:
        setattr(place, name, replacement)
    try:
        yield
    finally:
        for place, name, original in originals:
            setattr(place, name, original)
