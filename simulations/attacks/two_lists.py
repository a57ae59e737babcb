"""What a server can do with two survivor lists for one round, one with the victim and one without it.

Who agrees to the first reveals the victim's self-mask, who agrees to the second its pair seeds; enough of both, and its
upload is bare. Which clients are shown which list is the attack's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ProtocolError
from privacy.secagg import RoundHeader
from privacy.secagg.messages import Agreement, RevealRequest, SurvivorList
from simulations.attacks.victims import bundle_for, unmask_victim
from simulations.secagg_cohort import Cohort


def uploads_of(
    cohort: Cohort, header: RoundHeader, values: Mapping[str, NDArray[np.int64]]
) -> dict[str, bytes]:
    """Every client's upload in the round.

    Raises:
        PolicyRefusal: a client does not take part in such a round.
    """
    return {
        name: cohort.clients[name].upload(header, cohort.schema, {"x": values[name]}, is_noised=True)
        for name in cohort.names
    }


def unmask_with_two_lists(
    cohort: Cohort,
    header: RoundHeader,
    uploads: dict[str, bytes],
    believing: Sequence[str],
    doubting: Sequence[str],
) -> tuple[NDArray[np.int64] | None, str]:
    """Take the uploads in and ask for both kinds of share of the first client's.

    Args:
        cohort: whose first client is the victim.
        header: of the round.
        uploads: of all clients.
        believing: who are shown the list with the victim.
        doubting: who are then shown the one without it.

    Returns:
        The victim's integers as far as the answers give them, and the last refusal.
    """
    victim = cohort.names[0]
    cohort.server.open_round(header, cohort.schema)
    for name, message in uploads.items():
        cohort.server.add_upload(name, message)
    everybody = SurvivorList.decode(cohort.server.survivors()[victim])
    without_victim = SurvivorList(everybody.label, everybody.survivors[1:])
    revealed: list[dict[str, bytes]] = []
    refusal = ""
    for claimed, names in ((everybody, believing), (without_victim, doubting)):
        revealed.append({})
        try:
            revealed[-1] = _ask(cohort, claimed, names, uploads)
        except ProtocolError as error:
            refusal = str(error)
    guess = unmask_victim(
        *(victim, uploads[victim], header, cohort.schema),
        (everybody, revealed[0]),
        (without_victim, revealed[1]),
    )
    return guess, refusal


def _ask(
    cohort: Cohort, claimed: SurvivorList, names: Sequence[str], uploads: dict[str, bytes]
) -> dict[str, bytes]:
    """Make clients agree to a list and reveal for it."""
    header = cohort.header(1)
    signed = {
        name: Agreement.decode(cohort.clients[name].sign_survivors(claimed.encode())).signature
        for name in names
    }
    listed = [survivor.client_id for survivor in claimed.survivors]
    answers: dict[str, bytes] = {}
    for name in names:
        bundles = tuple((s, bundle_for(name, s, uploads[s], header)) for s in listed if s != name)
        request = RevealRequest(claimed.label, tuple(sorted(signed.items())), bundles)
        answers[name] = cohort.clients[name].reveal(request.encode())
    return answers
