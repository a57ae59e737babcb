"""Everything a server may ask of a client, and everything that can leave one.

``UPLINK`` is the complete inventory: a client answers the kinds listed there and nothing else, and each kind's answer is
one of the messages below. There is no message that could carry a user encoder, a behaviour log, an item list of a user or
an unmasked sum.

====================  =========================================================  =======================================
kind                  the server sends                                           the client answers
====================  =========================================================  =======================================
``query.enrol``       session id                                                 id, identity key, number of users
                                                                                 (rounded)
``query.agree``       the plan: every release with its noise, the cohort         acceptance, or a refusal's reason code
``query.advertise``   epoch                                                      signed epoch key
``query.keys``        all signed epoch keys                                      sealed key confirmations
``query.confirm``     the other clients' confirmations                           acknowledgement
``train.release``     round header, task, public arrays                          masked vector (statistics, gradients)
``evaluate.release``  the same                                                   masked vector (metric sums)
``query.survivors``   uploads' digests and signatures                            signature over the survivor set
``query.reveal``      survivors' signatures                                      shares: one kind per peer
``query.publish``     public arrays (item tower, popularity, transitions)        acknowledgement
``train.fit``         how to fit the encoder on the frozen tower                 acknowledgement
====================  =========================================================  =======================================

The answers of ``query.agree``, ``query.confirm``, ``query.publish`` and ``train.fit`` are empty: the encoder's
fit returns nothing, not even a loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from numpy.typing import NDArray

from privacy.errors import ProtocolError
from privacy.wire.codec import (
    Reader,
    Writer,
    canonical_json,
    named_arrays_decode,
    named_arrays_encode,
    parse_json,
)

VERSION = 1
MAX_REASON_BYTES = 200

ENROL = "query.enrol"
AGREE = "query.agree"
ADVERTISE = "query.advertise"
KEYS = "query.keys"
CONFIRM = "query.confirm"
RELEASE = "train.release"
EVALUATE = "evaluate.release"
SURVIVORS = "query.survivors"
REVEAL = "query.reveal"
PUBLISH = "query.publish"
FIT = "train.fit"

# What a client's answer to each kind is counted as in "what left the client".
UPLINK: Mapping[str, str] = {
    ENROL: "keys",
    AGREE: "keys",
    ADVERTISE: "keys",
    KEYS: "keys",
    CONFIRM: "keys",
    RELEASE: "masked_update",
    EVALUATE: "masked_metrics",
    SURVIVORS: "keys",
    REVEAL: "keys",
    PUBLISH: "keys",
    FIT: "keys",
}

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Task:
    """A request in public terms: a name, parameters that have one JSON text, and public arrays.

    Attributes:
        name: which release, or which step.
        parameters: JSON-serialisable; hashed into the mask label through ``bound_to``.
        arrays: public inputs (item tower, popularity); they replace the client's copies of the same name.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    arrays: Arrays = field(default_factory=dict[str, NDArray[Any]])

    def bound_to(self, plan_sha256: bytes) -> bytes:
        """Hash of the plan, the name and the parameters: the ``task_hash`` of a round header.

        Clients that agreed to different plans, be it in one setting, get masks that do not cancel.
        """
        terms = canonical_json({"name": self.name, "parameters": dict(self.parameters)})
        return hashlib.sha256(plan_sha256 + terms).digest()

    def encode(self) -> bytes:
        """Canonical bytes."""
        writer = Writer().u8(VERSION).str(self.name).bytes(canonical_json(dict(self.parameters)))
        return writer.bytes(named_arrays_encode(self.arrays)).finish()

    @staticmethod
    def decode(data: bytes) -> Task:
        """Read what ``encode`` wrote; anything else is a ``ProtocolError``."""
        reader = Reader(data)
        reader.version(VERSION)
        name, parameters = reader.str(), parse_json(reader.bytes())
        arrays = named_arrays_decode(reader.bytes())
        reader.finish()
        if not isinstance(parameters, dict):
            raise ProtocolError(
                f"task {name!r} has parameters of type {type(parameters).__name__}, not an object"
            )
        return Task(name, cast("dict[str, Any]", parameters), arrays)


def round_task(task: Task, session: str) -> str:
    """The task's name in a round header: run, release and step, so that every step is a task of its own.

    A client answers a task once for ever. The run is part of it, because a client takes part in many: what a new run
    releases is charged to the same ledger.
    """
    return f"{session}/{task.name}/{task.parameters.get('step', 0)}"


def public_state_sha256(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Hash of all public arrays a client holds: the ``model_hash`` of a round header.

    Both sides compute it from their own copy, so a server that shows two clients two different models gets masks that do
    not cancel.
    """
    return hashlib.sha256(named_arrays_encode(arrays)).digest()


@dataclass(frozen=True)
class OpenRound:
    """The server's request for one masked upload.

    Attributes:
        header: encoded round header; it holds the schema's hash, the schema itself is computed by each side.
        task: which release, which step, and public arrays.
    """

    header: bytes
    task: Task

    def encode(self) -> bytes:
        """Canonical bytes."""
        return Writer().u8(VERSION).bytes(self.header).bytes(self.task.encode()).finish()

    @staticmethod
    def decode(data: bytes) -> OpenRound:
        """Read what ``encode`` wrote; anything else is a ``ProtocolError``."""
        reader = Reader(data)
        reader.version(VERSION)
        header, task = reader.bytes(), Task.decode(reader.bytes())
        reader.finish()
        return OpenRound(header, task)


@dataclass(frozen=True)
class Enrolment:
    """What a client says about itself: nothing else about its users is ever sent in clear.

    Attributes:
        client_id: its name in the roster.
        identity: 32 bytes, Ed25519 public key.
        users: number of its users rounded down to two significant digits (exact below 100); the planner's only input.
        catalogue_sha256: hex hash of the item catalogue it uses.
    """

    client_id: str
    identity: bytes
    users: int
    catalogue_sha256: str

    def encode(self) -> bytes:
        """Canonical bytes."""
        writer = Writer().u8(VERSION).str(self.client_id).raw(self.identity).u64(self.users)
        return writer.str(self.catalogue_sha256).finish()

    @staticmethod
    def decode(data: bytes) -> Enrolment:
        """Read what ``encode`` wrote; anything else is a ``ProtocolError``."""
        reader = Reader(data)
        reader.version(VERSION)
        enrolment = Enrolment(reader.str(200), reader.raw(32), reader.u64(), reader.str(64))
        reader.finish()
        return enrolment


def round_to_two_digits(count: int) -> int:
    """Round a non-negative count down to two significant digits: 1,987 becomes 1,900."""
    step = 10 ** max(len(str(int(count))) - 2, 0)
    return int(count) // step * step


def most_behind(rounded: int) -> int:
    """The upper bound that a count rounded by ``round_to_two_digits`` implies: 1,900 may have been up to 2,000."""
    return rounded + 10 ** max(len(str(rounded)) - 2, 0)


@dataclass(frozen=True)
class Answer:
    """A client's answer: a body, or the reason code of a refusal (never an exception's text)."""

    body: bytes = b""
    refusal: str = ""

    def encode(self) -> bytes:
        """Canonical bytes: status, then body or reason."""
        if self.refusal:
            return Writer().u8(1).str(self.refusal[:MAX_REASON_BYTES]).finish()
        return Writer().u8(0).bytes(self.body).finish()

    @staticmethod
    def decode(data: bytes) -> Answer:
        """Read what ``encode`` wrote; anything else is a ``ProtocolError``."""
        reader = Reader(data)
        status = reader.u8()
        if status not in (0, 1):
            raise ProtocolError(f"answer has status {status}; 0 (body) or 1 (refusal) are known")
        answer = Answer(refusal=reader.str(MAX_REASON_BYTES)) if status else Answer(body=reader.bytes())
        reader.finish()
        if status and not answer.refusal:
            raise ProtocolError("answer is a refusal without a reason code")
        return answer
