"""Every message of the protocol, byte for byte (protocol §8).

Decoding checks the form only; what a message *means*, and whether it may be believed, is for the
guards to say. All messages start with a version and a kind, so none can be taken for another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from privacy.secagg.keys import MLKEM_CIPHERTEXT_BYTES, MLKEM_PUBLIC_BYTES, PUBLIC_KEY_BYTES, SIGNATURE_BYTES
from privacy.secagg.labels import (
    HASH_BYTES,
    MAX_COHORT,
    MAX_ID_BYTES,
    names_bytes,
    signed_bytes,
    tagged_hash,
)
from privacy.secagg.shamir import SHARE_BYTES
from privacy.wire.codec import Reader, Writer

VERSION = 1
MAX_SHARES = MAX_COHORT * MAX_COHORT

KEY, KEYS, CONFIRMATIONS, UPLOAD, SURVIVORS, AGREEMENT, REVEAL_REQUEST, REVEAL = range(1, 9)


def _start(kind: int) -> Writer:
    return Writer().u8(VERSION).u8(kind)


def _open(data: bytes, kind: int) -> Reader:
    reader = Reader(data)
    reader.version(VERSION)
    reader.version(kind)
    return reader


def _write_all(writer: Writer, parts: Sequence[bytes]) -> Writer:
    writer.u32(len(parts))
    for part in parts:
        writer.raw(part)
    return writer


def _read_all(reader: Reader, width: int, limit: int) -> tuple[bytes, ...]:
    return tuple(reader.raw(width) for _ in range(reader.count(limit)))


@dataclass(frozen=True)
class KeyMessage:
    """A client's signed agreement keys for one epoch (§8.1)."""

    context: bytes
    client_id: str
    x25519: bytes
    mlkem: bytes
    signature: bytes

    def to_sign(self) -> bytes:
        """The bytes under the signature."""
        return signed_bytes("key", self.context, self.client_id.encode(), self.x25519, self.mlkem)

    def encode(self) -> bytes:
        """Canonical bytes."""
        writer = _start(KEY).raw(self.context).str(self.client_id).raw(self.x25519).bytes(self.mlkem)
        return writer.raw(self.signature).finish()

    @classmethod
    def decode(cls, data: bytes) -> KeyMessage:
        """Parse; ProtocolError unless canonical."""
        reader = _open(data, KEY)
        message = cls(
            reader.raw(HASH_BYTES),
            reader.str(MAX_ID_BYTES),
            reader.raw(PUBLIC_KEY_BYTES),
            reader.bytes(MLKEM_PUBLIC_BYTES),
            reader.raw(SIGNATURE_BYTES),
        )
        reader.finish()
        return message


def encode_keys(messages: Sequence[bytes]) -> bytes:
    """The key directory: all key messages of an epoch, by client id (§8.2)."""
    writer = _start(KEYS).u32(len(messages))
    for message in messages:
        writer.bytes(message)
    return writer.finish()


def decode_keys(data: bytes) -> tuple[KeyMessage, ...]:
    """Parse a key directory; ProtocolError unless canonical."""
    reader = _open(data, KEYS)
    messages = tuple(KeyMessage.decode(reader.bytes(8192)) for _ in range(reader.count(MAX_COHORT)))
    reader.finish()
    return messages


@dataclass(frozen=True)
class Confirmation:
    """One client tells another which key directory it saw, with its KEM ciphertext for it (§8.3)."""

    source: str
    destination: str
    transcript: bytes
    ciphertext: bytes
    signature: bytes

    def to_sign(self) -> bytes:
        """The bytes under the signature."""
        parties = self.source.encode(), self.destination.encode()
        return signed_bytes("confirmation", *parties, self.transcript, self.ciphertext)


def encode_confirmations(confirmations: Sequence[Confirmation]) -> bytes:
    """Confirmations from one client to all, or from all to one."""
    writer = _start(CONFIRMATIONS).u32(len(confirmations))
    for item in confirmations:
        writer.str(item.source).str(item.destination).raw(item.transcript)
        writer.bytes(item.ciphertext).raw(item.signature)
    return writer.finish()


def decode_confirmations(data: bytes) -> tuple[Confirmation, ...]:
    """Parse a list of confirmations; ProtocolError unless canonical."""
    reader = _open(data, CONFIRMATIONS)
    items = tuple(
        Confirmation(
            reader.str(MAX_ID_BYTES),
            reader.str(MAX_ID_BYTES),
            reader.raw(HASH_BYTES),
            reader.bytes(MLKEM_CIPHERTEXT_BYTES),
            reader.raw(SIGNATURE_BYTES),
        )
        for _ in range(reader.count(MAX_COHORT))
    )
    reader.finish()
    return items


@dataclass(frozen=True)
class Upload:
    """A client's one large message: masked words, commitments, sealed shares, signature (§8.4).

    Attributes:
        label: L of the round.
        sender: client id.
        body: masked words, ``schema.byte_length`` bytes.
        commitments: to the self-mask seed, then to each pair seed in cohort order without the sender.
        bundles: sealed shares, one per peer in cohort order without the sender.
        signature: over ``to_sign(label, digest)``.
    """

    label: bytes
    sender: str
    body: bytes
    commitments: tuple[bytes, ...]
    bundles: tuple[bytes, ...]
    signature: bytes = bytes(SIGNATURE_BYTES)

    def digest(self) -> bytes:
        """What stands for the upload in the agreement on survivors; 32 bytes."""
        return upload_digest(self.label, self.sender, self.body_hash(), self.commitments, self.bundles_hash())

    def body_hash(self) -> bytes:
        """SHA-256 of the masked words."""
        return hashlib.sha256(self.body).digest()

    def bundles_hash(self) -> bytes:
        """Hash of all sealed bundles in order."""
        return tagged_hash("bundles", *self.bundles)

    @staticmethod
    def to_sign(label: bytes, digest: bytes) -> bytes:
        """The bytes under the signature."""
        return signed_bytes("upload", label, digest)

    def encode(self) -> bytes:
        """Canonical bytes."""
        writer = _start(UPLOAD).raw(self.label).str(self.sender).bytes(self.body)
        _write_all(writer, self.commitments).u32(len(self.bundles))
        for bundle in self.bundles:
            writer.bytes(bundle)
        return writer.raw(self.signature).finish()

    @classmethod
    def decode(cls, data: bytes) -> Upload:
        """Parse; ProtocolError unless canonical."""
        reader = _open(data, UPLOAD)
        message = cls(
            reader.raw(HASH_BYTES),
            reader.str(MAX_ID_BYTES),
            reader.bytes(),
            _read_all(reader, HASH_BYTES, MAX_COHORT),
            tuple(reader.bytes(1 << 20) for _ in range(reader.count(MAX_COHORT))),
            reader.raw(SIGNATURE_BYTES),
        )
        reader.finish()
        return message


def upload_digest(
    label: bytes, sender: str, body_hash: bytes, commitments: Sequence[bytes], bundles_hash: bytes
) -> bytes:
    """Digest of an upload from its parts, so that evidence need not carry the masked words."""
    return tagged_hash("upload", label, sender.encode(), body_hash, b"".join(commitments), bundles_hash)


@dataclass(frozen=True)
class Survivor:
    """One line of the survivor list: whose upload arrived, its digest, and the uploader's signature."""

    client_id: str
    digest: bytes
    signature: bytes


@dataclass(frozen=True)
class SurvivorList:
    """The server's claim whose uploads it will sum (§8.5)."""

    label: bytes
    survivors: tuple[Survivor, ...]

    def to_sign(self) -> bytes:
        """The statement every survivor signs before anything is revealed."""
        names = names_bytes(survivor.client_id for survivor in self.survivors)
        return signed_bytes("survivors", self.label, names, b"".join(s.digest for s in self.survivors))

    def encode(self) -> bytes:
        """Canonical bytes."""
        writer = _start(SURVIVORS).raw(self.label).u32(len(self.survivors))
        for survivor in self.survivors:
            writer.str(survivor.client_id).raw(survivor.digest).raw(survivor.signature)
        return writer.finish()

    @classmethod
    def decode(cls, data: bytes) -> SurvivorList:
        """Parse; ProtocolError unless canonical."""
        reader = _open(data, SURVIVORS)
        label = reader.raw(HASH_BYTES)
        survivors = tuple(
            Survivor(reader.str(MAX_ID_BYTES), reader.raw(HASH_BYTES), reader.raw(SIGNATURE_BYTES))
            for _ in range(reader.count(MAX_COHORT))
        )
        reader.finish()
        return cls(label, survivors)


@dataclass(frozen=True)
class Agreement:
    """A survivor's signature on the survivor list it was shown (§8.6)."""

    label: bytes
    sender: str
    signature: bytes

    def encode(self) -> bytes:
        """Canonical bytes."""
        return _start(AGREEMENT).raw(self.label).str(self.sender).raw(self.signature).finish()

    @classmethod
    def decode(cls, data: bytes) -> Agreement:
        """Parse; ProtocolError unless canonical."""
        reader = _open(data, AGREEMENT)
        message = cls(reader.raw(HASH_BYTES), reader.str(MAX_ID_BYTES), reader.raw(SIGNATURE_BYTES))
        reader.finish()
        return message


@dataclass(frozen=True)
class RevealRequest:
    """Who agreed, and the bundles that the survivors sealed to this client (§8.7)."""

    label: bytes
    agreements: tuple[tuple[str, bytes], ...]
    bundles: tuple[tuple[str, bytes], ...]

    def encode(self) -> bytes:
        """Canonical bytes."""
        writer = _start(REVEAL_REQUEST).raw(self.label).u32(len(self.agreements))
        for client_id, signature in self.agreements:
            writer.str(client_id).raw(signature)
        writer.u32(len(self.bundles))
        for client_id, bundle in self.bundles:
            writer.str(client_id).bytes(bundle)
        return writer.finish()

    @classmethod
    def decode(cls, data: bytes) -> RevealRequest:
        """Parse; ProtocolError unless canonical."""
        reader = _open(data, REVEAL_REQUEST)
        label = reader.raw(HASH_BYTES)
        agreements = tuple(
            (reader.str(MAX_ID_BYTES), reader.raw(SIGNATURE_BYTES)) for _ in range(reader.count(MAX_COHORT))
        )
        bundles = tuple(
            (reader.str(MAX_ID_BYTES), reader.bytes(1 << 20)) for _ in range(reader.count(MAX_COHORT))
        )
        reader.finish()
        return cls(label, agreements, bundles)


@dataclass(frozen=True)
class Reveal:
    """Shares of one kind per peer (§8.8).

    Attributes:
        label: L of the round.
        sender: client id.
        self_shares: of b_i, for every survivor i in order.
        pair_shares: of s_im, for every survivor i in order and, within it, every dropped m in order.
        signature: over all of it and the agreed survivor list.
    """

    label: bytes
    sender: str
    self_shares: tuple[bytes, ...]
    pair_shares: tuple[bytes, ...]
    signature: bytes = bytes(SIGNATURE_BYTES)

    def to_sign(self, statement: bytes) -> bytes:
        """The bytes under the signature; ``statement`` is ``SurvivorList.to_sign()``."""
        shares = b"".join(self.self_shares), b"".join(self.pair_shares)
        return signed_bytes("reveal", self.label, self.sender.encode(), statement, *shares)

    def encode(self) -> bytes:
        """Canonical bytes."""
        writer = _start(REVEAL).raw(self.label).str(self.sender)
        _write_all(writer, self.self_shares)
        return _write_all(writer, self.pair_shares).raw(self.signature).finish()

    @classmethod
    def decode(cls, data: bytes) -> Reveal:
        """Parse; ProtocolError unless canonical."""
        reader = _open(data, REVEAL)
        message = cls(
            reader.raw(HASH_BYTES),
            reader.str(MAX_ID_BYTES),
            _read_all(reader, SHARE_BYTES, MAX_COHORT),
            _read_all(reader, SHARE_BYTES, MAX_SHARES),
            reader.raw(SIGNATURE_BYTES),
        )
        reader.finish()
        return message
