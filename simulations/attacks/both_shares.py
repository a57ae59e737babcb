"""Ask twice: once as if the victim had survived, once as if it had dropped out.

With the self-mask from one answer and the pair seeds from the other, the victim's upload is bare (Bonawitz et
al., CCS 2017, §6). Flower 1.41 answers both in one message.
"""

from __future__ import annotations

from typing import Any

from privacy.errors import ProtocolError
from privacy.secagg import SecaggClient
from privacy.secagg.messages import Agreement, RevealRequest, SurvivorList
from simulations.attacks import verdict
from simulations.attacks.victims import bundle_for, recovered, schema, unmask_victim, vectors
from simulations.secagg_cohort import ClientFactory, Cohort

CLIENTS = 4


class AnsweringClient(SecaggClient):
    """A client without the rule: it answers every survivor list and every reveal request."""

    def sign_survivors(self, message: bytes) -> bytes:
        """Sign whatever is shown."""
        self._open_round()._phase = "agree"
        return super().sign_survivors(message)

    def abort(self, round: int | None = None) -> None:
        """Never forget."""


def run(seed: int = 0) -> dict[str, Any]:
    """A malicious server against clients with and without the one-kind-of-share rule."""
    here, answer = attack(SecaggClient, seed)
    unprotected, _ = attack(AnsweringClient, seed)
    gets = "share of the victim's numbers recovered"
    return verdict("both shares of one client", gets, here, unprotected, answer=answer)


def attack(make_client: ClientFactory, seed: int) -> tuple[float, str]:
    """The fraction recovered, and the last refusal."""
    cohort = Cohort(CLIENTS, schema(CLIENTS), seed=seed, make_client=make_client)
    cohort.exchange_keys()
    header = cohort.header(1)
    values = vectors(cohort.names, seed)
    victim, *others = cohort.names
    uploads = {
        n: cohort.clients[n].upload(header, cohort.schema, {"x": values[n]}, is_noised=True)
        for n in cohort.names
    }
    cohort.server.open_round(header, cohort.schema)
    for name, message in uploads.items():
        cohort.server.add_upload(name, message)
    everybody = SurvivorList.decode(cohort.server.survivors()[victim])
    without_victim = SurvivorList(everybody.label, everybody.survivors[1:])
    revealed: list[dict[str, bytes]] = []
    refusal = ""
    for claimed in (everybody, without_victim):
        revealed.append({})
        try:
            revealed[-1] = ask(cohort, claimed, others, uploads)
        except ProtocolError as error:
            refusal = str(error)
    guess = unmask_victim(
        *(victim, uploads[victim], header, cohort.schema),
        (everybody, revealed[0]),
        (without_victim, revealed[1]),
    )
    return recovered(guess, values[victim]), refusal


def ask(
    cohort: Cohort, claimed: SurvivorList, names: list[str], uploads: dict[str, bytes]
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
