"""What a party can show others when a peer cheated (protocol §10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from privacy.errors import ProtocolError
from privacy.secagg.keys import SIGNATURE_BYTES, Roster
from privacy.secagg.labels import HASH_BYTES, MAX_COHORT, MAX_ID_BYTES
from privacy.secagg.messages import Upload
from privacy.wire.codec import Reader, Writer

EvidenceKind = Literal["conflicting-uploads", "pair-commitments", "bad-share"]
_KINDS: tuple[EvidenceKind, ...] = get_args(EvidenceKind)
EVIDENCE_VERSION = 1


@dataclass(frozen=True)
class Evidence:
    """Signed material about one misbehaviour.

    Attributes:
        kind: ``conflicting-uploads``: two digests signed by one client for one label; proof against it.
            ``pair-commitments``: two clients committed to different pair seeds; one of them lies.
            ``bad-share``: a share that does not fit its secret's commitment; its holder or its dealer lies.
        label: of the round.
        suspects: client ids, in the order of the items that concern them.
        items: the material, see protocol §10.
    """

    kind: EvidenceKind
    label: bytes
    suspects: tuple[str, ...]
    items: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Canonical bytes."""
        writer = Writer().u8(EVIDENCE_VERSION).u8(_KINDS.index(self.kind)).raw(self.label)
        writer.u32(len(self.suspects))
        for suspect in self.suspects:
            writer.str(suspect)
        writer.u32(len(self.items))
        for item in self.items:
            writer.bytes(item)
        return writer.finish()

    @classmethod
    def decode(cls, data: bytes) -> Evidence:
        """Parse; ProtocolError unless canonical."""
        reader = Reader(data)
        reader.version(EVIDENCE_VERSION)
        code = reader.u8()
        if code >= len(_KINDS):
            raise ProtocolError(f"unknown kind of evidence {code}")
        label = reader.raw(HASH_BYTES)
        suspects = tuple(reader.str(MAX_ID_BYTES) for _ in range(reader.count(MAX_COHORT)))
        items = tuple(reader.bytes(1 << 24) for _ in range(reader.count(MAX_COHORT)))
        reader.finish()
        return cls(_KINDS[code], label, suspects, items)

    def is_proof(self, roster: Roster) -> bool:
        """Whether anyone who trusts the roster must believe that the suspect cheated.

        Only two signed digests for one label are such a proof; the other kinds narrow the suspicion.
        """
        if self.kind != "conflicting-uploads" or len(self.suspects) != 1 or len(self.items) != 2:
            return False
        first, second = self.items
        if len(first) != HASH_BYTES + SIGNATURE_BYTES or len(second) != len(first):
            return False
        differ = first[:HASH_BYTES] != second[:HASH_BYTES]
        return differ and all(
            roster.is_signed_by(
                self.suspects[0], item[HASH_BYTES:], Upload.to_sign(self.label, item[:HASH_BYTES])
            )
            for item in self.items
        )


class Misbehaviour(ProtocolError):
    """A peer cheated; the round is aborted and the evidence can be shown to others."""

    def __init__(self, message: str, evidence: Evidence) -> None:
        super().__init__(message)
        self.evidence = evidence
