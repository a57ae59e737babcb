"""Ask twice: once as if the victim had survived, once as if it had dropped out.

With the self-mask from one answer and the pair seeds from the other, the victim's upload is bare (Bonawitz et
al., CCS 2017, §6). Flower 1.41 answers both in one message.
"""

from __future__ import annotations

from typing import Any

from privacy.secagg import SecaggClient
from simulations.attacks import verdict
from simulations.attacks.two_lists import unmask_with_two_lists, uploads_of
from simulations.attacks.victims import recovered, schema, vectors
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
    uploads = uploads_of(cohort, header, values)
    victim, *others = cohort.names
    guess, refusal = unmask_with_two_lists(cohort, header, uploads, others, others)
    return recovered(guess, values[victim]), refusal
