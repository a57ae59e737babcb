"""Predict the masks: a Mersenne Twister is linear, however many of them are added up.

Flower 1.41 folds every mask seed to 32 bits and stretches it with ``numpy.random.RandomState``. The last bit
of a *sum* of any number of such streams obeys one fixed linear recurrence of degree 19937. Whoever knows the
last bits of a stretch of untouched embedding rows (they are those of zero) knows all other last bits of the
mask, hence every row that was touched: one masked upload, no collusion, no unmasking. The same code is run
against our masks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.secagg import Section, VectorSchema
from privacy.secagg.messages import Upload
from simulations.attacks import verdict
from simulations.secagg_cohort import Cohort

DEGREE = 19937  # of MT19937's characteristic polynomial
DIMENSION, CLIENTS, TOUCHED = 16, 20, 30
KNOWN_ROWS = 1300  # 20 800 words: enough bits to start the recurrence and to see that it holds
ROWS = 2600
Bits = NDArray[np.uint8]


def run(seed: int = 0) -> dict[str, Any]:
    """Tell touched rows from untouched ones in one masked upload of 20 clients, half the table known.

    Returns:
        True-positive rate minus false-positive rate over the unknown half: 1 is certainty, 0 is guessing.
    """
    generator = np.random.default_rng(seed)
    touched = KNOWN_ROWS + generator.choice(ROWS - KNOWN_ROWS, TOUCHED, replace=False)
    update = np.zeros((ROWS, DIMENSION), dtype=np.int64)
    update[touched] = generator.integers(-1000, 1000, (TOUCHED, DIMENSION))
    recurrence = last_bit_recurrence()
    ours = _our_upload(update.ravel(), seed)
    theirs = _folded_seed_upload(update.ravel(), generator)
    here, unprotected = (_advantage(upload, touched, recurrence) for upload in (ours, theirs))
    return verdict(
        "prediction of weak masks",
        "certainty which rows a client touched",
        max(0.0, here),
        unprotected,
        recurrence_degree=len(recurrence) - 1,
        answer="AES-256-CTR obeys no such recurrence",
    )


def last_bit_recurrence() -> Bits:
    """Coefficients c with ``XOR of c[k] & bit[n - k] == 0`` for the last bits of every Mersenne Twister.

    Found by Berlekamp-Massey (Massey 1969) over GF(2) on one stream, with sequences as long integers.
    """
    count = 2 * DEGREE + 64
    stream = np.random.RandomState(1).randint(0, 2**32 - 1, count, dtype=np.int64) & 1
    connection, previous, degree, gap = 1, 1, 0, 1
    window = 0  # bit k is the stream's bit n - k
    for n, bit in enumerate(stream.tolist()):
        window = (window << 1 | bit) & ((1 << (DEGREE + 2)) - 1)
        if (connection & window).bit_count() & 1 == 0:
            gap += 1
        elif 2 * degree <= n:
            connection, previous = connection ^ (previous << gap), connection
            degree, gap = n + 1 - degree, 1
        else:
            connection ^= previous << gap
            gap += 1
    return np.array([connection >> k & 1 for k in range(degree + 1)], dtype=np.uint8)


def _our_upload(update: NDArray[np.int64], seed: int) -> Bits:
    """Last bits of one client's upload here."""
    cohort = Cohort(CLIENTS, VectorSchema([Section("x", update.size, 32, 1000)], CLIENTS), seed=seed)
    cohort.exchange_keys()
    message = cohort.clients[cohort.names[0]].upload(cohort.header(1), cohort.schema, {"x": update})
    return (np.frombuffer(Upload.decode(message).body, dtype="<u4") & 1).astype(np.uint8)


def _folded_seed_upload(update: NDArray[np.int64], generator: np.random.Generator) -> Bits:
    """Last bits of one client's upload as Flower masks it: own stream, plus or minus one per peer."""
    total = update.copy()
    for peer in range(CLIENTS):
        seed32 = int(np.bitwise_xor.reduce(generator.integers(0, 2**32, 8, dtype=np.uint64)))
        mask = np.random.RandomState(seed32).randint(0, 2**32 - 1, update.size, dtype=np.int64)
        total += mask if peer % 2 else -mask
    return (total & 1).astype(np.uint8)


def _advantage(upload: Bits, touched: NDArray[np.int64], recurrence: Bits) -> float:
    """Extend the known half's mask bits over the unknown half and see where the upload differs."""
    known = KNOWN_ROWS * DIMENSION
    mask = np.zeros_like(upload)
    mask[:known] = upload[:known]  # untouched rows are zero there: the upload's last bits are the mask's
    taps = np.flatnonzero(recurrence[1:]) + 1
    block = int(taps.min())  # so many bits can be computed at once
    for start in range(known, len(mask), block):
        stop = min(start + block, len(mask))
        for tap in taps:
            mask[start:stop] ^= mask[start - tap : stop - tap]
    differs = np.any((mask ^ upload)[known:].reshape(-1, DIMENSION), axis=1)
    is_touched = np.zeros(ROWS - KNOWN_ROWS, dtype=bool)
    is_touched[touched - KNOWN_ROWS] = True
    return float(np.mean(differs[is_touched]) - np.mean(differs[~is_touched]))
