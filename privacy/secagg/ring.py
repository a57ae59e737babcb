"""Signed integers as words modulo 2**16, 2**32 or 2**64, and back (protocol §3.3).

A vector is one little-endian byte buffer. Addition of two vectors is word by word, modulo each word's
own width; decoding lifts a word to the representative nearest to zero. Together with the bound proven
by the schema, the sum of the words of any set of clients decodes to the sum of their integers, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import InputError
from privacy.secagg.schema import WORD_BITS, Section, VectorSchema

Vector = NDArray[np.uint8]  # [schema.byte_length], the words' little-endian bytes in layout order
Words = NDArray[Any]  # uint16, uint32 or uint64, little-endian


def encode(schema: VectorSchema, sections: Mapping[str, NDArray[np.int64]]) -> Vector:
    """Write one client's integers as words.

    Args:
        schema: the sections that are expected.
        sections: for every section name an ``int64`` array of shape ``[length]``.

    Raises:
        InputError: missing or unknown section, wrong shape or dtype, or an integer beyond the section's
            ``client_bound``. Nothing is clipped: a value out of range is a bug upstream.
    """
    names = {section.name for section in schema.sections}
    if set(sections) != names:
        raise InputError(f"sections {sorted(sections)} given, {sorted(names)} expected")
    vector = np.empty(schema.byte_length, dtype=np.uint8)
    for section, words in _section_words(schema, vector):
        values = sections[section.name]
        _check_values(section, values)
        words[:] = values.astype(words.dtype)  # two's complement: the residue modulo 2**word_bits
    return vector


def decode(schema: VectorSchema, vector: Vector) -> dict[str, NDArray[np.int64]]:
    """Lift the words of a sum to the integers nearest to zero; one ``int64[length]`` per section."""
    return {
        section.name: words.view(words.dtype.str.replace("u", "i")).astype(np.int64)
        for section, words in _section_words(schema, vector)
    }


def add_into(schema: VectorSchema, total: Vector, vector: Vector) -> None:
    """``total += vector``, word by word, each modulo its own width."""
    for left, right in zip(word_groups(schema, total), word_groups(schema, vector), strict=True):
        np.add(left, right, out=left)


def word_groups(schema: VectorSchema, vector: Vector) -> list[Words]:
    """Views of the buffer's 64-, 32- and 16-bit words, in this order, without the empty ones."""
    groups: list[Words] = []
    start = 0
    for bits in WORD_BITS:
        stop = start + sum(s.length for s in schema.sections if s.word_bits == bits) * bits // 8
        if stop > start:
            groups.append(vector[start:stop].view(f"<u{bits // 8}"))
        start = stop
    return groups


def _section_words(schema: VectorSchema, vector: Vector) -> list[tuple[Section, Words]]:
    pairs: list[tuple[Section, Words]] = []
    start = 0
    for section in schema.layout:
        stop = start + section.length * section.word_bits // 8
        pairs.append((section, vector[start:stop].view(f"<u{section.word_bits // 8}")))
        start = stop
    return pairs


def _check_values(section: Section, values: NDArray[np.int64]) -> None:
    if values.dtype != np.int64 or values.shape != (section.length,):
        raise InputError(
            f"section {section.name!r} needs int64[{section.length}], not {values.dtype}{list(values.shape)}"
        )
    low, high = int(values.min()), int(values.max())
    if low < -section.client_bound or high > section.client_bound:
        raise InputError(
            f"section {section.name!r} holds {low if -low > high else high}, beyond its bound of "
            f"{section.client_bound} per client; clip before encoding or raise the bound in the schema"
        )
