"""The protocol against vectors that the plain-Python reference implementation wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.randomness import RandomSource
from privacy.secagg import (
    Identity,
    Roster,
    RoundHeader,
    SecaggClient,
    SecaggPolicy,
    SecaggServer,
    Section,
    Suite,
    VectorSchema,
    masks,
    ring,
    shamir,
)
from privacy.secagg.keys import derive_pair_key
from privacy.secagg.secret import Secret
from tests.privacy.secagg import make_vectors

VECTORS: dict[str, Any] = json.loads(Path(make_vectors.PATH).read_text())


class Recorded(RandomSource):
    """Replays recorded bytes."""

    is_simulated = True

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def random_bytes(self, n: int) -> bytes:
        self._at += n
        assert self._at <= len(self._data)
        return self._data[self._at - n : self._at]

    def derive(self, *labels: str) -> RandomSource:
        raise NotImplementedError

    def is_used_up(self) -> bool:
        return self._at == len(self._data)


def schema_of(sections: list[list[Any]], max_clients: int) -> VectorSchema:
    return VectorSchema([Section(*section) for section in sections], max_clients)


def test_the_file_is_what_the_reference_implementation_says_today():
    assert json.loads(json.dumps(make_vectors.vectors())) == VECTORS


def test_mask_words_at_the_edges_of_sections_and_chunks():
    vector = VECTORS["mask"]
    schema = schema_of(vector["sections"], 1)
    words = np.zeros(schema.byte_length, dtype=np.uint8)
    label = bytes.fromhex(vector["label"])
    masks.add_masks(schema, words, label, plus=[Secret(bytes.fromhex(vector["seed"]))])
    lifted = ring.decode(schema, words)
    bits = {section.name: section.word_bits for section in schema.sections}
    for name, index, expected in vector["words"]:
        assert int(lifted[name][index]) % 2 ** bits[name] == int(expected), (name, index)
    masks.add_masks(schema, words, label, minus=[Secret(bytes.fromhex(vector["seed"]))])
    assert not words.any()


def test_shamir_shares_from_fixed_coefficients():
    vector = VECTORS["shamir"]
    secrets = [bytes.fromhex(secret) for secret in vector["secrets"]]
    source = Recorded(bytes.fromhex(vector["random"]))
    shares = shamir.split(secrets, vector["holders"], vector["threshold"], source)
    assert source.is_used_up()
    for k, expected in enumerate(vector["shares_by_secret"]):
        assert [holder[k].hex() for holder in shares] == expected


def test_hybrid_pair_key():
    vector = VECTORS["pair_key"]
    key = derive_pair_key(
        bytes.fromhex(vector["x25519_shared"]),
        bytes.fromhex(vector["mlkem_shared"]),
        transcript=bytes.fromhex(vector["transcript"]),
        public_parts=tuple(bytes.fromhex(part) for part in vector["public_parts"]),
    )
    assert key.expose().hex() == vector["pair_key"]


@pytest.fixture
def parties():
    vector = VECTORS["round"]
    identities = {
        name: Identity(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(private)))
        for name, private in vector["identities"].items()
    }
    roster = Roster({name: identity.public_bytes() for name, identity in identities.items()})
    policy = SecaggPolicy(suite=Suite.X25519)
    clients = {
        name: SecaggClient(*(name, identity, roster, policy, Recorded(bytes.fromhex(vector["random"][name]))))
        for name, identity in identities.items()
    }
    return clients, SecaggServer(roster, suite=Suite.X25519)


def header_of(vector: dict[str, Any]) -> RoundHeader:
    fields = dict(vector["header"])
    for name in ("session", "task_hash", "model_hash", "catalogue_hash", "schema_hash"):
        fields[name] = bytes.fromhex(fields[name])
    return RoundHeader(**{**fields, "cohort": tuple(fields["cohort"]), "suite": Suite(fields["suite"])})


def test_a_whole_round_with_a_dropout_byte_for_byte(parties: tuple[dict[str, SecaggClient], SecaggServer]):
    vector = VECTORS["round"]
    clients, server = parties
    header, schema = header_of(vector), schema_of(vector["sections"], vector["max_clients"])
    assert header.schema_hash == schema.sha256
    assert header.label(schema).hex() == vector["label"]

    server.begin_epoch(header.session, header.epoch, header.cohort)
    for name, client in clients.items():
        message = client.advertise(header.session, header.epoch, header.cohort)
        assert message.hex() == vector["keys"][name]
        server.add_key(name, message)
    directory = server.key_directory()
    for name, client in clients.items():
        message = client.accept_keys(directory)
        assert message.hex() == vector["confirmations"][name]
        server.add_confirmations(name, message)
    for name, message in server.confirmations().items():
        clients[name].accept_confirmations(message)

    server.open_round(header, schema)
    for name in vector["survivors"]:
        values = {s: np.array(v, dtype=np.int64) for s, v in vector["values"][name].items()}
        message = clients[name].upload(header, schema, values)
        assert message.hex() == vector["uploads"][name]
        server.add_upload(name, message)
    for name, message in server.survivors().items():
        agreement = clients[name].sign_survivors(message)
        assert agreement.hex() == vector["agreements"][name]
        server.add_signature(name, agreement)
    for name, message in server.reveal_requests().items():
        reveal = clients[name].reveal(message)
        assert reveal.hex() == vector["reveals"][name]
        server.add_reveal(name, reveal)
    sums, survivors = server.result()
    assert {name: values.tolist() for name, values in sums.items()} == vector["sums"]
    assert list(survivors) == vector["survivors"]
    plain = {
        section: np.sum([vector["values"][name][section] for name in vector["survivors"]], axis=0).tolist()
        for section in sums
    }
    assert plain == vector["sums"]
