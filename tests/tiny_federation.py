"""A whole federation of a few small clients in one process, with every message at hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simulations.run
from client.handlers import ClientHandlers
from privacy.accounting.ledger import Ledger
from privacy.secagg.client_session import SecaggClient
from privacy.wire.federation import Answer
from recsys_models.data.catalogue import Catalogue
from recsys_models.data.dataset import Dataset
from recsys_models.data.sequences import Sequences
from server.federation import Federation, Unwatched
from server.run import content_of, session_name
from server.scenario import Scenario, override
from server.secure_round import SecureRounds, SecureSum
from simulations.loopback import Fault, Loopback, no_faults
from simulations.run import Simulation, build_simulation
from simulations.synthetic import synthetic_log

SMALL = {
    "seed": 5,
    "recipe": "statistics",
    "encoder": "mean-pool",
    "model.dim": 8,
    "model.max_length": 12,
    "statistics.head": 20,
    "fit.steps": 0,
    "evaluation.detail": "off",
    "simulation.users": 60,
    "simulation.items": 40,
    "simulation.clients": 5,
}
_SMALL_ROUNDS = {"gradients.rounds": 2, "gradients.negatives": 8}

Tamper = Callable[[str, str, bytes], bytes]
"""``(kind, client, request) -> request``: what a lying server sends instead."""


def small_settings(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """``SMALL`` with changes, and few gradient rounds where there are any."""
    asked = SMALL | dict(changes or {})
    return asked if asked["recipe"] == "statistics" else _SMALL_ROUNDS | asked


def small_scenario(changes: Mapping[str, Any] | None = None) -> Scenario:
    """The smallest scenario that has every part but the fit, whose sampled steps take a second to account for."""
    return override(Scenario(), small_settings(changes))


def dataset_of(histories: Sequence[Sequence[int]], n_items: int = 40) -> Dataset:
    """A data set with exactly these users."""
    catalogue = Catalogue([f"i{k}" for k in range(n_items)])
    offsets = np.concatenate([[0], np.cumsum([len(h) for h in histories])])
    items = np.array([item for h in histories for item in h], dtype=np.int64)
    return Dataset(
        "made", Sequences([f"u{k}" for k in range(len(histories))], items, offsets, catalogue), catalogue
    )


@dataclass(frozen=True)
class Message:
    """One request and what was answered, if anything."""

    kind: str
    client: str
    request: bytes
    answer: Answer
    raw: bytes


class RecordingLoopback(Loopback):
    """A loopback that keeps every answer and may change requests on their way."""

    def __init__(
        self,
        handlers: Mapping[str, ClientHandlers],
        *,
        fault: Fault = no_faults,
        tamper: Tamper | None = None,
    ) -> None:
        super().__init__(handlers, fault=fault)
        self.messages: list[Message] = []
        self._tamper = tamper or (lambda _kind, _client, request: request)

    def exchange(self, kind: str, requests: Mapping[str, bytes], *, deadline_s: float) -> dict[str, bytes]:
        sent = {client: self._tamper(kind, client, request) for client, request in requests.items()}
        replies = super().exchange(kind, sent, deadline_s=deadline_s)
        for client, raw in replies.items():
            self.messages.append(Message(kind, client, sent[client], Answer.decode(raw), raw))
        return replies

    def answers(self, kind: str, client: str) -> list[Message]:
        """What a client answered to one kind of message, in order."""
        return [m for m in self.messages if (m.kind, m.client) == (kind, client)]


@dataclass
class SmallFederation:
    """A federation that can be run, its clients, and its messages.

    Attributes:
        uploads: what each client put in before masking, by release and step.
        sums: what came out, by release and step.
    """

    simulation: Simulation
    federation: Federation
    wire: RecordingLoopback
    uploads: dict[str, dict[str, np.ndarray]] = field(default_factory=lambda: defaultdict(dict))
    sums: dict[str, SecureSum] = field(default_factory=dict)

    @property
    def clients(self) -> dict[str, ClientHandlers]:
        return self.simulation.clients


def small_federation(
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: Mapping[str, Any] | None = None,
    *,
    dataset: Dataset | None = None,
    parts: Sequence[Sequence[int]] | None = None,
    fault: Fault = no_faults,
    tamper: Tamper | None = None,
    session: str | None = None,
) -> SmallFederation:
    """Build a federation, not yet run.

    Args:
        state: where the clients keep their state.
        monkeypatch: to look at vectors before they are masked.
        changes: of ``SMALL``.
        dataset: instead of the built-in log.
        parts: which users each client has, instead of the scenario's division.
        fault: loses answers.
        tamper: changes requests.
        session: instead of the seed's.
    """
    scenario = small_scenario(changes)
    data = dataset or synthetic_log(
        scenario.simulation.users, scenario.simulation.items, seed=scenario.seed or 0
    )
    if parts is not None:
        divided = [np.array(part, dtype=np.int64) for part in parts]
        monkeypatch.setattr(simulations.run, "divide_users", lambda _scenario, _dataset: divided)
    simulation = build_simulation(scenario, data, state)
    transport = RecordingLoopback(simulation.clients, fault=fault, tamper=tamper)
    federation = Federation(
        scenario,
        transport,
        Ledger.in_memory(
            population="all", epsilon_budget=scenario.privacy.epsilon, target_delta=scenario.privacy.delta
        ),
        simulation.roster,
        session=session or session_name(scenario),
        n_items=data.catalogue.n_items,
        catalogue_sha256=data.catalogue.sha256,
        watcher=Unwatched(),
        content=None if scenario.model.item_tower == "ids" else content_of(scenario, data.catalogue),
    )
    small = SmallFederation(simulation, federation, transport)
    _watch_sums(small, monkeypatch)
    return small


def _watch_sums(small: SmallFederation, monkeypatch: pytest.MonkeyPatch) -> None:
    upload, total = SecaggClient.upload, SecureRounds.sum

    def watched_upload(self: SecaggClient, header: Any, schema: Any, sections: Any, **options: Any) -> bytes:
        small.uploads[header.task.split("/", 1)[-1]][self.client_id] = sections["sum"].copy()
        return upload(self, header, schema, sections, **options)

    def watched_sum(self: SecureRounds, tasks: Any, terms: Any, **options: Any) -> SecureSum:
        found = total(self, tasks, terms, **options)
        task = next(iter(tasks.values()))
        small.sums[f"{task.name}/{task.parameters['step']}"] = found
        return found

    monkeypatch.setattr(SecaggClient, "upload", watched_upload)
    monkeypatch.setattr(SecureRounds, "sum", watched_sum)
