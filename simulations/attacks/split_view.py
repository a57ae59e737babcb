"""Tell half of the clients that the victim survived and the other half that it dropped out.

Each client reveals only once, but together they reveal both kinds of share. The signatures of ⌊2n/3⌋ + 1
clients on one list make that impossible: no two lists can gather as many. A server may *ask* for a lower
threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from privacy.errors import PolicyRefusal, ProtocolError
from privacy.secagg import RoundHeader
from privacy.secagg.messages import SurvivorList
from simulations.attacks import verdict
from simulations.attacks.both_shares import ask
from simulations.attacks.victims import recovered, schema, unmask_victim, vectors, without
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
    victim = cohort.names[0]
    try:
        uploads = {
            n: cohort.clients[n].upload(header, cohort.schema, {"x": values[n]}, is_noised=True)
            for n in cohort.names
        }
    except PolicyRefusal as error:
        return 0.0, str(error)
    cohort.server.open_round(header, cohort.schema)
    for name, message in uploads.items():
        cohort.server.add_upload(name, message)
    everybody = SurvivorList.decode(cohort.server.survivors()[victim])
    without_victim = SurvivorList(everybody.label, everybody.survivors[1:])
    believing, doubting = cohort.names[:HALF], cohort.names[HALF:]
    revealed: list[dict[str, bytes]] = []
    refusal = ""
    for claimed, names in ((everybody, believing), (without_victim, doubting)):
        revealed.append({})
        try:
            revealed[-1] = ask(cohort, claimed, list(names), uploads)
        except ProtocolError as error:
            refusal = str(error)
    guess = unmask_victim(
        *(victim, uploads[victim], header, cohort.schema),
        (everybody, revealed[0]),
        (without_victim, revealed[1]),
    )
    return recovered(guess, values[victim]), refusal
