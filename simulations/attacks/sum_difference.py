"""Take two sums over the same data, with and without the victim, and subtract (So et al., AAAI 2023).

No cryptography prevents this: both sums are legitimate. The clients' own memory does, and noise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PolicyRefusal, ProtocolError
from privacy.secagg import SecaggPolicy
from simulations.attacks import verdict
from simulations.attacks.victims import recovered, schema, vectors, without
from simulations.secagg_cohort import Cohort

CLIENTS = 5


def run(seed: int = 0) -> dict[str, Any]:
    """Metrics of the same model asked twice; then of two models that differ in nothing that matters."""
    careless = SecaggPolicy(refuse_sum_difference=False)
    same_model, one_answer = attack(seed, SecaggPolicy(), same_model=True)
    other_model, difference = attack(seed, SecaggPolicy(), same_model=False)
    with without("check_single_answer"):
        unprotected, _ = attack(seed, careless, same_model=True)
    return verdict(
        "difference of two sums",
        "share of the victim's numbers recovered",
        max(same_model, other_model),
        unprotected,
        answer=f"{one_answer}; under another model hash: {difference}",
    )


def attack(seed: int, policy: SecaggPolicy, *, same_model: bool) -> tuple[float, str]:
    """The fraction recovered, and the refusal."""
    cohort = Cohort(CLIENTS, schema(CLIENTS), seed=seed, policy=replace(policy))
    cohort.exchange_keys()
    values = vectors(cohort.names, seed)
    victim = cohort.names[0]
    sums: list[NDArray[np.int64]] = []
    for number, silent in ((1, []), (2, [victim])):
        header = cohort.header(number, task="metrics", model_hash=bytes(32) if same_model else None)
        try:
            total, _ = cohort.run_round(
                header, {n: {"x": v} for n, v in values.items()}, silent_upload=silent
            )
        except (PolicyRefusal, ProtocolError) as error:
            return 0.0, str(error)
        sums.append(total["x"])
    return recovered(sums[0] - sums[1], values[victim]), "nothing"
