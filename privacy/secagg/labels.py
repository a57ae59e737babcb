"""Everything the server says about a round, hashed injectively into one label (protocol §4).

Two clients that were told different things, be it another model, cohort or threshold, derive different
labels, hence different masks, and their sum is uniformly random instead of revealing
(answer to Pasquini et al., "Eluding Secure Aggregation", CCS 2022).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import IntEnum
from itertools import pairwise

from privacy.errors import InputError, ProtocolError
from privacy.secagg.schema import VectorSchema
from privacy.wire.codec import Reader, Writer

PREFIX = "fedtower/secagg/v1/"
HASH_BYTES = 32
MAX_ID_BYTES = 64
MAX_SESSION_BYTES = 64
MAX_TASK_BYTES = 256
MAX_COHORT = 1024
HEADER_VERSION = 1


class Suite(IntEnum):
    """Algorithms of an epoch; the number is on the wire and in every label."""

    X25519 = 1  # X25519, HKDF-SHA256, AES-256-CTR, ChaCha20-Poly1305, Ed25519
    X25519_MLKEM768 = 2  # the same, pair keys also from ML-KEM-768 (FIPS 203)


def tagged_hash(tag: str, *parts: bytes) -> bytes:
    """SHA-256 of tag and parts, each behind its length as ``u64``: different inputs, different bytes."""
    state = hashlib.sha256()
    for part in ((PREFIX + tag).encode(), *parts):
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


def signed_bytes(tag: str, *parts: bytes) -> bytes:
    """What an identity signs: the purpose in clear, a zero byte, the tagged hash (protocol §4.2)."""
    return (PREFIX + tag).encode() + b"\0" + tagged_hash(tag, *parts)


def names_bytes(names: Iterable[str]) -> bytes:
    """An injective encoding of a list of names."""
    listed = list(names)
    writer = Writer().u32(len(listed))
    for name in listed:
        writer.str(name)
    return writer.finish()


def require_client_ids(client_ids: tuple[str, ...]) -> None:
    """Refuse lists of clients that are not sorted, distinct, short, non-empty names (InputError)."""
    if not 1 <= len(client_ids) <= MAX_COHORT:
        raise InputError(f"a list of clients must name 1 to {MAX_COHORT}, not {len(client_ids)}")
    for client_id in client_ids:
        if not 1 <= len(client_id.encode(errors="replace")) <= MAX_ID_BYTES:
            raise InputError(f"client id {client_id!r} must have 1 to {MAX_ID_BYTES} bytes")
    if any(a >= b for a, b in pairwise(client_ids)):
        raise InputError(f"client ids must be sorted and distinct, not {client_ids}")


@dataclass(frozen=True)
class RoundHeader:
    """What the server says about one round; every field enters the mask label.

    Attributes:
        session: names the federation run; 1 to 64 bytes.
        epoch: number of the key exchange whose keys are used, strictly increasing within a session.
        round: number of the round within its epoch, from 1, strictly increasing.
        task: what is computed, for instance ``"gradients"``; a client answers once per (task, model).
        task_hash: SHA-256 of everything that configures the task.
        model_hash: SHA-256 of the published model the clients compute on.
        catalogue_hash: SHA-256 of the item catalogue.
        schema_hash: ``VectorSchema.sha256``.
        cohort: sorted ids of all clients invited to the round.
        threshold: how many of them must agree and reveal; at most the size of the cohort.
        suite: algorithms, as in the epoch.
    """

    session: bytes
    epoch: int
    round: int
    task: str
    task_hash: bytes
    model_hash: bytes
    catalogue_hash: bytes
    schema_hash: bytes
    cohort: tuple[str, ...]
    threshold: int
    suite: Suite = Suite.X25519_MLKEM768

    def __post_init__(self) -> None:
        if not 1 <= len(self.session) <= MAX_SESSION_BYTES:
            raise InputError(f"session must have 1 to {MAX_SESSION_BYTES} bytes, not {len(self.session)}")
        if not (0 <= self.epoch < 1 << 64 and 1 <= self.round < 1 << 64):
            raise InputError(f"epoch={self.epoch} and round={self.round} must be 64-bit, round at least 1")
        if not 1 <= len(self.task.encode(errors="replace")) <= MAX_TASK_BYTES:
            raise InputError(f"task {self.task!r} must have 1 to {MAX_TASK_BYTES} bytes")
        for name in ("task_hash", "model_hash", "catalogue_hash", "schema_hash"):
            if len(getattr(self, name)) != HASH_BYTES:
                raise InputError(f"{name} must have {HASH_BYTES} bytes, not {len(getattr(self, name))}")
        require_client_ids(self.cohort)
        if not 1 <= self.threshold <= len(self.cohort):
            raise InputError(f"threshold={self.threshold} must lie in 1 to {len(self.cohort)} (the cohort)")

    def encode(self) -> bytes:
        """Canonical bytes (protocol §4.3)."""
        writer = Writer().u8(HEADER_VERSION).u8(self.suite).bytes(self.session).u64(self.epoch)
        writer.u64(self.round).str(self.task).raw(self.task_hash).raw(self.model_hash)
        writer.raw(self.catalogue_hash).raw(self.schema_hash)
        return writer.raw(names_bytes(self.cohort)).u32(self.threshold).finish()

    @classmethod
    def decode(cls, data: bytes) -> RoundHeader:
        """Read a header back.

        Raises:
            ProtocolError: not the canonical bytes of a valid header.
        """
        reader = Reader(data)
        reader.version(HEADER_VERSION)
        suite = read_suite(reader)
        session, epoch, number = reader.bytes(MAX_SESSION_BYTES), reader.u64(), reader.u64()
        task = reader.str(MAX_TASK_BYTES)
        task_hash, model_hash = reader.raw(HASH_BYTES), reader.raw(HASH_BYTES)
        catalogue_hash, schema_hash = reader.raw(HASH_BYTES), reader.raw(HASH_BYTES)
        cohort = tuple(reader.str(MAX_ID_BYTES) for _ in range(reader.count(MAX_COHORT)))
        threshold = reader.u32()
        reader.finish()
        try:
            return cls(
                *(session, epoch, number, task),
                *(task_hash, model_hash, catalogue_hash, schema_hash),
                *(cohort, threshold, suite),
            )
        except InputError as error:
            raise ProtocolError(f"received an impossible round header: {error}") from None

    def require(self, **expected: object) -> None:
        """Check fields against what this side computed itself from the bytes it received.

        Example: ``header.require(model_hash=sha256(model_bytes).digest(), catalogue_hash=mine)``.

        Raises:
            ProtocolError: a field differs; the server described something else than it sent.
        """
        unknown = set(expected) - {field.name for field in fields(self)}
        if unknown:
            raise InputError(f"a round header has no field {sorted(unknown)}")
        wrong = [name for name, value in expected.items() if getattr(self, name) != value]
        if wrong:
            raise ProtocolError(f"round header differs from what was received in {', '.join(wrong)}")

    def label(self, schema: VectorSchema) -> bytes:
        """The 32-byte label L of the round (protocol §4.4)."""
        return tagged_hash(
            "header",
            bytes([self.suite]),
            self.session,
            self.epoch.to_bytes(8, "little"),
            self.round.to_bytes(8, "little"),
            self.task.encode(),
            self.task_hash,
            self.model_hash,
            self.catalogue_hash,
            self.schema_hash,
            bytes(section.word_bits for section in schema.layout),
            schema.words.to_bytes(8, "little"),
            names_bytes(self.cohort),
            self.threshold.to_bytes(4, "little"),
        )


def read_suite(reader: Reader) -> Suite:
    """Read a suite number; an unknown one is a ProtocolError."""
    number = reader.u8()
    try:
        return Suite(number)
    except ValueError:
        raise ProtocolError(f"unknown suite {number}; known are {[int(s) for s in Suite]}") from None
