"""Give the victim the model and everybody else one whose gradient is zero (Pasquini et al., CCS 2022).

The "sum" is then the victim's update alone. Here a client hashes the model it received into the mask label:
what the server said to others does not matter, masks made for different models never cancel.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PolicyRefusal, ProtocolError
from privacy.secagg import RoundHeader
from simulations.attacks import verdict
from simulations.attacks.victims import BOUND, WORDS, recovered, schema
from simulations.secagg_cohort import Cohort

CLIENTS = 4


def run(seed: int = 0) -> dict[str, Any]:
    """A malicious server that lies in the header, and one that sends honest but different headers."""
    lying, check = attack(seed, checks_model=True, honest_headers=False)
    differing, labels = attack(seed, checks_model=True, honest_headers=True)
    unprotected, _ = attack(seed, checks_model=False, honest_headers=False)
    return verdict(
        "model inconsistency",
        "share of the victim's numbers recovered",
        max(lying, differing),
        unprotected,
        answer=f"{check}; with true headers: {labels}",
    )


def gradient(model: NDArray[np.float64], data: NDArray[np.float64]) -> NDArray[np.int64]:
    """A toy layer behind a ReLU: a dead model gives zero whatever the data are."""
    return (np.maximum(model, 0) * data).astype(np.int64)


def attack(seed: int, *, checks_model: bool, honest_headers: bool) -> tuple[float, str]:
    """The fraction recovered, and what the server was told."""
    generator = np.random.default_rng(seed)
    live, dead = np.ones(WORDS), -np.ones(WORDS)
    cohort = Cohort(CLIENTS, schema(CLIENTS), seed=seed)
    cohort.exchange_keys()
    victim = cohort.names[0]
    data = {name: generator.integers(1, BOUND, WORDS).astype(np.float64) for name in cohort.names}
    header = replace(cohort.header(1), model_hash=_hash(live))
    cohort.server.open_round(header, cohort.schema)
    try:
        for name in cohort.names:
            model = live if name == victim else dead
            told = replace(header, model_hash=_hash(model)) if honest_headers else header
            message = _answer(cohort, name, told, model, data[name], checks_model=checks_model)
            cohort.server.add_upload(name, message)
        for name, message in cohort.server.survivors().items():
            cohort.server.add_signature(name, cohort.clients[name].sign_survivors(message))
        for name, message in cohort.server.reveal_requests().items():
            cohort.server.add_reveal(name, cohort.clients[name].reveal(message))
        sums, _ = cohort.server.result()
    except (ProtocolError, PolicyRefusal) as error:
        return 0.0, str(error)
    return recovered(sums["x"], gradient(live, data[victim])), "nothing"


def _answer(
    cohort: Cohort,
    name: str,
    header: RoundHeader,
    model: NDArray[np.float64],
    data: NDArray[np.float64],
    *,
    checks_model: bool,
) -> bytes:
    if checks_model:
        header.require(model_hash=_hash(model))
    return cohort.clients[name].upload(header, cohort.schema, {"x": gradient(model, data)}, is_noised=True)


def _hash(model: NDArray[np.float64]) -> bytes:
    return hashlib.sha256(model.tobytes()).digest()
