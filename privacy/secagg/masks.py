"""Mask streams: AES-256-CTR keyed per (seed, label), added to words in place (protocol §5).

The stream is at the speed of the processor's AES unit if its pieces stay in cache: all streams of a
vector advance together, one 128 KiB piece of the vector at a time, through one reused buffer.
(Flower's SecAgg+ folds its seeds to 32 bits and stretches them with a Mersenne Twister, which is linear:
see ``simulations/attacks``.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from privacy.secagg.ring import Vector, word_groups
from privacy.secagg.schema import VectorSchema
from privacy.secagg.secret import Secret

CHUNK_BYTES = 128 * 1024  # at most half of a core's L2 cache
_ZEROS = memoryview(bytes(CHUNK_BYTES))
_AES_BLOCK_BYTES = 16


def expand(key: Secret, info: bytes) -> Secret:
    """HKDF-SHA256-Expand to 32 bytes (RFC 5869 §2.3); ``key`` is uniformly random, so no Extract."""
    return Secret(HKDFExpand(algorithm=SHA256(), length=32, info=info).derive(key.expose()))


def mask_key(seed: Secret, label: bytes) -> Secret:
    """The AES-256 key of a seed's mask stream in the round with this label."""
    return expand(seed, b"secagg/v1/mask" + label)


def open_stream(key: Secret, initial_counter: bytes = bytes(_AES_BLOCK_BYTES)) -> CipherContext:
    """AES-256-CTR (SP 800-38A §6.5); masks start at counter 0, as every key is used for one stream."""
    return Cipher(algorithms.AES(key.expose()), modes.CTR(initial_counter)).encryptor()


def add_masks(
    schema: VectorSchema,
    vector: Vector,
    label: bytes,
    *,
    plus: Iterable[Secret] = (),
    minus: Iterable[Secret] = (),
) -> None:
    """``vector += sum(PRG(s) for s in plus) - sum(PRG(s) for s in minus)``, word by word, in place.

    Args:
        schema: word layout of ``vector``.
        vector: the words' bytes, ``uint8[schema.byte_length]``; overwritten.
        label: the round's label; part of every stream's key.
        plus: seeds whose streams are added.
        minus: seeds whose streams are subtracted.
    """
    streams = [(open_stream(mask_key(seed, label)), np.add) for seed in plus]
    streams += [(open_stream(mask_key(seed, label)), np.subtract) for seed in minus]
    scratch = bytearray(CHUNK_BYTES + _AES_BLOCK_BYTES)
    for words in word_groups(schema, vector):
        step = CHUNK_BYTES // words.itemsize
        for start in range(0, len(words), step):
            _mask_piece(words[start : start + step], streams, scratch)
    scratch[:] = bytes(len(scratch))


def _mask_piece(
    piece: Any, streams: Sequence[tuple[CipherContext, Callable[..., Any]]], scratch: bytearray
) -> None:
    pad = np.frombuffer(scratch, dtype=piece.dtype, count=len(piece))
    zeros = _ZEROS[: piece.nbytes]
    for stream, combine in streams:
        stream.update_into(zeros, scratch)
        combine(piece, pad, out=piece)
