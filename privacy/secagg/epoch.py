"""The key exchange of an epoch, on both sides (protocol §7).

Three messages: keys, key directory, confirmations. The confirmation proves that both ends of a pair saw
the same directory and carries the ML-KEM ciphertext from the smaller id to the larger. Pair keys then
move forward by one HKDF step per round *number*, not per label: a client that missed a round still
arrives at the same key, and nobody can go back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy.errors import InputError
from privacy.secagg import guards
from privacy.secagg.bundles import bundle_key
from privacy.secagg.keys import EpochKey, Identity, Roster, derive_pair_key, encapsulate
from privacy.secagg.labels import Suite, names_bytes, require_client_ids, tagged_hash
from privacy.secagg.masks import expand
from privacy.secagg.messages import (
    Confirmation,
    KeyMessage,
    decode_confirmations,
    decode_keys,
    encode_confirmations,
    encode_keys,
)
from privacy.secagg.policy import SecaggPolicy
from privacy.secagg.secret import Secret

if TYPE_CHECKING:
    from privacy.randomness import RandomSource


def epoch_context(suite: Suite, session: bytes, epoch: int, roster: Roster, cohort: Sequence[str]) -> bytes:
    """What an epoch's keys are for; 32 bytes (protocol §7.1)."""
    number = epoch.to_bytes(8, "little")
    return tagged_hash("epoch", bytes([suite]), session, number, roster.sha256, names_bytes(cohort))


def directory_transcript(messages: Sequence[KeyMessage]) -> bytes:
    """Hash of a key directory (protocol §7.3)."""
    return tagged_hash("transcript", *(message.encode() for message in messages))


@dataclass(frozen=True)
class RoundKeys:
    """What one pair derives for one round: the mask seed and a sealing key per direction."""

    seed: Secret
    seal: Secret
    open: Secret

    def wipe(self) -> None:
        """Overwrite all three."""
        for secret in (self.seed, self.seal, self.open):
            secret.wipe()


class ClientEpoch:
    """One client's side of the key exchange, and its pair keys afterwards."""

    def __init__(
        self,
        *,
        client_id: str,
        identity: Identity,
        roster: Roster,
        policy: SecaggPolicy,
        session: bytes,
        epoch: int,
        cohort: Sequence[str],
        randomness: RandomSource,
    ) -> None:
        self.session, self.epoch = session, epoch
        self._client_id, self._identity, self._roster, self._policy = client_id, identity, roster, policy
        self._cohort = tuple(cohort)
        self._context = epoch_context(policy.suite, session, epoch, roster, cohort)
        self._key: EpochKey | None = EpochKey.generate(policy.suite, randomness)
        self._own = self._sign_key(self._key)
        self._directory: dict[str, KeyMessage] = {}
        self._transcript = b""
        self._sent: dict[str, tuple[Secret, bytes]] = {}  # peer -> ML-KEM secret and ciphertext
        self._pair_keys: dict[str, Secret] = {}
        self._next_round = 1
        self._phase = "keys"

    def advertise(self) -> bytes:
        """The signed key message."""
        return self._own.encode()

    def accept_keys(self, data: bytes) -> bytes:
        """Check the key directory; returns this client's confirmations to all others in it."""
        guards.check_phase(self._phase, "keys")
        messages = decode_keys(data)
        guards.check_sorted_ids([message.client_id for message in messages])
        guards.check_members([message.client_id for message in messages], self._cohort)
        guards.check_min_cohort(len(messages), self._policy)
        for message in messages:
            check_key_message(message, self._context, self._policy.suite, self._roster)
        directory = {message.client_id: message for message in messages}
        guards.check_own_key(directory, self._own)
        guards.check_keys_differ(messages)
        self._directory, self._transcript = directory, directory_transcript(messages)
        self._phase = "confirmations"
        return encode_confirmations([self._confirm(peer) for peer in directory if peer != self._client_id])

    def accept_confirmations(self, data: bytes) -> None:
        """Check the others' confirmations and derive a pair key with each of their senders."""
        guards.check_phase(self._phase, "confirmations")
        confirmations = decode_confirmations(data)
        guards.check_sorted_ids([confirmation.source for confirmation in confirmations])
        for confirmation in confirmations:
            guards.check_confirmation_route(confirmation, self._client_id, self._directory)
            guards.check_transcript(confirmation.transcript, self._transcript)
            guards.check_ciphertext(confirmation, self._policy.suite)
            guards.check_signature(
                self._roster, confirmation.source, confirmation.signature, confirmation.to_sign()
            )
        for confirmation in confirmations:
            self._pair_keys[confirmation.source] = self._derive(confirmation)
        self._phase = "ready"
        self._forget_agreement_keys()

    @property
    def established(self) -> tuple[str, ...]:
        """Sorted ids of all clients this one can mask with, itself included; empty before the end."""
        return tuple(sorted({*self._pair_keys, self._client_id})) if self._phase == "ready" else ()

    def round_keys(self, number: int, label: bytes, peers: Sequence[str]) -> dict[str, RoundKeys]:
        """Derive the round's keys with every peer, then move all pair keys past the round for good."""
        guards.check_keys_remain(number, self._next_round)
        self._ratchet(number)
        derived = {
            peer: RoundKeys(
                seed=expand(self._pair_keys[peer], b"secagg/v1/pair" + label),
                seal=bundle_key(self._pair_keys[peer], label, self._client_id, peer),
                open=bundle_key(self._pair_keys[peer], label, peer, self._client_id),
            )
            for peer in peers
        }
        self._ratchet(number + 1)
        return derived

    def wipe(self) -> None:
        """Forget every key of the epoch."""
        self._forget_agreement_keys()
        for secret in self._pair_keys.values():
            secret.wipe()
        self._pair_keys = {}
        self._phase = "over"

    def _sign_key(self, key: EpochKey) -> KeyMessage:
        unsigned = KeyMessage(self._context, self._client_id, key.x25519_public, key.mlkem_public, bytes(64))
        signature = self._identity.sign(unsigned.to_sign())
        return KeyMessage(self._context, self._client_id, key.x25519_public, key.mlkem_public, signature)

    def _confirm(self, peer: str) -> Confirmation:
        ciphertext = b""
        if self._policy.suite is Suite.X25519_MLKEM768 and self._client_id < peer:
            secret, ciphertext = encapsulate(self._directory[peer].mlkem)
            self._sent[peer] = (Secret(secret), ciphertext)
        unsigned = Confirmation(self._client_id, peer, self._transcript, ciphertext, bytes(64))
        signature = self._identity.sign(unsigned.to_sign())
        return Confirmation(self._client_id, peer, self._transcript, ciphertext, signature)

    def _derive(self, confirmation: Confirmation) -> Secret:
        if self._key is None:
            raise InputError("this epoch's agreement keys are gone")
        peer = confirmation.source
        if peer in self._sent:
            mlkem_shared, ciphertext = self._sent[peer][0].expose(), self._sent[peer][1]
        else:
            ciphertext = confirmation.ciphertext
            mlkem_shared = self._key.decapsulate(ciphertext) if ciphertext else b""
        low, high = (self._directory[name] for name in sorted((self._client_id, peer)))
        return derive_pair_key(
            self._key.exchange(self._directory[peer].x25519),
            mlkem_shared,
            transcript=self._transcript,
            public_parts=(
                *(low.client_id.encode(), low.x25519, low.mlkem),
                *(high.client_id.encode(), high.x25519, high.mlkem),
                ciphertext,
            ),
        )

    def _ratchet(self, number: int) -> None:
        for passed in range(self._next_round, number):
            info = b"secagg/v1/ratchet" + passed.to_bytes(8, "little")
            for peer, old in self._pair_keys.items():
                self._pair_keys[peer] = expand(old, info)
                old.wipe()
        self._next_round = number

    def _forget_agreement_keys(self) -> None:
        self._key = None
        for secret, _ in self._sent.values():
            secret.wipe()
        self._sent = {}


class ServerEpoch:
    """The server's side: it relays, and checks what it relays so that a bad message is noticed early."""

    def __init__(
        self, *, roster: Roster, suite: Suite, session: bytes, epoch: int, cohort: Sequence[str]
    ) -> None:
        self.session, self.epoch = session, epoch
        require_client_ids(tuple(cohort))
        guards.check_enrolled(cohort, roster)
        self._roster, self._suite, self._cohort = roster, suite, tuple(cohort)
        self._context = epoch_context(suite, session, epoch, roster, cohort)
        self._keys: dict[str, KeyMessage] = {}
        self._transcript = b""
        self._confirmations: dict[str, dict[str, Confirmation]] = {}
        self._phase = "keys"

    @property
    def members(self) -> tuple[str, ...]:
        """Sorted ids of the clients that confirmed the directory: who can be invited to rounds."""
        return tuple(sorted(self._confirmations))

    def add_key(self, client_id: str, data: bytes) -> None:
        """Take a client's key message."""
        guards.check_phase(self._phase, "keys")
        message = KeyMessage.decode(data)
        guards.check_sender(message.client_id, client_id)
        guards.check_members([client_id], self._cohort)
        guards.check_not_seen(client_id, self._keys)
        check_key_message(message, self._context, self._suite, self._roster)
        self._keys[client_id] = message

    def key_directory(self) -> bytes:
        """Close the collection of keys; the same bytes go to every client that sent one."""
        guards.check_phase(self._phase, "keys")
        messages = [self._keys[client_id] for client_id in sorted(self._keys)]
        self._transcript = directory_transcript(messages)
        self._phase = "confirmations"
        return encode_keys([message.encode() for message in messages])

    def add_confirmations(self, client_id: str, data: bytes) -> None:
        """Take a client's confirmations to all others."""
        guards.check_phase(self._phase, "confirmations")
        guards.check_members([client_id], self._keys)
        guards.check_not_seen(client_id, self._confirmations)
        items = decode_confirmations(data)
        guards.check_confirmation_targets([i.destination for i in items], set(self._keys) - {client_id})
        for item in items:
            guards.check_sender(item.source, client_id)
            guards.check_transcript(item.transcript, self._transcript)
            guards.check_ciphertext(item, self._suite)
            guards.check_signature(self._roster, client_id, item.signature, item.to_sign())
        self._confirmations[client_id] = {item.destination: item for item in items}

    def confirmations(self) -> dict[str, bytes]:
        """Close the exchange: for every member the confirmations addressed to it."""
        guards.check_phase(self._phase, "confirmations")
        self._phase = "ready"
        return {
            member: encode_confirmations(
                [self._confirmations[peer][member] for peer in self.members if peer != member]
            )
            for member in self.members
        }


def check_key_message(message: KeyMessage, context: bytes, suite: Suite, roster: Roster) -> None:
    """The guards for one key message, the same on both sides."""
    guards.check_key_context(message, context)
    guards.check_key_sizes(message, suite)
    guards.check_signature(roster, message.client_id, message.signature, message.to_sign())
