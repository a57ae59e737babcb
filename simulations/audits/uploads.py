"""Looks at what really left the clients of a small run: whether all was charged, and under fresh masks.

The recorder sits where the network would be and keeps every answer that carries data. Each must have an event in the
client's own ledger, as many at most as were reserved; and neither an upload nor the difference of two may look like
anything but random words, for the difference of two uploads under one mask is the difference of two clients' sums.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.handlers import ClientHandlers
from privacy.secagg.messages import Upload
from privacy.wire import federation as wire
from privacy.wire.federation import Answer, OpenRound
from server.scenario import Scenario, override
from simulations.audits.small_run import run_small
from simulations.run import build_simulation
from simulations.synthetic import synthetic_log

FEWEST_WORDS = 256
MOST_ALIKE = 0.1
"""Two of 256 values of the leading byte hold 0.8 % of random words; small differences put all of them there."""


@dataclass(frozen=True)
class Seen:
    """One upload as the network saw it."""

    client: str
    release: str
    step: int
    words: NDArray[np.uint32]


class Recorder:
    """A client's handlers, and a copy of every upload they answer with."""

    def __init__(self, handlers: ClientHandlers, seen: list[Seen]) -> None:
        self._handlers = handlers
        self._seen = seen

    @property
    def client_id(self) -> str:
        """The client's name."""
        return self._handlers.client_id

    def answer(self, kind: str, payload: bytes) -> bytes:
        """Answer as the client does."""
        reply = self._handlers.answer(kind, payload)
        if kind in (wire.RELEASE, wire.EVALUATE):
            answer = Answer.decode(reply)
            if not answer.refusal:
                task = OpenRound.decode(payload).task
                body = Upload.decode(answer.body).body
                words = np.frombuffer(body[: len(body) // 4 * 4], dtype="<u4")
                step = int(task.parameters.get("step", 0))
                self._seen.append(Seen(self._handlers.client_id, task.name, step, words))
        return reply


def run(
    scenario: Scenario, *, clients: int = 3, users: int = 36, items: int = 60, seed: int = 0
) -> dict[str, Any]:
    """Run the scenario's releases once on a small population and look at what left.

    Args:
        scenario: the configuration; its recipe, budget and noise placement are kept.
        clients: of the small run, 3 or more.
        users: of all clients together.
        items: of the catalogue.
        seed: of the run.

    Returns:
        ``uploads`` seen, ``charged`` among them, ``pairs`` of uploads compared. ``findings``, ``ok``.
    """
    small = override(
        scenario,
        {
            "seed": seed,
            "simulation.clients": clients,
            "simulation.users": users,
            "simulation.items": items,
            "privacy.noise": "per_client" if clients <= 4 else scenario.privacy.noise,
            "gradients.min_users": 0,
            **({} if scenario.recipe == "statistics" else {"gradients.rounds": 2}),
            "fit.steps": 1,
            "model.dim": min(scenario.encoder_size.dim, 8),
            "model.heads": 1,
        },
    )
    seen: list[Seen] = []
    with tempfile.TemporaryDirectory() as folder:
        simulation = build_simulation(small, synthetic_log(users, items, seed=seed), Path(folder))
        recorders = {name: Recorder(client, seen) for name, client in simulation.clients.items()}
        stopped = run_small(small, recorders, Path(folder), simulation.dataset.catalogue)
        charged = {name: _charged(client) for name, client in simulation.clients.items()}
    findings = _uncharged(seen, charged) if small.private else []
    findings += _alike(seen)
    if stopped:
        findings.append(f"the run stopped: {stopped}")
    return {
        "uploads": len(seen),
        "releases": sorted({each.release for each in seen}),
        "pairs": len(_comparable(seen)),
        "findings": findings,
        "ok": not findings,
    }


def _charged(client: ClientHandlers) -> Counter[str]:
    """How many uploads of each release the client's own ledger allows for."""
    allowed: Counter[str] = Counter()
    for entry in client.ledger.entries():
        allowed[entry.event.name] += entry.event.count
    return allowed


def _uncharged(seen: list[Seen], charged: Mapping[str, Counter[str]]) -> list[str]:
    answered = Counter((each.client, each.release) for each in seen)
    return [
        f"{client} uploaded {release} {count} times, its ledger holds {charged[client][release]}"
        for (client, release), count in sorted(answered.items())
        if count > charged[client][release]
    ]


def _comparable(seen: list[Seen]) -> list[tuple[Seen, Seen]]:
    long = [each for each in seen if each.words.size >= FEWEST_WORDS]
    return [(a, b) for a, b in combinations(long, 2) if a.client == b.client and a.words.size == b.words.size]


def _alike(seen: list[Seen]) -> list[str]:
    findings = [
        f"{each.client}'s upload {each.release}/{each.step} is no random words"
        for each in seen
        if each.words.size >= FEWEST_WORDS and concentration(each.words) > MOST_ALIKE
    ]
    for one, other in _comparable(seen):
        if concentration(one.words - other.words) > MOST_ALIKE:
            findings.append(
                f"{one.client} used one mask for {one.release}/{one.step} and {other.release}/{other.step}: "
                "their difference is no random words"
            )
    return findings


def concentration(words: NDArray[np.uint32]) -> float:
    """Share of the words in the two most frequent values of their leading byte; 0.01 for random words."""
    counts = np.bincount(words >> np.uint32(24), minlength=256)
    return float(np.sort(counts)[-2:].sum() / words.size)


def format_table(result: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [f"FOUND {finding}" for finding in result["findings"]]
    verdict = "all charged, all masks fresh" if result["ok"] else f"{len(result['findings'])} findings"
    lines.append(
        f"{result['uploads']} uploads of {len(result['releases'])} releases, {result['pairs']} pairs compared: {verdict}"
    )
    return "\n".join(lines)
