"""Messages on the wire: one form each, nothing else accepted, and bytes that say nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.errors import InputError, PolicyRefusal, ProtocolError
from privacy.randomness import SystemRandomness
from privacy.secagg import ClientMemory, Evidence, RoundHeader, SecaggPolicy, Section, Suite, VectorSchema
from privacy.secagg.memory import Answer
from privacy.secagg.messages import (
    Agreement,
    KeyMessage,
    Reveal,
    RevealRequest,
    Survivor,
    SurvivorList,
    Upload,
    decode_confirmations,
    decode_keys,
)
from tests.privacy.secagg.rounds import SESSION, Federation

L, S = b"L" * 32, b"S" * 64
DECODERS = {
    "key": (KeyMessage.decode, KeyMessage(L, "a", b"x" * 32, b"m", S).encode()),
    "upload": (Upload.decode, Upload(L, "a", b"body", (L, L), (b"bundle",), S).encode()),
    "survivors": (SurvivorList.decode, SurvivorList(L, (Survivor("a", L, S),)).encode()),
    "agreement": (Agreement.decode, Agreement(L, "a", S).encode()),
    "request": (RevealRequest.decode, RevealRequest(L, (("a", S),), (("b", b"sealed"),)).encode()),
    "reveal": (Reveal.decode, Reveal(L, "a", (b"s" * 33,), (b"p" * 33,) * 2, S).encode()),
    "header": (RoundHeader.decode, RoundHeader(b"s", 1, 2, "t", L, L, L, L, ("a", "b"), 2).encode()),
    "evidence": (Evidence.decode, Evidence("bad-share", L, ("a",), (b"1", b"2")).encode()),
    "schema": (VectorSchema.decode, VectorSchema([Section("x", 1, 32, 1)], 3).encode()),
}


def test_an_upload_field_by_field():
    upload = Upload(L, "né", b"\x01\x02", (b"c" * 32,), (b"sealed", b""), S)
    assert upload.encode().hex() == "".join(
        [
            "01" "04",  # version, kind
            L.hex(),  # label
            "03000000" "6ec3a9",  # sender
            "02000000" "0102",  # masked words
            "01000000" + (b"c" * 32).hex(),  # commitments
            "02000000" "06000000" + b"sealed".hex() + "00000000",  # bundles
            S.hex(),  # signature
        ]
    )  # fmt: skip


def test_a_header_field_by_field():
    header = RoundHeader(b"run", 1, 2, "t", b"1" * 32, b"2" * 32, b"3" * 32, b"4" * 32, ("a", "b", "c"), 3)
    assert header.encode().hex() == "".join(
        [
            "01" "02",  # version, suite
            "03000000" + b"run".hex(),  # session
            "0100000000000000" "0200000000000000",  # epoch, round
            "01000000" "74",  # task
            (b"1" * 32 + b"2" * 32 + b"3" * 32 + b"4" * 32).hex(),  # task, model, catalogue, schema
            "03000000" "0100000061" "0100000062" "0100000063",  # cohort
            "03000000",  # threshold
        ]
    )  # fmt: skip


@pytest.mark.parametrize("name", list(DECODERS))
def test_decoding_is_strict(name: str):
    decode, encoded = DECODERS[name]
    assert decode(encoded).encode() == encoded
    for damaged in (b"", encoded[:-1], encoded + b"\0", b"\x07" + encoded[1:]):
        with pytest.raises(ProtocolError):
            decode(damaged)
    for other, (decode_other, _) in DECODERS.items():
        if other != name and name != "schema":
            with pytest.raises(ProtocolError):
                decode_other(encoded)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(DECODERS)), st.binary(max_size=300), st.integers(0, 400))
def test_any_bytes_decode_or_raise_protocol_error(name: str, noise: bytes, at: int):
    decode, encoded = DECODERS[name]
    for data in (noise, encoded[:2] + noise, encoded[:at] + noise + encoded[at + len(noise) :]):
        try:
            decoded = decode(data)
        except ProtocolError:
            continue
        assert decoded.encode() == data, "two encodings of one value"
    for parse in (decode_keys, decode_confirmations):
        try:
            parse(noise)
        except ProtocolError:
            continue


class Recording:
    """One good round with every message a party received, to be replayed damaged."""

    def __init__(self) -> None:
        federation = self.federation = Federation(3, keys_exchanged=False)
        server, clients = federation.server, federation.clients
        server.begin_epoch(SESSION, 1, federation.names)
        keys = {name: client.advertise(SESSION, 1, federation.names) for name, client in clients.items()}
        self.steps = {"add_key": keys["silo-01"]}
        for name in federation.names:
            server.add_key(name, keys[name])
        directory = self.steps["accept_keys"] = server.key_directory()
        confirmations = {name: client.accept_keys(directory) for name, client in clients.items()}
        self.steps["add_confirmations"] = confirmations["silo-01"]
        for name, message in confirmations.items():
            server.add_confirmations(name, message)
        for name, message in server.confirmations().items():
            if name == "silo-01":
                self.steps["accept_confirmations"] = message
            clients[name].accept_confirmations(message)


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_messages_only_ever_raise_protocol_errors(data: st.DataObject):
    """One byte changed, cut or added anywhere in any message of a round: ProtocolError and nothing else."""
    step = data.draw(st.sampled_from(["upload", "survivors", "agreement", "request", "reveal", "header"]))
    federation = Federation(3)
    victim, server = federation.clients["silo-01"], federation.server

    def damage(message: bytes) -> bytes:
        at = data.draw(st.integers(0, len(message) - 1))
        change = data.draw(st.sampled_from(["flip", "cut", "insert", "noise"]))
        if change == "flip":
            return message[:at] + bytes([message[at] ^ data.draw(st.integers(1, 255))]) + message[at + 1 :]
        if change == "insert":
            return message[:at] + b"\0" + message[at:]
        return message[:at] if change == "cut" else data.draw(st.binary(max_size=200))

    header = federation.header()
    if step == "header":
        try:
            changed = RoundHeader.decode(damage(header.encode()))
        except ProtocolError:
            return
        with pytest.raises((ProtocolError, PolicyRefusal)):
            # A header that still parses differs in meaning; the sum can only fail later, at the label.
            victim.upload(changed, federation.schema, federation.values()["silo-01"])
            raise ProtocolError("another label")
        return
    federation.open(header)
    values = federation.values(1)
    uploads = {n: c.upload(header, federation.schema, values[n]) for n, c in federation.clients.items()}
    if step == "upload":
        with pytest.raises(ProtocolError):
            server.add_upload("silo-01", damage(uploads["silo-01"]))
        return
    for name, message in uploads.items():
        server.add_upload(name, message)
    lists = server.survivors()
    if step == "survivors":
        with pytest.raises(ProtocolError):
            victim.sign_survivors(damage(lists["silo-01"]))
        return
    for name, message in lists.items():
        signed = federation.clients[name].sign_survivors(message)
        if step == "agreement" and name == "silo-01":
            with pytest.raises(ProtocolError):
                server.add_signature(name, damage(signed))
            return
        server.add_signature(name, signed)
    requests = server.reveal_requests()
    if step == "request":
        with pytest.raises(ProtocolError):
            victim.reveal(damage(requests["silo-01"]))
        return
    revealed = victim.reveal(requests["silo-01"])
    with pytest.raises(ProtocolError):
        server.add_reveal("silo-01", damage(revealed))


@pytest.mark.parametrize("step", ["add_key", "accept_keys", "add_confirmations", "accept_confirmations"])
def test_damaged_key_messages_only_ever_raise_protocol_errors(step: str):
    recording = Recording()
    message = recording.steps[step]
    generator = np.random.default_rng(0)
    for _ in range(15):
        at = int(generator.integers(len(message)))
        damaged = message[:at] + bytes([message[at] ^ int(generator.integers(1, 256))]) + message[at + 1 :]
        fresh = Federation(3, keys_exchanged=False)
        server, client = fresh.server, fresh.clients["silo-01"]
        server.begin_epoch(SESSION, 1, fresh.names)
        keys = {name: c.advertise(SESSION, 1, fresh.names) for name, c in fresh.clients.items()}
        with pytest.raises((ProtocolError, PolicyRefusal)):
            if step == "add_key":
                server.add_key("silo-01", damaged)
            for name in fresh.names:
                server.add_key(name, keys[name])
            directory = server.key_directory()
            if step == "accept_keys":
                client.accept_keys(damaged)
            for name in fresh.names:
                own = fresh.clients[name].accept_keys(directory)
                server.add_confirmations(
                    name, damaged if (step, name) == ("add_confirmations", "silo-01") else own
                )
            client.accept_confirmations(damaged)


def test_steps_without_an_epoch_or_round_are_protocol_errors():
    federation = Federation(3, keys_exchanged=False)
    client, server = federation.clients["silo-00"], federation.server
    for call in (
        lambda: client.accept_keys(b""),
        lambda: client.sign_survivors(b""),
        lambda: client.reveal(b""),
        lambda: server.add_key("silo-00", b""),
        lambda: server.add_upload("silo-00", b""),
        lambda: server.result(),
    ):
        with pytest.raises(ProtocolError, match="open"):
            call()
    client.close()
    assert client.established == ()


# --- what an upload shows -----------------------------------------------------------------------------------


def chi_square(data: bytes) -> float:
    counts = np.bincount(np.frombuffer(data, dtype=np.uint8), minlength=256)
    expected = len(data) / 256
    return float(((counts - expected) ** 2 / expected).sum())


def test_masked_bytes_of_a_constant_vector_are_uniform():
    """255 degrees of freedom: mean 255, sd 22.6. The unmasked vector is six orders of magnitude off."""
    schema = VectorSchema([Section("g", 60_000, 32, 100)], 3)
    for suite in Suite:
        federation = Federation(3, suite=suite, schema=schema)
        constant = {"g": np.full(60_000, 7, dtype=np.int64)}
        bodies = [
            Upload.decode(client.upload(federation.header(), schema, constant)).body
            for client in federation.clients.values()
        ]
        for body in bodies:
            assert abs(chi_square(body) - 255) < 6 * 22.6
        words = [np.frombuffer(body, dtype="<u4") for body in bodies]
        assert abs(chi_square((words[0] + words[1]).tobytes()) - 255) < 6 * 22.6, (
            "a pair still hides behind the third"
        )
        assert abs(chi_square((words[0] + words[1] + words[2]).tobytes()) - 255) < 6 * 22.6, (
            "self masks remain"
        )
    assert chi_square(np.full(60_000, 7, dtype="<u4").tobytes()) > 1e6


def test_the_same_vector_never_looks_the_same_twice():
    federation = Federation(3)
    client, values = federation.clients["silo-00"], federation.values()["silo-00"]
    bodies = set()
    for number in range(1, 6):
        header = federation.header(number, model_hash=bytes([number]) * 32)
        bodies.add(Upload.decode(client.upload(header, federation.schema, values)).body)
    assert len(bodies) == 5


def test_every_header_field_changes_the_label():
    schema = Federation(3).schema
    header = Federation(3).header()
    changes = {
        "session": b"x", "epoch": 9, "round": 9, "task": "x",
        "task_hash": L, "model_hash": L, "catalogue_hash": L,
        "schema_hash": L, "cohort": ("a", "b", "c"), "threshold": 2, "suite": Suite.X25519_MLKEM768,
    }  # fmt: skip
    labels = {replace(header, **{name: value}).label(schema) for name, value in changes.items()}
    assert len(labels | {header.label(schema)}) == len(changes) + 1
    assert header.label(VectorSchema(schema.sections[:2], 3)) != header.label(schema)


@pytest.mark.parametrize(
    "changes",
    [
        {"session": b""}, {"session": b"x" * 65}, {"epoch": -1}, {"round": 0}, {"task": ""},
        {"task_hash": b"x"},
        {"cohort": ()}, {"cohort": ("b", "a")}, {"cohort": ("a", "a")}, {"cohort": ("", "a")},
        {"threshold": 0}, {"threshold": 4}, {"round": 2**64},
    ],
)  # fmt: skip
def test_impossible_headers_are_refused(changes: dict):
    with pytest.raises(InputError):
        replace(Federation(3).header(), **changes)


# --- policy and memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"min_cohort": 2},
        {"max_cohort": 2},
        {"max_words": 2**27 + 1},
        {"word_bits": (8,)},
        {"retry_budget": -1},
    ],
)
def test_policies_that_protect_nobody_cannot_be_made(changes: dict):
    with pytest.raises(InputError):
        SecaggPolicy(**changes)


def test_memory_survives_json_and_refuses_damage():
    memory = ClientMemory(
        {"aa": (3, 4)}, {("metrics", "bb"): Answer(2, True)}, {frozenset({"a", "b"}), frozenset({"c"})}
    )
    assert ClientMemory.from_json(memory.to_json()) == memory
    for damaged in (
        b"",
        b"{}",
        memory.to_json()[:-1],
        memory.to_json().replace(b'"version":1', b'"version":2'),
    ):
        with pytest.raises(InputError):
            ClientMemory.from_json(damaged)


def test_a_client_needs_its_own_identity_in_the_roster():
    federation = Federation(3)
    client = federation.clients["silo-00"]
    with pytest.raises(InputError, match="does not hold this identity"):
        type(client)(
            *(
                "silo-00",
                federation.identities["silo-01"],
                federation.roster,
                SecaggPolicy(),
                SystemRandomness(),
            )
        )
