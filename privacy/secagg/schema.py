"""What one masked vector holds: named sections of fixed-width words (protocol §3).

A schema is agreed before a round and its hash is part of the mask label. Bounds are checked when the
schema is *built*: no sum over ``max_clients`` clients can leave the centred range of its word, so
nothing can wrap later and nothing needs to be checked in the sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, cast

from privacy.errors import InputError, ProtocolError
from privacy.wire.codec import Reader, Writer

WordBits = Literal[16, 32, 64]

WORD_BITS: tuple[int, ...] = (64, 32, 16)  # also the order of the words in memory, so that all stay aligned
MAX_SECTIONS = 4096
MAX_CLIENTS = 1024
MAX_NAME_BYTES = 64
MAX_SECTION_LENGTH = 1 << 29
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Section:
    """A run of signed integers of one meaning.

    Attributes:
        name: what the integers are; unique in its schema, 1 to 64 bytes of UTF-8.
        length: number of integers, at least 1.
        word_bits: width of one masked word on the wire: 16, 32 or 64.
        client_bound: largest magnitude of any integer of ONE client, at least 1. A client whose
            integers exceed it refuses to upload; nothing is ever clipped here.
    """

    name: str
    length: int
    word_bits: WordBits
    client_bound: int

    def __post_init__(self) -> None:
        if not 1 <= len(self.name.encode()) <= MAX_NAME_BYTES:
            raise InputError(f"section name {self.name!r} must have 1 to {MAX_NAME_BYTES} bytes")
        if self.word_bits not in WORD_BITS:
            raise InputError(f"section {self.name!r} has word_bits={self.word_bits}; use 16, 32 or 64")
        if not 1 <= self.length <= MAX_SECTION_LENGTH:
            raise InputError(
                f"section {self.name!r} has length={self.length}; it must lie in 1 to {MAX_SECTION_LENGTH}"
            )
        if not 1 <= self.client_bound < 1 << 63:
            raise InputError(
                f"section {self.name!r} has client_bound={self.client_bound}; it must lie in 1 to 2**63 - 1"
            )


@dataclass(frozen=True)
class VectorSchema:
    """The sections of one masked vector and the largest number of clients that may be summed.

    Raises:
        InputError: a sum over ``max_clients`` could leave its word, or names repeat.
    """

    sections: tuple[Section, ...]
    max_clients: int
    words: int = field(init=False, compare=False)

    def __init__(self, sections: Sequence[Section], max_clients: int) -> None:
        object.__setattr__(self, "sections", tuple(sections))
        object.__setattr__(self, "max_clients", max_clients)
        object.__setattr__(self, "words", sum(section.length for section in self.sections))
        self._validate()

    def _validate(self) -> None:
        if not 1 <= len(self.sections) <= MAX_SECTIONS:
            raise InputError(f"a schema needs 1 to {MAX_SECTIONS} sections, not {len(self.sections)}")
        if not 1 <= self.max_clients <= MAX_CLIENTS:
            raise InputError(f"max_clients={self.max_clients} must lie in 1 to {MAX_CLIENTS}")
        names = [section.name for section in self.sections]
        if len(set(names)) != len(names):
            raise InputError(f"section names must differ, not {names}")
        for section in self.sections:
            largest = (1 << (section.word_bits - 1)) - 1
            if section.client_bound * self.max_clients > largest:
                raise InputError(
                    f"section {section.name!r}: {self.max_clients} clients x bound {section.client_bound} "
                    f"exceeds the signed {section.word_bits}-bit range ({largest}); use wider words, "
                    f"fewer clients or a bound of at most {largest // self.max_clients}"
                )

    @property
    def byte_length(self) -> int:
        """Size of the masked vector in bytes."""
        return sum(section.length * section.word_bits // 8 for section in self.sections)

    @cached_property
    def layout(self) -> tuple[Section, ...]:
        """The sections as they lie in memory: 64-bit words first, then 32, then 16; else as given."""
        return tuple(s for bits in WORD_BITS for s in self.sections if s.word_bits == bits)

    def encode(self) -> bytes:
        """Canonical bytes of the schema (protocol §3.2)."""
        writer = Writer().u8(SCHEMA_VERSION).u32(self.max_clients).u32(len(self.sections))
        for section in self.sections:
            writer.str(section.name).u64(section.length).u8(section.word_bits).u64(section.client_bound)
        return writer.finish()

    @classmethod
    def decode(cls, data: bytes) -> VectorSchema:
        """Read a schema back.

        Raises:
            ProtocolError: not the canonical bytes of a valid schema.
        """
        reader = Reader(data)
        reader.version(SCHEMA_VERSION)
        max_clients = reader.u32()
        sections: list[Section] = []
        try:
            for _ in range(reader.count(MAX_SECTIONS)):
                name, length = reader.str(MAX_NAME_BYTES), reader.u64()
                sections.append(Section(name, length, cast(WordBits, reader.u8()), reader.u64()))
            reader.finish()
            return cls(sections, max_clients)
        except InputError as error:
            raise ProtocolError(f"received an impossible schema: {error}") from None

    @cached_property
    def sha256(self) -> bytes:
        """SHA-256 of ``encode()``; 32 bytes."""
        return hashlib.sha256(self.encode()).digest()
