"""One secure aggregate over a transport: open, upload, agree on survivors, reveal, sum (``docs/protocol.md``).

The cryptography lives in ``privacy.secagg``, which knows no transport; this module only carries its messages, waits no
longer than the deadline, and treats a missing or refused answer as a dropout.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.plan import FederationPlan
from privacy.errors import ProtocolError
from privacy.release_terms import SECTION, ReleaseTerms
from privacy.secagg.keys import Roster
from privacy.secagg.labels import RoundHeader
from privacy.secagg.schema import VectorSchema
from privacy.secagg.server_session import SecaggServer
from privacy.wire import federation as wire
from privacy.wire.federation import Answer, OpenRound, Task, round_task
from server.transport import Transport

_LOG = logging.getLogger("fedtower.server")


@dataclass
class Exchange:
    """Carries messages, counts what came back, remembers who refused and why.

    Attributes:
        transport: how messages travel.
        deadline_s: longest wait for any answer.
        bytes_by_kind: bytes that left all clients, by the wire inventory's kinds.
        dropouts: one line for each missing or refused answer.
    """

    transport: Transport
    deadline_s: float
    bytes_by_kind: Counter[str] = field(default_factory=Counter[str])
    dropouts: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    def ask(self, kind: str, requests: Mapping[str, bytes]) -> dict[str, bytes]:
        """Send requests; return the bodies of the clients that answered in time and did not refuse."""
        replies = self.transport.exchange(kind, requests, deadline_s=self.deadline_s)
        bodies: dict[str, bytes] = {}
        for client in sorted(requests):
            reason = "no answer before the deadline"
            if client in replies:
                self.bytes_by_kind[wire.UPLINK[kind]] += len(replies[client])
                answer = _decode(replies[client])
                if not answer.refusal:
                    bodies[client] = answer.body
                    continue
                reason = answer.refusal
            self.dropouts.append({"client": client, "message": kind, "reason": reason})
            _LOG.info("%s dropped out of %s: %s", client, kind, reason)
        return bodies

    def refusals(self, kind: str) -> list[str]:
        """Reasons given for one kind of message, as ``client: reason``."""
        return [f"{d['client']}: {d['reason']}" for d in self.dropouts if d["message"] == kind]


def _decode(data: bytes) -> Answer:
    try:
        return Answer.decode(data)
    except ProtocolError:
        return Answer(refusal="answer-unreadable")


def encode_each(tasks: Mapping[str, Task], encode: Callable[[Task], bytes]) -> dict[str, bytes]:
    """Encode every client's task; clients that share a task share its bytes, which may be many megabytes."""
    encoded = {id(task): encode(task) for task in {id(task): task for task in tasks.values()}.values()}
    return {client: encoded[id(task)] for client, task in tasks.items()}


@dataclass(frozen=True)
class SecureSum:
    """A sum over the survivors.

    Attributes:
        values: ``[length]`` grid steps.
        survivors: whose contributions are in it.
    """

    values: NDArray[np.int64]
    survivors: tuple[str, ...]

    def in_units(self, unit: float) -> NDArray[np.float64]:
        """The released vector in the caller's units."""
        return np.multiply(self.values, unit, dtype=np.float64)


class SecureRounds:
    """Secure aggregates of one session over one cohort.

    Args:
        exchange: carries the messages.
        plan: agreed by the cohort.
        roster: pinned identity keys.
    """

    def __init__(self, exchange: Exchange, plan: FederationPlan, roster: Roster) -> None:
        self._exchange = exchange
        self._plan = plan
        self._server = SecaggServer(roster)
        self._epoch = 0
        self._round = 0

    def open_epoch(self) -> None:
        """Collect and relay signed epoch keys and their confirmations.

        Raises:
            ProtocolError: fewer clients than the threshold took part.
        """
        self._epoch += 1
        self._server.begin_epoch(bytes.fromhex(self._plan.session), self._epoch, self._plan.cohort)
        request = Task("epoch", {"epoch": self._epoch}).encode()
        self._collect(wire.ADVERTISE, dict.fromkeys(self._plan.cohort, request), self._server.add_key)
        directory = self._server.key_directory()
        self._collect(wire.KEYS, dict.fromkeys(self._plan.cohort, directory), self._server.add_confirmations)
        self._exchange.ask(wire.CONFIRM, self._server.confirmations())
        if len(self._server.members) < self._plan.threshold:
            raise ProtocolError(
                f"{len(self._server.members)} of {len(self._plan.cohort)} clients exchanged keys, "
                f"{self._plan.threshold} are needed: {self._exchange.dropouts}"
            )

    def sum(
        self, tasks: Mapping[str, Task], terms: ReleaseTerms, *, model_hash: bytes, kind: str = wire.RELEASE
    ) -> SecureSum:
        """Run one round.

        Args:
            tasks: by client: the same release and step for all, with the public arrays that this client lacks.
            terms: of the release; they fix the schema.
            model_hash: hash of the public state after the task's arrays.
            kind: ``train.release`` or ``evaluate.release``.

        Raises:
            ProtocolError: too few clients survived a stage, or a peer cheated; nothing was learnt.
        """
        schema = terms.schema(len(self._plan.cohort))
        task = tasks[self._plan.cohort[0]]
        header = self._header(task, schema, model_hash)
        opened = self._server.open_round(header, schema)
        invited = {client: tasks[client] for client in header.cohort}
        requests = encode_each(invited, lambda mine: OpenRound(opened, mine).encode())
        before = len(self._exchange.dropouts)
        try:
            self._collect(kind, requests, self._server.add_upload)
            self._collect(wire.SURVIVORS, self._server.survivors(), self._server.add_signature)
            self._collect(wire.REVEAL, self._server.reveal_requests(), self._server.add_reveal)
            sums, survivors = self._server.result()
        except ProtocolError as error:
            lost = "; ".join(f"{d['client']}: {d['reason']}" for d in self._exchange.dropouts[before:])
            where = f"{task.name}/{task.parameters.get('step', 0)}"
            raise ProtocolError(f"{where}: {error} ({lost})" if lost else f"{where}: {error}") from error
        return SecureSum(sums[SECTION], survivors)

    def _header(self, task: Task, schema: VectorSchema, model_hash: bytes) -> RoundHeader:
        self._round += 1
        header = self._server.make_header(
            self._round,
            round_task(task, self._plan.session),
            schema,
            task_hash=task.bound_to(self._plan.sha256),
            model_hash=model_hash,
            catalogue_hash=bytes.fromhex(self._plan.catalogue_sha256),
        )
        # Clients calibrated their noise to the plan's threshold; a smaller cohort does not lower it.
        return replace(header, threshold=max(header.threshold, self._plan.threshold))

    def _collect(
        self, kind: str, requests: Mapping[str, bytes], accept: Callable[[str, bytes], None]
    ) -> None:
        """Ask, and hand every body to the protocol; one that breaks it counts as that client's dropout."""
        for client, body in self._exchange.ask(kind, requests).items():
            try:
                accept(client, body)
            except ProtocolError as error:
                self._exchange.dropouts.append(
                    {"client": client, "message": kind, "reason": f"rejected: {error}"}
                )
