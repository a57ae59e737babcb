"""The server's part in one round: add up, agree, rebuild what is missing, unmask (protocol §8)."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ProtocolError
from privacy.secagg import guards, ring, shamir
from privacy.secagg.bundles import TAG_BYTES
from privacy.secagg.client_round import pair_commitment, pair_position, self_commitment
from privacy.secagg.evidence import Evidence, Misbehaviour
from privacy.secagg.keys import Roster
from privacy.secagg.masks import add_masks
from privacy.secagg.messages import (
    Agreement,
    Reveal,
    RevealRequest,
    Survivor,
    SurvivorList,
    Upload,
)
from privacy.secagg.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from privacy.secagg.labels import RoundHeader
    from privacy.secagg.schema import VectorSchema

MAX_SUSPECTS = 2  # wrong shares of one secret that are searched for by leaving holders out


class ServerRound:
    """Collects one round's messages; words are added on arrival, so memory is one vector, not n."""

    def __init__(self, roster: Roster, header: RoundHeader, schema: VectorSchema, min_cohort: int) -> None:
        guards.check_schema_hash(header, schema)
        guards.check_schema_capacity(header, schema)
        self._roster, self._header, self._schema = roster, header, schema
        self._fewest = max(header.threshold, min_cohort)
        self._label = header.label(schema)
        self._total: ring.Vector = np.zeros(schema.byte_length, dtype=np.uint8)
        self._uploads: dict[str, Upload] = {}
        self._digests: dict[str, bytes] = {}
        self._survivors = SurvivorList(self._label, ())
        self._agreements: dict[str, bytes] = {}
        self._reveals: dict[str, Reveal] = {}
        self._phase = "upload"
        self.suspects: set[str] = set()

    @property
    def _names(self) -> list[str]:
        return [survivor.client_id for survivor in self._survivors.survivors]

    def add_upload(self, client_id: str, data: bytes) -> None:
        """Check an upload and add it to the total."""
        guards.check_phase(self._phase, "upload")
        upload = Upload.decode(data)
        guards.check_sender(upload.sender, client_id)
        guards.check_members([client_id], self._header.cohort)
        guards.check_label(upload.label, self._label)
        digest = upload.digest()
        guards.check_signature(self._roster, client_id, upload.signature, Upload.to_sign(self._label, digest))
        self._check_conflict(client_id, digest, upload.signature)
        guards.check_not_seen(client_id, self._uploads)
        guards.check_body_length(len(upload.body), self._schema.byte_length)
        size = len(self._header.cohort)
        lengths = [len(bundle) for bundle in upload.bundles]
        guards.check_upload_counts(
            len(upload.commitments), lengths, size, size * shamir.SHARE_BYTES + TAG_BYTES
        )
        ring.add_into(self._schema, self._total, np.frombuffer(upload.body, dtype=np.uint8))
        self._digests[client_id] = digest
        self._uploads[client_id] = Upload(
            upload.label, client_id, b"", upload.commitments, upload.bundles, upload.signature
        )

    def close_uploads(self) -> dict[str, bytes]:
        """Fix who survives; the same list for every survivor."""
        guards.check_phase(self._phase, "upload")
        names = sorted(self._uploads)
        guards.check_enough_uploads(len(names), self._fewest)
        self._check_pairs(names)
        self._survivors = SurvivorList(
            self._label,
            tuple(Survivor(name, self._digests[name], self._uploads[name].signature) for name in names),
        )
        self._phase = "agree"
        return dict.fromkeys(names, self._survivors.encode())

    def add_agreement(self, client_id: str, data: bytes) -> None:
        """Take a survivor's signature on the list."""
        guards.check_phase(self._phase, "agree")
        message = Agreement.decode(data)
        guards.check_sender(message.sender, client_id)
        guards.check_members([client_id], self._names)
        guards.check_label(message.label, self._label)
        guards.check_not_seen(client_id, self._agreements)
        guards.check_signature(self._roster, client_id, message.signature, self._survivors.to_sign())
        self._agreements[client_id] = message.signature

    def close_agreement(self) -> dict[str, bytes]:
        """All signatures, and to each agreeing client the bundles sealed to it."""
        guards.check_phase(self._phase, "agree")
        guards.check_enough_agreements(len(self._agreements), self._header)
        self._phase = "reveal"
        agreements = tuple(sorted(self._agreements.items()))
        return {
            name: RevealRequest(self._label, agreements, self._bundles_for(name)).encode()
            for name in sorted(self._agreements)
        }

    def add_reveal(self, client_id: str, data: bytes) -> None:
        """Take a client's shares."""
        guards.check_phase(self._phase, "reveal")
        reveal = Reveal.decode(data)
        guards.check_sender(reveal.sender, client_id)
        guards.check_members([client_id], self._agreements)
        guards.check_label(reveal.label, self._label)
        guards.check_not_seen(client_id, self._reveals)
        statement = reveal.to_sign(self._survivors.to_sign())
        guards.check_signature(self._roster, client_id, reveal.signature, statement)
        survivors = len(self._names)
        dropped = len(self._header.cohort) - survivors
        guards.check_share_counts(len(reveal.self_shares), len(reveal.pair_shares), survivors, dropped)
        guards.check_shares_in_field([*reveal.self_shares, *reveal.pair_shares])
        self._reveals[client_id] = reveal

    def result(self) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
        """Rebuild the seeds, take the masks off, check the range."""
        guards.check_phase(self._phase, "reveal")
        guards.check_enough_reveals(len(self._reveals), self._header.threshold)
        plus, minus = self._seeds_to_remove()
        add_masks(self._schema, self._total, self._label, plus=plus, minus=minus)
        sums = ring.decode(self._schema, self._total)
        for section in self._schema.sections:
            values = sums[section.name]
            bound = section.client_bound * len(self._names)
            guards.check_sum_in_range(section.name, int(values.min()), int(values.max()), bound)
        self._phase = "over"
        return sums, tuple(self._names)

    def _check_conflict(self, client_id: str, digest: bytes, signature: bytes) -> None:
        earlier = self._uploads.get(client_id)
        if earlier is not None and self._digests[client_id] != digest:
            items = (self._digests[client_id] + earlier.signature, digest + signature)
            raise Misbehaviour(
                f"{client_id!r} signed two different uploads for one round",
                Evidence("conflicting-uploads", self._label, (client_id,), items),
            )

    def _check_pairs(self, names: Sequence[str]) -> None:
        cohort = self._header.cohort
        for one, other in combinations(names, 2):
            left = self._uploads[one].commitments[pair_position(cohort, one, other)]
            right = self._uploads[other].commitments[pair_position(cohort, other, one)]
            if left != right:
                raise Misbehaviour(
                    f"{one!r} and {other!r} committed to different seeds for their pair; one of them lies",
                    Evidence("pair-commitments", self._label, (one, other), (left, right)),
                )

    def _bundles_for(self, destination: str) -> tuple[tuple[str, bytes], ...]:
        cohort = self._header.cohort
        return tuple(
            (source, self._uploads[source].bundles[pair_position(cohort, source, destination) - 1])
            for source in self._names
            if source != destination
        )

    def _seeds_to_remove(self) -> tuple[list[Secret], list[Secret]]:
        """Seeds whose streams must be added to and subtracted from the total."""
        rebuilder = _Rebuilder(self._label, self._header, self._reveals)
        names = self._names
        dropped = [name for name in self._header.cohort if name not in self._uploads]
        plus: list[Secret] = []
        minus: list[Secret] = []
        for row, name in enumerate(names):
            commitments = self._uploads[name].commitments
            minus.append(
                rebuilder.rebuild(
                    name,
                    {holder: reveal.self_shares[row] for holder, reveal in self._reveals.items()},
                    lambda seed, name=name: self_commitment(self._label, name, seed),
                    commitments[0],
                )
            )
            for column, gone in enumerate(dropped):
                at = row * len(dropped) + column
                seed = rebuilder.rebuild(
                    name,
                    {holder: reveal.pair_shares[at] for holder, reveal in self._reveals.items()},
                    lambda seed, name=name, gone=gone: pair_commitment(self._label, name, gone, seed),
                    commitments[pair_position(self._header.cohort, name, gone)],
                )
                (minus if name < gone else plus).append(seed)
        self.suspects = rebuilder.suspects
        return plus, minus


class _Rebuilder:
    """Rebuilds committed secrets, leaving out holders whose shares do not fit."""

    def __init__(self, label: bytes, header: RoundHeader, reveals: dict[str, Reveal]) -> None:
        self._label, self._threshold = label, header.threshold
        self._points = {name: header.cohort.index(name) + 1 for name in sorted(reveals)}
        self._weights: dict[tuple[str, ...], list[int]] = {}
        self.suspects: set[str] = set()

    def rebuild(
        self, dealer: str, shares: dict[str, bytes], commit: Callable[[bytes], bytes], commitment: bytes
    ) -> Secret:
        """The secret that opens the commitment.

        Raises:
            Misbehaviour: no set of holders without up to ``MAX_SUSPECTS`` of them rebuilds it.
        """
        spare = min(MAX_SUSPECTS, len(self._points) - self._threshold)
        for left_out in range(spare + 1):
            for suspects in combinations(self._points, left_out):
                holders = tuple(h for h in self._points if h not in suspects)[: self._threshold]
                seed = self._combine(holders, shares)
                if seed is not None and commit(seed) == commitment:
                    self.suspects.update(
                        suspects
                    )  # the smallest set whose absence helps: each of them is wrong
                    return Secret(seed)
        raise Misbehaviour(
            f"the shares of a secret dealt by {dealer!r} do not open its commitment",
            Evidence("bad-share", self._label, (dealer, *self._points), (commitment, *shares.values())),
        )

    def _combine(self, holders: tuple[str, ...], shares: dict[str, bytes]) -> bytes | None:
        if holders not in self._weights:
            self._weights[holders] = shamir.lagrange_at_zero([self._points[holder] for holder in holders])
        try:
            return shamir.combine([shares[holder] for holder in holders], self._weights[holders])
        except ProtocolError:
            return None
