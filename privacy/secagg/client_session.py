"""A client's whole side of secure aggregation, without I/O (protocol §7 to §9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privacy.errors import InputError, PolicyRefusal, ProtocolError
from privacy.secagg import guards, ring
from privacy.secagg.client_round import ClientRound
from privacy.secagg.epoch import ClientEpoch
from privacy.secagg.keys import Identity, Roster
from privacy.secagg.labels import RoundHeader
from privacy.secagg.memory import ClientMemory
from privacy.secagg.policy import SecaggPolicy
from privacy.secagg.schema import VectorSchema

if TYPE_CHECKING:
    from privacy.randomness import RandomSource


class SecaggClient:
    """Turns this client's integers into messages that show only the sum.

    ``advertise → accept_keys → accept_confirmations`` once per epoch, then per round
    ``upload → sign_survivors → reveal``. Every step takes the server's bytes and returns bytes for it.

    Args:
        client_id: this client's name in the roster.
        identity: its long-term signing key.
        roster: everyone's pinned public keys.
        policy: what this client insists on; nothing in a message weakens it.
        randomness: source of keys, seeds and share coefficients.
        memory: what was answered before; store ``memory.to_json()`` before sending what a step returned.

    Guarantees:
        If fewer than a third of the cohort collude with the server, whatever they send: they learn nothing
        about this client's integers except the sum over at least ``threshold`` clients, this one included,
        of a cohort that all of them agreed on.

    Raises:
        ProtocolError: somebody broke the protocol. The open round is over and its secrets are wiped.
        PolicyRefusal: this client's policy forbids the request; nothing was sent and the round is over.
        InputError: the caller's own arguments are wrong (sections out of bounds, not enrolled).
    """

    def __init__(
        self,
        client_id: str,
        identity: Identity,
        roster: Roster,
        policy: SecaggPolicy,
        randomness: RandomSource,
        memory: ClientMemory | None = None,
    ) -> None:
        if not roster.is_signed_by(client_id, identity.sign(b"enrolled?"), b"enrolled?"):
            raise InputError(f"the roster does not hold this identity's public key under {client_id!r}")
        self.client_id, self.policy = client_id, policy
        self.memory = memory if memory is not None else ClientMemory()
        self._identity, self._roster, self._randomness = identity, roster, randomness
        self._epoch: ClientEpoch | None = None
        self._round: ClientRound | None = None
        self._is_noised = False

    @property
    def established(self) -> tuple[str, ...]:
        """Sorted ids of the clients this one shares keys with, itself included."""
        return self._epoch.established if self._epoch else ()

    def advertise(self, session: bytes, epoch: int, cohort: Sequence[str]) -> bytes:
        """Begin an epoch: fresh agreement keys, signed; any earlier epoch's keys are wiped.

        Args:
            session: names the federation run, 1 to 64 bytes.
            epoch: greater than any epoch of this session before.
            cohort: sorted ids of all clients asked to exchange keys.
        """
        self.abort()
        last_epoch, _ = self.memory.position(session)
        guards.check_epoch_is_new(last_epoch, epoch)
        guards.check_sorted_ids(cohort)
        guards.check_enrolled(cohort, self._roster)
        guards.check_members([self.client_id], cohort)
        guards.check_min_cohort(len(cohort), self.policy)
        guards.check_max_cohort(len(cohort), self.policy)
        if self._epoch:
            self._epoch.wipe()
        self.memory.advance(session, epoch, 0)
        self._epoch = ClientEpoch(
            client_id=self.client_id,
            identity=self._identity,
            roster=self._roster,
            policy=self.policy,
            session=session,
            epoch=epoch,
            cohort=cohort,
            randomness=self._randomness,
        )
        return self._epoch.advertise()

    def accept_keys(self, messages: bytes) -> bytes:
        """Check everyone's signed keys against the roster; returns this client's confirmations."""
        return self._open_epoch().accept_keys(messages)

    def accept_confirmations(self, message: bytes) -> None:
        """Check that everyone saw the same keys; afterwards ``established`` can mask together."""
        self._open_epoch().accept_confirmations(message)

    def check_upload(
        self, header: RoundHeader, schema: VectorSchema, *, may_retry: bool = False
    ) -> ClientEpoch:
        """Raise what ``upload`` would raise for these, before there is a vector: nothing here depends on data.

        Args:
            header: as received.
            schema: this client's own idea of the vector.
            may_retry: as for ``upload``.

        Returns:
            The open epoch.
        """
        self.abort()
        epoch = self._open_epoch()
        answer = self.memory.answer(header.task, header.model_hash)
        self._check_header(header, schema, epoch)
        guards.check_single_answer(answer, self.policy.retry_budget if may_retry else 0)
        return epoch

    def upload(
        self,
        header: RoundHeader,
        schema: VectorSchema,
        sections: Mapping[str, NDArray[np.int64]],
        *,
        is_noised: bool = False,
        may_retry: bool = False,
    ) -> bytes:
        """Check a round against the policy, then mask and share one vector.

        Args:
            header: as received; compare its hashes with the received bytes first (``header.require``).
            schema: this client's own idea of the vector.
            sections: ``int64[length]`` for every section of the schema.
            is_noised: the caller has put enough noise into ``sections`` for its own privacy claim, so
                the sum-difference rule does not apply. Never take this from the server.
            may_retry: whether, after an abort, the policy's retry budget applies to this (task, model).

        Returns:
            The upload: masked words, sealed shares, commitments, signature.
        """
        epoch = self.check_upload(header, schema, may_retry=may_retry)
        vector = ring.encode(schema, sections)
        self.memory.advance(header.session, header.epoch, header.round)
        self.memory.begin_answer(header.task, header.model_hash)
        peers = [peer for peer in header.cohort if peer != self.client_id]
        self._is_noised = is_noised
        self._round = ClientRound(
            client_id=self.client_id,
            identity=self._identity,
            roster=self._roster,
            header=header,
            schema=schema,
            keys=epoch.round_keys(header.round, header.label(schema), peers),
        )
        return self._round.upload(vector, self._randomness)

    def sign_survivors(self, message: bytes) -> bytes:
        """Agree to whose uploads are summed, once per round."""
        current = self._open_round()
        try:
            survivors = current.check_survivors(message)
            names = frozenset(survivor.client_id for survivor in survivors.survivors)
            guards.check_min_cohort(len(names), self.policy)
            if not self._is_noised:
                if self.policy.refuse_sum_difference:
                    guards.check_sum_difference(names, self.memory.releases)
                self.memory.releases.add(names)
            return current.agree(survivors)
        except (ProtocolError, PolicyRefusal):
            self.abort()
            raise

    def reveal(self, message: bytes) -> bytes:
        """Give the shares that unmask the sum; afterwards the round's secrets are gone."""
        current = self._open_round()
        try:
            revealed = current.reveal(message)
            self.memory.complete_answer(current.header.task, current.header.model_hash)
            return revealed
        finally:
            self.abort()

    def abort(self, round: int | None = None) -> None:
        """End the open round (only if it has this number, when one is given) and wipe its secrets."""
        if self._round is not None and round in (None, self._round.header.round):
            self._round.wipe()
            self._round = None

    def close(self) -> None:
        """Wipe everything, the epoch's keys included."""
        self.abort()
        if self._epoch:
            self._epoch.wipe()
        self._epoch = None

    def _check_header(self, header: RoundHeader, schema: VectorSchema, epoch: ClientEpoch) -> None:
        guards.check_session(header, epoch.session, epoch.epoch, self.policy.suite)
        guards.check_round_is_new(self.memory.position(header.session), header)
        guards.check_round_limit(header)
        guards.check_min_cohort(len(header.cohort), self.policy)
        guards.check_established(header.cohort, epoch.established, self.client_id)
        guards.check_threshold(header)
        guards.check_schema_hash(header, schema)
        guards.check_schema_capacity(header, schema)
        guards.check_word_widths(schema, self.policy)
        guards.check_length(schema, self.policy)

    def _open_epoch(self) -> ClientEpoch:
        if self._epoch is None:
            raise ProtocolError("no epoch is open; advertise keys first")
        return self._epoch

    def _open_round(self) -> ClientRound:
        if self._round is None:
            raise ProtocolError("message out of order: no round is open on this client")
        return self._round
