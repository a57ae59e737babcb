"""Every check a client makes in a round, against a server that may send anything.

The functions take no fixtures: ``mutation.py`` calls them one by one with a guard disabled.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from privacy.errors import PolicyRefusal, ProtocolError
from privacy.secagg import ClientMemory, RoundHeader, SecaggPolicy, Suite, VectorSchema
from privacy.secagg.messages import RevealRequest, Survivor, SurvivorList, Upload
from tests.privacy.secagg.rounds import SMALL, Federation, client_names

A, B, C, D = client_names(4)
CLASSICAL = SecaggPolicy(suite=Suite.X25519)


def upload(federation: Federation, header: RoundHeader, name: str = A, **options) -> bytes:
    return federation.clients[name].upload(header, federation.schema, federation.values()[name], **options)


def refused_header(reason: str, error: type[Exception] = ProtocolError, federation=None, **changes) -> None:
    federation = federation or Federation(4)
    header = replace(federation.header(), **changes)
    with pytest.raises(error, match=reason):
        upload(federation, header)
    assert not federation.clients[A].memory.answers, "a refused header must leave no trace"


# --- the header ---------------------------------------------------------------------------------------------


def test_client_refuses_a_header_of_another_session():
    refused_header("another session", session=b"elsewhere")


def test_client_refuses_a_header_of_another_epoch():
    refused_header("another session, epoch", epoch=2)


def test_client_refuses_a_header_of_another_suite():
    refused_header("another session, epoch or suite", suite=Suite.X25519_MLKEM768)


def test_client_refuses_a_replayed_round():
    federation = Federation(4)
    upload(federation, federation.header(5))
    for number in (5, 4):
        with pytest.raises(ProtocolError, match="does not follow"):
            upload(federation, federation.header(number, model_hash=b"m" * 32))


def test_client_has_no_keys_of_the_past_even_if_it_forgot_it():
    federation = Federation(4)
    upload(federation, federation.header(5))
    for number in (5, 4):
        federation.clients[A].memory = ClientMemory()
        with pytest.raises(ProtocolError, match=r"keys of round \d are gone"):
            upload(federation, federation.header(number, task=f"another {number}"))


def test_client_refuses_an_epoch_that_never_ends():
    refused_header("begin a new epoch", round=1001)


def test_client_refuses_a_small_cohort():
    refused_header("2 clients take part", PolicyRefusal, cohort=(A, B), threshold=2)


def test_client_refuses_a_cohort_without_keys():
    federation = Federation(5, keys_exchanged=False)
    federation.exchange_keys(silent_confirmations=["silo-04"])
    refused_header("no keys are agreed with 'silo-04'", federation=federation, cohort=federation.names)


def test_client_refuses_a_round_it_is_no_part_of():
    refused_header("not invited", cohort=(B, C, D))


def test_client_refuses_a_low_threshold():
    refused_header("threshold 2 for 4 clients", PolicyRefusal, threshold=2)


def test_client_accepts_a_higher_threshold():
    federation = Federation(4)
    sums, survivors = federation.run(replace(federation.header(), threshold=4))
    assert len(survivors) == 4
    assert sums


def test_client_refuses_another_schema():
    refused_header("another schema", schema_hash=bytes(32))


def test_client_refuses_more_clients_than_the_schema_can_sum():
    refused_header("the schema is for 3", federation=Federation(4, schema=VectorSchema(SMALL, 3)))


def test_client_refuses_word_widths_it_does_not_like():
    policy = replace(CLASSICAL, word_bits=(32, 64))
    refused_header(r"words of \[16\] bits", PolicyRefusal, federation=Federation(4, policy=policy))


def test_client_refuses_oversize_vectors():
    policy = replace(CLASSICAL, max_words=10)
    refused_header("11 words asked", PolicyRefusal, federation=Federation(4, policy=policy))


def test_client_answers_once_per_task_and_model():
    federation = Federation(4)
    federation.run()
    for retry in (False, True):
        with pytest.raises(PolicyRefusal, match="answers for this model already"):
            upload(federation, federation.header(2), may_retry=retry)
    upload(federation, federation.header(2, task="metrics"))
    upload(federation, federation.header(3, model_hash=b"m" * 32))


def test_client_counts_an_aborted_answer_and_has_a_retry_budget():
    federation = Federation(4)
    upload(federation, federation.header(1))
    with pytest.raises(PolicyRefusal, match="0 retries"):
        upload(federation, federation.header(2))
    upload(federation, federation.header(2), may_retry=True)
    with pytest.raises(PolicyRefusal, match="1 retries"):
        upload(federation, federation.header(3), may_retry=True)


def test_the_header_must_describe_what_was_received():
    header = Federation(4).header()
    header.require(model_hash=header.model_hash, task="gradients")
    with pytest.raises(ProtocolError, match="differs from what was received in model_hash"):
        header.require(model_hash=bytes(32), task="gradients")


# --- the survivors ------------------------------------------------------------------------------------------


class Uploaded:
    """Everyone (or the named) uploaded; the survivor list is about to be sent to A."""

    def __init__(self, n: int = 4, names=None, number: int = 1, federation=None, **options) -> None:
        self.federation = federation or Federation(n, **options)
        self.header = self.federation.open(self.federation.header(number, model_hash=bytes([number]) * 32))
        self.names = list(names or self.federation.names)
        self.federation.upload(self.header, self.names)
        self.messages = self.federation.server.survivors()
        self.list = SurvivorList.decode(self.messages[self.names[0]])

    def signed(self, name: str, digest: bytes) -> Survivor:
        """A line of the list as the client of that name could sign it."""
        statement = Upload.to_sign(self.list.label, digest)
        return Survivor(name, digest, self.federation.identities[name].sign(statement))

    def refused(self, reason: str, survivors=None, error: type[Exception] = ProtocolError, **changes) -> None:
        client = self.federation.clients[A]
        changed = replace(self.list, **changes)
        if survivors is not None:
            changed = replace(changed, survivors=tuple(survivors))
        with pytest.raises(error, match=reason):
            client.sign_survivors(changed.encode())
        with pytest.raises(ProtocolError, match="no round is open"):  # the round is over, its secrets gone
            client.sign_survivors(self.messages[A])


def test_client_signs_one_list_only():
    state = Uploaded()
    client = state.federation.clients[A]
    client.sign_survivors(state.messages[A])
    second = replace(state.list, survivors=state.list.survivors[:3])  # would call D dropped: both its shares
    with pytest.raises(ProtocolError, match="out of order"):
        client.sign_survivors(second.encode())


def test_client_refuses_a_list_of_another_round():
    Uploaded().refused("another round's label", label=bytes(32))


def test_client_refuses_a_survivor_twice():
    state = Uploaded()
    state.refused("repeat", (*state.list.survivors[:3], state.list.survivors[2]))


def test_client_refuses_survivors_from_outside_the_cohort():
    federation = Federation(5)
    header = federation.header(cohort=federation.names[:4])
    federation.open(header)
    federation.upload(header)
    message = SurvivorList.decode(federation.server.survivors()[A])
    digest = bytes(32)
    signature = federation.identities["silo-04"].sign(Upload.to_sign(message.label, digest))
    sybil = replace(message, survivors=(*message.survivors, Survivor("silo-04", digest, signature)))
    with pytest.raises(ProtocolError, match="not a member"):
        federation.clients[A].sign_survivors(sybil.encode())


def test_client_refuses_a_list_without_its_own_upload():
    state = Uploaded()
    state.refused("own upload is missing", state.list.survivors[1:])


def test_client_refuses_its_own_upload_altered():
    state = Uploaded()
    state.refused("own upload is missing", (state.signed(A, bytes(32)), *state.list.survivors[1:]))


def test_client_refuses_another_clients_upload_altered():
    state = Uploaded()
    altered = replace(state.list.survivors[1], digest=bytes(32))
    state.refused("does not verify", (state.list.survivors[0], altered, *state.list.survivors[2:]))


def test_client_refuses_a_lent_signature():
    state = Uploaded()
    lent = replace(state.list.survivors[2], client_id=B)
    state.refused("does not verify", (state.list.survivors[0], lent, *state.list.survivors[2:]))


def test_client_refuses_too_few_survivors():
    state = Uploaded()
    state.refused("only 2 uploads survive", state.list.survivors[:2])


def test_client_keeps_its_own_minimum_after_dropouts():
    state = Uploaded(names=(A, B, C), policy=replace(CLASSICAL, min_cohort=4))
    state.refused("3 clients take part", error=PolicyRefusal)


def test_client_refuses_sums_that_differ_by_one_client():
    federation = Federation(4)
    federation.run()
    state = Uploaded(names=(A, B, C), number=3, federation=federation)
    state.refused("differ from those of an earlier sum", error=PolicyRefusal)


def test_sums_that_differ_by_one_client_are_fine_with_noise_or_by_policy():
    for policy, noised in ((CLASSICAL, True), (replace(CLASSICAL, refuse_sum_difference=False), False)):
        federation = Federation(4, policy=policy)
        federation.run(is_noised=noised)
        header = federation.header(2, model_hash=b"m" * 32)
        _, survivors = federation.run(header, silent_upload=[D], is_noised=noised)
        assert survivors == (A, B, C)


# --- the reveal ---------------------------------------------------------------------------------------------


class Agreed(Uploaded):
    """Everyone agreed; the reveal request is about to be sent to A."""

    def __init__(self, n: int = 4, names=None, **options) -> None:
        super().__init__(n, names, **options)
        for name, message in self.messages.items():
            self.federation.server.add_signature(name, self.federation.clients[name].sign_survivors(message))
        self.requests = self.federation.server.reveal_requests()
        self.request = RevealRequest.decode(self.requests[A])

    def refused_request(self, reason: str, **changes) -> None:
        client = self.federation.clients[A]
        with pytest.raises(ProtocolError, match=reason):
            client.reveal(replace(self.request, **changes).encode())
        with pytest.raises(ProtocolError, match="no round is open"):
            client.reveal(self.requests[A])


def test_client_reveals_nothing_before_it_agreed():
    state = Uploaded()
    others = [state.federation.clients[name].sign_survivors(state.messages[name]) for name in (B, C, D)]
    for name, message in zip((B, C, D), others, strict=True):
        state.federation.server.add_signature(name, message)
    request = RevealRequest.decode(state.federation.server.reveal_requests()[B])
    with pytest.raises(ProtocolError, match="out of order"):
        state.federation.clients[A].reveal(request.encode())


def test_client_reveals_once():
    state = Agreed()
    state.federation.clients[A].reveal(state.requests[A])
    with pytest.raises(ProtocolError, match="no round is open"):
        state.federation.clients[A].reveal(state.requests[A])


def test_client_refuses_a_request_of_another_round():
    Agreed().refused_request("another round's label", label=bytes(32))


def test_client_refuses_one_signature_counted_twice():
    state = Agreed()
    first, second, *_ = state.request.agreements
    state.refused_request("repeat", agreements=(first, second, second))


def test_client_refuses_signatures_of_the_dropped():
    state = Agreed(5, names=client_names(4))
    colluder = state.federation.identities["silo-04"].sign(state.list.to_sign())
    agreements = (*state.request.agreements[:3], ("silo-04", colluder))
    state.refused_request("not a member", agreements=agreements)


def test_client_refuses_too_few_agreements():
    state = Agreed()
    state.refused_request("only 2 clients agreed", agreements=state.request.agreements[:2])


def test_client_refuses_agreement_to_another_list():
    state = Agreed()
    split = replace(state.list, survivors=state.list.survivors[:3]).to_sign()
    forged = tuple((name, state.federation.identities[name].sign(split)) for name in (A, B, C))
    state.refused_request("does not verify", agreements=forged)


def test_client_refuses_a_lent_agreement():
    state = Agreed()
    (first, signature), *rest = state.request.agreements
    lent = ((first, signature), (rest[0][0], signature), *rest[1:])
    state.refused_request("does not verify", agreements=lent)


def test_client_wants_the_bundle_of_every_survivor():
    state = Agreed()
    for bundles in (
        state.request.bundles[1:],
        (*state.request.bundles[:1], *state.request.bundles),
        (*state.request.bundles[:2], ("silo-09", b"")),
    ):
        Agreed().refused_request("one bundle from every other survivor", bundles=bundles)


def test_client_refuses_a_bundle_of_another_pair():
    state = Agreed()
    foreign = RevealRequest.decode(state.requests[B]).bundles[0]
    (source, _), *rest = state.request.bundles
    state.refused_request("not what its sender sealed", bundles=((source, foreign[1]), *rest))


def test_secrets_are_wiped_when_the_round_ends():
    for end in (
        lambda f: f.clients[A].abort(1),
        lambda f: f.run(f.header(2, model_hash=b"m" * 32)),
        lambda f: None,
    ):
        state = Agreed()
        current = state.federation.clients[A]._round
        secrets = [key for keys in current._keys.values() for key in (keys.seed, keys.seal, keys.open)]
        secrets += current._own_shares
        assert all(key.seed.is_wiped for key in current._keys.values()), "pair seeds go right after masking"
        end(state.federation)
        if state.federation.clients[A]._round is not None:
            state.federation.clients[A].reveal(state.requests[A])
        assert all(secret.is_wiped for secret in secrets)


def test_abort_of_another_round_changes_nothing():
    state = Agreed()
    state.federation.clients[A].abort(round=7)
    assert state.federation.clients[A].reveal(state.requests[A])
