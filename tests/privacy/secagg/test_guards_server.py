"""Every check the server makes in a round, against clients that may send anything.

The functions take no fixtures: ``mutation.py`` calls them one by one with a guard disabled.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from privacy.errors import InputError, ProtocolError
from privacy.secagg import Evidence, Misbehaviour, VectorSchema
from privacy.secagg.messages import Agreement, Reveal, RevealRequest, SurvivorList, Upload
from privacy.secagg.shamir import PRIME
from tests.privacy.secagg.rounds import SMALL, Federation, client_names, same

A, B, C, D = client_names(4)


class Opened:
    """A round is open and every client's upload is made, not yet sent."""

    def __init__(self, n: int = 4, **options) -> None:
        self.federation = Federation(n, **options)
        self.server, self.clients = self.federation.server, self.federation.clients
        self.header = self.federation.open(self.federation.header())
        values = self.federation.values(1)
        self.uploads = {
            name: self.clients[name].upload(self.header, self.federation.schema, values[name])
            for name in self.header.cohort
        }

    def resigned(self, name: str, **changes) -> bytes:
        """An upload as its own client could have altered it."""
        upload = replace(Upload.decode(self.uploads[name]), **changes)
        signature = self.federation.identities[upload.sender].sign(
            Upload.to_sign(upload.label, upload.digest())
        )
        return replace(upload, signature=signature).encode()

    def refused(self, reason: str, message: bytes, name: str = A) -> None:
        with pytest.raises(ProtocolError, match=reason):
            self.server.add_upload(name, message)

    def upload_all(self, names=None) -> dict[str, bytes]:
        for name in names or self.header.cohort:
            self.server.add_upload(name, self.uploads[name])
        return self.server.survivors()


# --- uploads ------------------------------------------------------------------------------------------------


def test_server_opens_rounds_of_its_own_schema_only():
    federation = Federation(4)
    with pytest.raises(ProtocolError, match="another schema"):
        federation.server.open_round(replace(federation.header(), schema_hash=bytes(32)), federation.schema)


def test_server_opens_rounds_the_schema_can_sum_only():
    federation = Federation(4, schema=VectorSchema(SMALL, 3))
    with pytest.raises(ProtocolError, match="the schema is for 3"):
        federation.server.open_round(federation.header(), federation.schema)


def test_server_opens_rounds_of_its_own_epoch_and_members_only():
    federation = Federation(4)
    with pytest.raises(InputError, match="another session"):
        federation.server.open_round(replace(federation.header(), epoch=9), federation.schema)
    with pytest.raises(InputError, match="beyond the epoch's members"):
        federation.server.open_round(federation.header(cohort=(A, B, "silo-09")), federation.schema)


def test_server_takes_no_upload_after_the_list():
    state = Opened()
    state.upload_all((A, B, C))
    state.refused("out of order", state.uploads[D], D)


def test_server_refuses_an_upload_under_another_name():
    state = Opened()
    state.refused("claims to be from", state.uploads[B])


def test_server_refuses_uploads_of_the_uninvited():
    federation = Federation(5)
    header = federation.header(cohort=federation.names[:4])
    federation.open(header)
    ours = Upload.decode(federation.clients[A].upload(header, federation.schema, federation.values()[A]))
    sybil = replace(ours, sender="silo-04")
    signature = federation.identities["silo-04"].sign(Upload.to_sign(sybil.label, sybil.digest()))
    with pytest.raises(ProtocolError, match="not a member"):
        federation.server.add_upload("silo-04", replace(sybil, signature=signature).encode())


def test_server_refuses_an_upload_for_another_label():
    state = Opened()
    other = replace(state.header, model_hash=b"m" * 32, round=2)
    message = state.clients[A].upload(other, state.federation.schema, state.federation.values()[A])
    state.refused("another round's label", message)


def test_server_refuses_an_altered_upload():
    state = Opened()
    upload = Upload.decode(state.uploads[A])
    body = bytes([upload.body[0] ^ 1]) + upload.body[1:]
    state.refused("does not verify", replace(upload, body=body).encode())


def test_server_refuses_a_repeated_upload():
    state = Opened()
    state.server.add_upload(A, state.uploads[A])
    state.refused("second message", state.uploads[A])


def test_two_signed_uploads_are_evidence():
    state = Opened()
    state.server.add_upload(A, state.uploads[A])
    upload = Upload.decode(state.uploads[A])
    with pytest.raises(Misbehaviour, match="two different uploads") as caught:
        state.server.add_upload(A, state.resigned(A, body=bytes(len(upload.body))))
    evidence = Evidence.decode(caught.value.evidence.encode())
    assert evidence.suspects == (A,)
    assert evidence.is_proof(state.federation.roster)
    assert not replace(evidence, suspects=(B,)).is_proof(state.federation.roster)
    assert not replace(evidence, label=bytes(32)).is_proof(state.federation.roster)
    assert not replace(evidence, items=evidence.items[:1] * 2).is_proof(state.federation.roster)


def test_server_refuses_oversize_and_short_vectors():
    for change in (lambda body: body + b"\0", lambda body: body[:-1]):
        state = Opened()
        body = Upload.decode(state.uploads[A]).body
        state.refused("masked vector of", state.resigned(A, body=change(body)))


def test_server_wants_one_commitment_per_seed_and_one_bundle_per_peer():
    upload = Upload.decode(Opened().uploads[A])
    for changes in (
        {"commitments": upload.commitments[1:]},
        {"bundles": upload.bundles[1:]},
        {"bundles": (upload.bundles[0][1:], *upload.bundles[1:])},
    ):
        state = Opened()
        state.refused("one commitment per seed", state.resigned(A, **changes))


def test_server_closes_the_uploads_once():
    state = Opened()
    state.upload_all()
    with pytest.raises(ProtocolError, match="out of order"):
        state.server.survivors()


def test_server_wants_enough_uploads():
    state = Opened()
    with pytest.raises(ProtocolError, match="only 2 clients uploaded"):
        state.upload_all((A, B))


def test_server_notices_seeds_that_do_not_match():
    state = Opened()
    commitments = Upload.decode(state.uploads[B]).commitments
    state.uploads[B] = state.resigned(B, commitments=(commitments[0], bytes(32), *commitments[2:]))
    with pytest.raises(Misbehaviour, match="committed to different seeds") as caught:
        state.upload_all()
    assert caught.value.evidence.suspects == (A, B)


# --- agreement ----------------------------------------------------------------------------------------------


class Listed(Opened):
    """The survivor list went out; A's signature is about to come in."""

    def __init__(self, n: int = 4, names=None, **options) -> None:
        super().__init__(n, **options)
        self.messages = self.upload_all(names)
        self.statement = SurvivorList.decode(self.messages[A]).to_sign()
        self.label = SurvivorList.decode(self.messages[A]).label

    def agreement(self, name: str, **changes) -> bytes:
        signature = self.federation.identities[name].sign(self.statement)
        return replace(Agreement(self.label, name, signature), **changes).encode()

    def refused_agreement(self, reason: str, message: bytes, name: str = A) -> None:
        with pytest.raises(ProtocolError, match=reason):
            self.server.add_signature(name, message)


def test_server_wants_uploads_before_agreement():
    state = Opened()
    with pytest.raises(ProtocolError, match="out of order"):
        state.server.add_signature(A, Agreement(bytes(32), A, bytes(64)).encode())


def test_server_refuses_an_agreement_under_another_name():
    state = Listed()
    state.refused_agreement("claims to be from", state.agreement(B))


def test_server_refuses_agreement_of_the_dropped():
    state = Listed(names=(A, B, C))
    state.refused_agreement("not a member", state.agreement(D), D)


def test_server_refuses_agreement_in_another_round():
    state = Listed()
    state.refused_agreement("another round's label", state.agreement(A, label=bytes(32)))


def test_server_counts_an_agreement_once():
    state = Listed()
    state.server.add_signature(A, state.agreement(A))
    state.refused_agreement("second message", state.agreement(A))


def test_server_refuses_a_false_agreement():
    state = Listed()
    state.refused_agreement("does not verify", state.agreement(A, signature=bytes(64)))


def test_server_closes_the_agreement_once():
    state = Listed()
    for name in (A, B, C, D):
        state.server.add_signature(name, state.agreement(name))
    state.server.reveal_requests()
    with pytest.raises(ProtocolError, match="out of order"):
        state.server.reveal_requests()


def test_server_wants_enough_agreements():
    state = Listed()
    for name in (A, B):
        state.server.add_signature(name, state.agreement(name))
    with pytest.raises(ProtocolError, match="only 2 clients agreed"):
        state.server.reveal_requests()


# --- reveal -------------------------------------------------------------------------------------------------


class Requested(Listed):
    """Everyone who is to agree did; reveals are made, not yet sent."""

    def __init__(self, n: int = 4, names=None, agreeing=None, **options) -> None:
        super().__init__(n, names, **options)
        for name in agreeing or self.messages:
            self.server.add_signature(name, self.clients[name].sign_survivors(self.messages[name]))
        self.reveals = {
            name: self.clients[name].reveal(message)
            for name, message in self.server.reveal_requests().items()
        }

    def resigned_reveal(self, name: str, template: str | None = None, **changes) -> bytes:
        reveal = replace(Reveal.decode(self.reveals[template or name]), sender=name, **changes)
        signature = self.federation.identities[name].sign(reveal.to_sign(self.statement))
        return replace(reveal, signature=signature).encode()

    def refused_reveal(self, reason: str, message: bytes, name: str = A) -> None:
        with pytest.raises(ProtocolError, match=reason):
            self.server.add_reveal(name, message)

    def finish(self, names=None):
        for name in names or self.reveals:
            self.server.add_reveal(name, self.reveals[name])
        return self.server.result()


def test_server_wants_agreement_before_reveals():
    state = Listed()
    with pytest.raises(ProtocolError, match="out of order"):
        state.server.add_reveal(A, Reveal(state.label, A, (), ()).encode())


def test_server_refuses_a_reveal_under_another_name():
    state = Requested()
    state.refused_reveal("claims to be from", state.reveals[B])


def test_server_refuses_a_reveal_of_someone_who_did_not_agree():
    state = Requested(agreeing=(A, B, C))
    state.refused_reveal("not a member", state.resigned_reveal(D, template=A), D)


def test_server_refuses_a_reveal_of_another_round():
    state = Requested()
    state.refused_reveal("another round's label", state.resigned_reveal(A, label=bytes(32)))


def test_server_counts_a_reveal_once():
    state = Requested()
    state.server.add_reveal(A, state.reveals[A])
    state.refused_reveal("second message", state.reveals[A])


def test_server_refuses_a_reveal_nobody_signed():
    state = Requested()
    state.refused_reveal(
        "does not verify", replace(Reveal.decode(state.reveals[A]), signature=bytes(64)).encode()
    )


def test_server_wants_one_kind_of_share_per_client():
    state = Requested(names=(A, B, C))
    reveal = Reveal.decode(state.reveals[A])
    both = state.resigned_reveal(A, self_shares=(*reveal.self_shares, reveal.self_shares[0]))
    state.refused_reveal("wrong number of shares", both)
    state.refused_reveal("wrong number of shares", state.resigned_reveal(A, pair_shares=()))


def test_server_refuses_numbers_outside_the_field():
    state = Requested()
    shares = Reveal.decode(state.reveals[A]).self_shares
    outside = PRIME.to_bytes(33, "little")
    state.refused_reveal("outside the field", state.resigned_reveal(A, self_shares=(outside, *shares[1:])))


def test_server_wants_reveals_before_the_result():
    state = Listed()
    with pytest.raises(ProtocolError, match="out of order"):
        state.server.result()


def test_server_wants_enough_reveals():
    state = Requested()
    with pytest.raises(ProtocolError, match="only 2 clients revealed"):
        state.finish((A, B))


def test_a_bad_share_is_noticed():
    state = Requested(agreeing=(A, B, C))
    shares = Reveal.decode(state.reveals[A]).self_shares
    state.reveals[A] = state.resigned_reveal(A, self_shares=(bytes(33), *shares[1:]))
    with pytest.raises(Misbehaviour, match="do not open its commitment") as caught:
        state.finish()
    assert A in caught.value.evidence.suspects


def test_a_bad_share_is_named_and_done_without_when_others_suffice():
    state = Requested(7, names=client_names(6))  # threshold 5, one to spare
    reveal = Reveal.decode(state.reveals[B])
    broken = tuple(bytes(33) for _ in reveal.pair_shares)
    state.reveals[B] = state.resigned_reveal(B, pair_shares=broken)
    sums, survivors = state.finish()
    assert same(sums, state.federation.plain_sum(survivors))
    assert state.server.suspects == {B}


def test_masks_that_do_not_cancel_are_noticed():
    """A client that adds something other than it committed to spoils the sum, and cannot do so unseen."""
    state = Opened()
    body = np.frombuffer(Upload.decode(state.uploads[A]).body, dtype=np.uint8).copy()
    body[7] ^= 0x40  # a high bit of the first 64-bit word
    state.uploads[A] = state.resigned(A, body=body.tobytes())
    # A must agree by hand: its own session knows another digest.
    messages = state.upload_all()
    statement = SurvivorList.decode(messages[B])
    for name in (B, C, D):
        state.server.add_signature(name, state.clients[name].sign_survivors(messages[name]))
    for name, message in state.server.reveal_requests().items():
        state.server.add_reveal(name, state.clients[name].reveal(message))
    assert len(statement.survivors) == 4
    with pytest.raises(ProtocolError, match="masks did not cancel"):
        state.server.result()


def test_a_bad_message_leaves_the_round_as_it_was():
    state = Opened()
    state.refused("does not verify", replace(Upload.decode(state.uploads[A]), body=b"").encode())
    messages = state.upload_all()
    for name, message in messages.items():
        state.server.add_signature(name, state.clients[name].sign_survivors(message))
    requests = state.server.reveal_requests()
    assert all(RevealRequest.decode(request).bundles for request in requests.values())
    for name, message in requests.items():
        state.server.add_reveal(name, state.clients[name].reveal(message))
    sums, survivors = state.server.result()
    assert same(sums, state.federation.plain_sum(survivors))
