"""Tell half of the clients that the victim survived and the other half that it dropped out.

Each client reveals only once, but together they reveal both kinds of share. The signatures of ⌊2n/3⌋ + 1
clients on one list make that impossible: no two lists can gather as many. A server may *ask* for a lower
threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from privacy.errors import PolicyRefusal
from privacy.secagg import RoundHeader
from simulations.attacks import verdict
from simulations.attacks.two_lists import unmask_with_two_lists, uploads_of
from simulations.attacks.victims import recovered, schema, vectors, without
from simulations.secagg_cohort import Cohort

CLIENTS = 6
HALF = CLIENTS // 2


def run(seed: int = 0) -> dict[str, Any]:
    """A malicious server against clients that insist on the threshold, and against clients that do not."""
    honest, agreement = attack(seed, lambda header: header)
    lowered, policy = attack(seed, lambda header: replace(header, threshold=HALF))
    with without("check_threshold"):
        unprotected, _ = attack(seed, lambda header: replace(header, threshold=HALF))
    return verdict(
        "split view of the survivors",
        "share of the victim's numbers recovered",
        max(honest, lowered),
        unprotected,
        answer=f"{agreement}; with a lowered threshold: {policy}",
    )


def attack(seed: int, change: Callable[[RoundHeader], RoundHeader]) -> tuple[float, str]:
    """The fraction recovered, and the last refusal."""
    cohort = Cohort(CLIENTS, schema(CLIENTS), seed=seed)
    cohort.exchange_keys()
    header = change(cohort.header(1))
    values = vectors(cohort.names, seed)
    try:
        uploads = uploads_of(cohort, header, values)
    except PolicyRefusal as error:
        return 0.0, str(error)
    believing, doubting = cohort.names[:HALF], cohort.names[HALF:]
    guess, refusal = unmask_with_two_lists(cohort, header, uploads, believing, doubting)
    return recovered(guess, values[cohort.names[0]]), refusal
