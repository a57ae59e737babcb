"""The only door to random bits.

Noise, masks and Poisson sampling protect people only if nobody can predict them, so they come from AES-256 in
counter mode under a key of the operating system (NIST SP 800-90A calls the construction CTR; re-keying bounds
what one captured state reveals). Seeded streams use the same cipher, exist for simulations and tests, and say
so: ``is_simulated``.

There is no default source and no default seed. Randomness whose origin nobody chose is how published noise
becomes subtractable.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
from abc import ABC, abstractmethod
from typing import NoReturn

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from privacy.errors import InputError

_REKEY_BYTES = 64 * 2**20  # of key stream under one system key
_ZERO_COUNTER = bytes(16)  # every key is used for one stream only, so the counter may start at 0


class RandomSource(ABC):
    """A stream of uniform bits and the few exact distributions made from them.

    Attributes:
        is_simulated: True when somebody could reproduce the stream. Whatever was protected with it is a
            simulation.
    """

    is_simulated: bool

    @abstractmethod
    def random_bytes(self, n: int) -> bytes:
        """Returns ``n`` uniform bytes; consecutive calls continue one stream."""

    @abstractmethod
    def derive(self, *labels: str) -> RandomSource:
        """Returns an independent stream of the same kind; equal labels give equal seeded streams."""

    def uint64(self, n: int) -> NDArray[np.uint64]:
        """Returns ``n`` uniform 64-bit words, shape ``[n]``, little endian in the byte stream."""
        return np.frombuffer(self.random_bytes(8 * _count(n)), dtype="<u8").astype(np.uint64)

    def uniform(self, n: int) -> NDArray[np.float64]:
        """Returns ``n`` multiples of 2^-53, uniform in [0, 1). Not meant for noise: see ``mechanisms``."""
        return (self.uint64(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def bernoulli(self, probability: float, n: int) -> NDArray[np.bool_]:
        """Tosses ``n`` independent coins: the Poisson sampling that amplification theorems assume.

        Args:
            probability: of True, in [0, 1].
            n: number of coins.

        Returns:
            Booleans ``[n]``. The probability of True is ``probability`` rounded down to a multiple of 2^-64;
            0 never and 1 always gives True.

        Raises:
            InputError: ``probability`` is NaN or outside [0, 1].
        """
        if not 0.0 <= probability <= 1.0:
            raise InputError(f"probability={probability} is not in [0, 1]")
        words = self.uint64(n)
        if probability == 1.0:
            return np.ones(n, dtype=np.bool_)
        # Scaling a double by a power of two is exact, so the threshold is exact to the last of 64 bits.
        return words < np.uint64(int(math.ldexp(probability, 64)))

    def integers(self, high: int, n: int) -> NDArray[np.int64]:
        """Returns ``n`` integers ``[n]``, exactly uniform on 0..high-1 (rejection, no modulo bias).

        Raises:
            InputError: ``high`` is not in 1..2^63.
        """
        if not 1 <= high <= 2**63:
            raise InputError(f"high={high} is not in 1..2^63")
        largest_kept = np.uint64(2**64 - 2**64 % high - 1)
        kept = self.uint64(n)
        while (rejected := kept > largest_kept).any():
            kept[rejected] = self.uint64(int(rejected.sum()))
        return (kept % np.uint64(high)).astype(np.int64)

    def choice(self, weights: NDArray[np.float64], n: int) -> NDArray[np.int64]:
        """Draws ``n`` positions with replacement, proportionally to ``weights``; weight 0 is never drawn.

        Args:
            weights: non-negative and finite, shape ``[k]``; they need not sum to 1.
            n: number of draws.

        Returns:
            Positions in 0..k-1, shape ``[n]``.

        Raises:
            InputError: a weight is negative or not finite, or none is positive.
        """
        weights = np.asarray(weights, dtype=np.float64)
        cumulative = np.cumsum(weights)
        if weights.ndim != 1 or not (weights >= 0.0).all() or not (cumulative[-1:] > 0.0).any():
            raise InputError("weights must be a vector of non-negative numbers with a positive sum")
        if not np.isfinite(cumulative[-1]):
            raise InputError(f"weights sum to {cumulative[-1]}: give finite weights")
        drawn = np.searchsorted(cumulative, self.uniform(n) * float(cumulative[-1]), side="right")
        # uniform * total may round up to the total itself, one past the last position with weight.
        return np.minimum(drawn, np.flatnonzero(weights)[-1]).astype(np.int64)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be copied or pickled: two copies would repeat their bits"
        )


class SystemRandomness(RandomSource):
    """AES-256-CTR under keys of the operating system: a new key every 64 MB and in every forked process.

    Thread safe. Nothing reproduces its output, by intent.
    """

    is_simulated = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rekey()

    def _rekey(self) -> None:
        self._stream = _key_stream(os.urandom(32))
        self._left = _REKEY_BYTES
        self._process = os.getpid()

    def random_bytes(self, n: int) -> bytes:
        """Returns ``n`` unpredictable bytes."""
        with self._lock:
            # A forked child holds the parent's key: without this both would draw the same noise.
            if self._process != os.getpid() or self._left < _count(n):
                self._rekey()
            self._left -= n
            return self._stream.update(bytes(n))

    def derive(self, *labels: str) -> SystemRandomness:
        """Returns a source with a fresh key; the labels are for seeded sources and play no part here."""
        return SystemRandomness()

    def __repr__(self) -> str:
        return "SystemRandomness()"


class SeededRandomness(RandomSource):
    """A reproducible stream for simulations and tests; whatever it protects is marked as simulated.

    Args:
        seed: an integer or bytes; equal seeds give equal streams on every machine.
    """

    is_simulated = True

    def __init__(self, seed: int | bytes) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int | bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"a seed is an int or bytes, not {type(seed).__name__}")
        tagged = b"bytes:" + seed if isinstance(seed, bytes) else f"int:{seed}".encode()
        self._key = hashlib.sha256(b"fedtower/seeded-randomness/" + tagged).digest()
        self._lock = threading.Lock()
        self._stream = _key_stream(self._key)

    def random_bytes(self, n: int) -> bytes:
        """Returns the next ``n`` bytes of the stream."""
        with self._lock:
            return self._stream.update(bytes(_count(n)))

    def derive(self, *labels: str) -> SeededRandomness:
        """Returns the stream of (this seed, labels), whatever was already drawn from this one."""
        digest = hashlib.sha256(self._key)
        for label in labels:
            encoded = label.encode()
            digest.update(
                len(encoded).to_bytes(8, "big") + encoded
            )  # lengths keep ("ab",) and ("a", "b") apart
        return SeededRandomness(digest.digest())

    def __repr__(self) -> str:
        return "SeededRandomness(<seed hidden>)"


def _key_stream(key: bytes) -> CipherContext:
    return Cipher(AES(key), CTR(_ZERO_COUNTER)).encryptor()


def _count(n: int) -> int:
    if n < 0:
        raise InputError(f"cannot draw n={n} values: give a non-negative number")
    return n
