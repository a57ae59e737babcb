"""One client's part in one round: mask and share, agree, reveal once (protocol §8.4 to §8.8)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from privacy.secagg import guards, shamir
from privacy.secagg.bundles import open_bundle, seal
from privacy.secagg.epoch import RoundKeys
from privacy.secagg.keys import Identity, Roster
from privacy.secagg.labels import RoundHeader, tagged_hash
from privacy.secagg.masks import add_masks
from privacy.secagg.messages import (
    Agreement,
    Reveal,
    RevealRequest,
    SurvivorList,
    Upload,
)
from privacy.secagg.ring import Vector
from privacy.secagg.schema import VectorSchema
from privacy.secagg.secret import Secret

if TYPE_CHECKING:
    from privacy.randomness import RandomSource


def self_commitment(label: bytes, client_id: str, seed: bytes) -> bytes:
    """Commitment to a self-mask seed b_i; binding by collision resistance, hiding because b_i is random."""
    return tagged_hash("commit-self", label, client_id.encode(), seed)


def pair_commitment(label: bytes, one: str, other: str, seed: bytes) -> bytes:
    """Commitment to a pair seed s_ij; both ends of an honest pair publish the same bytes."""
    low, high = sorted((one, other))
    return tagged_hash("commit-pair", label, low.encode(), high.encode(), seed)


class ClientRound:
    """The secrets of one round and the three steps that use them.

    Step order is enforced; ``wipe`` ends the round from any step.
    """

    def __init__(
        self,
        *,
        client_id: str,
        identity: Identity,
        roster: Roster,
        header: RoundHeader,
        schema: VectorSchema,
        keys: dict[str, RoundKeys],
    ) -> None:
        self.header, self.label = header, header.label(schema)
        self._client_id, self._identity, self._roster = client_id, identity, roster
        self._schema, self._keys = schema, keys
        self._peers = [peer for peer in header.cohort if peer != client_id]
        self._own_shares: list[Secret] = []  # this client's share of b and of each pair seed it dealt
        self._digest = b""
        self._statement = b""
        self._survivors: tuple[str, ...] = ()
        self._phase = "new"

    def upload(self, vector: Vector, randomness: RandomSource) -> bytes:
        """Mask the words in place; share, seal, commit and sign."""
        self_seed = Secret(randomness.random_bytes(32))
        seeds = [self._keys[peer].seed for peer in self._peers]
        add_masks(
            self._schema,
            vector,
            self.label,
            plus=[self_seed, *(self._keys[p].seed for p in self._peers if p > self._client_id)],
            minus=[self._keys[p].seed for p in self._peers if p < self._client_id],
        )
        upload = Upload(
            self.label,
            self._client_id,
            vector.tobytes(),
            commitments=(
                self_commitment(self.label, self._client_id, self_seed.expose()),
                *(
                    pair_commitment(self.label, self._client_id, peer, seed.expose())
                    for peer, seed in zip(self._peers, seeds, strict=True)
                ),
            ),
            bundles=self._deal([self_seed, *seeds], randomness),
        )
        self._digest = upload.digest()
        self_seed.wipe()
        for seed in seeds:
            seed.wipe()  # from here on only shares can bring the masks back
        self._phase = "agree"
        return replace(
            upload, signature=self._identity.sign(Upload.to_sign(self.label, self._digest))
        ).encode()

    def check_survivors(self, data: bytes) -> SurvivorList:
        """Everything but the client's own memory has to say about a survivor list."""
        guards.check_phase(self._phase, "agree")
        message = SurvivorList.decode(data)
        guards.check_label(message.label, self.label)
        names = [survivor.client_id for survivor in message.survivors]
        guards.check_sorted_ids(names)
        guards.check_members(names, self.header.cohort)
        guards.check_own_upload(message.survivors, self._client_id, self._digest)
        for survivor in message.survivors:
            statement = Upload.to_sign(self.label, survivor.digest)
            guards.check_signature(self._roster, survivor.client_id, survivor.signature, statement)
        guards.check_enough_survivors(len(names), self.header)
        return message

    def agree(self, survivors: SurvivorList) -> bytes:
        """Sign a list that was checked; there is no second one."""
        self._statement = survivors.to_sign()
        self._survivors = tuple(survivor.client_id for survivor in survivors.survivors)
        self._phase = "reveal"
        return Agreement(self.label, self._client_id, self._identity.sign(self._statement)).encode()

    def reveal(self, data: bytes) -> bytes:
        """Give one kind of share per peer: self-mask of survivors, pair seeds of the dropped."""
        guards.check_phase(self._phase, "reveal")
        request = RevealRequest.decode(data)
        guards.check_label(request.label, self.label)
        self._check_agreements(request)
        others = [survivor for survivor in self._survivors if survivor != self._client_id]
        guards.check_bundle_sources([source for source, _ in request.bundles], others)
        held = {self._client_id: [share.expose() for share in self._own_shares]}
        for source, sealed in request.bundles:
            held[source] = open_bundle(self._keys[source].open, self.label, sealed, len(self.header.cohort))
        reveal = self._choose(held)
        self._phase = "over"
        return replace(reveal, signature=self._identity.sign(reveal.to_sign(self._statement))).encode()

    def wipe(self) -> None:
        """Forget every secret of the round."""
        for keys in self._keys.values():
            keys.wipe()
        for share in self._own_shares:
            share.wipe()
        self._phase = "over"

    def _deal(self, secrets: list[Secret], randomness: RandomSource) -> tuple[bytes, ...]:
        cohort = self.header.cohort
        dealt = shamir.split(
            [secret.expose() for secret in secrets], len(cohort), self.header.threshold, randomness
        )
        shares = dict(zip(cohort, dealt, strict=True))
        self._own_shares = [Secret(share) for share in shares[self._client_id]]
        return tuple(seal(self._keys[peer].seal, self.label, shares[peer]) for peer in self._peers)

    def _check_agreements(self, request: RevealRequest) -> None:
        names = [client_id for client_id, _ in request.agreements]
        guards.check_sorted_ids(names)
        guards.check_members(names, self._survivors)
        guards.check_enough_agreements(len(names), self.header)
        for client_id, signature in request.agreements:
            guards.check_signature(self._roster, client_id, signature, self._statement)

    def _choose(self, held: dict[str, list[bytes]]) -> Reveal:
        dropped = [client_id for client_id in self.header.cohort if client_id not in self._survivors]
        self_shares = tuple(held[survivor][0] for survivor in self._survivors)
        pair_shares = tuple(
            held[survivor][pair_position(self.header.cohort, survivor, gone)]
            for survivor in self._survivors
            for gone in dropped
        )
        return Reveal(self.label, self._client_id, self_shares, pair_shares)


def pair_position(cohort: tuple[str, ...], dealer: str, peer: str) -> int:
    """Where s_(dealer, peer) stands among the dealer's secrets: 0 is b, then its peers in cohort order."""
    position = cohort.index(peer)
    return position + 1 if peer < dealer else position
