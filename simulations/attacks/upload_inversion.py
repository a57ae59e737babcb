"""Read a client's items off its upload: the touched rows of an embedding update are not zero."""

from __future__ import annotations

from typing import Any

import numpy as np

from privacy.secagg import Section, VectorSchema
from privacy.secagg.messages import Upload
from simulations.attacks import verdict
from simulations.secagg_cohort import Cohort

ITEMS, DIMENSION, TOUCHED = 2000, 8, 20


def run(seed: int = 0) -> dict[str, Any]:
    """A curious server ranks items by the size of their rows in one upload.

    Returns:
        The share of the client's items among the attacker's guesses, beyond what guessing gets.
    """
    generator = np.random.default_rng(seed)
    touched = generator.choice(ITEMS, TOUCHED, replace=False)
    update = np.zeros((ITEMS, DIMENSION), dtype=np.int64)
    update[touched] = generator.integers(-100, 100, (TOUCHED, DIMENSION))
    cohort = Cohort(3, VectorSchema([Section("rows", update.size, 32, 100)], 3), seed=seed)
    cohort.exchange_keys()
    message = cohort.clients[cohort.names[0]].upload(
        cohort.header(1), cohort.schema, {"rows": update.ravel()}
    )
    seen = np.frombuffer(Upload.decode(message).body, dtype="<i4").reshape(ITEMS, DIMENSION)
    chance = TOUCHED / ITEMS
    return verdict(
        "upload inversion",
        "share of the client's items read off its update, beyond chance",
        here=max(0.0, hits(seen, touched) - chance),
        unprotected=hits(update, touched) - chance,
        answer="uploads are uniformly random words",
    )


def hits(rows: np.ndarray, touched: np.ndarray) -> float:
    """The share of ``touched`` among as many rows of the largest size."""
    sizes = np.abs(rows.astype(np.float64)).sum(axis=1)
    guesses = np.argsort(-sizes)[: len(touched)]
    return float(np.isin(touched, guesses).mean())
