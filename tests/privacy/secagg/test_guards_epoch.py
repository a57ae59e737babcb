"""Every check of the key exchange: one lie, one refusal.

The functions take no fixtures: ``mutation.py`` calls them one by one with a guard disabled.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from privacy.errors import PolicyRefusal, ProtocolError
from privacy.secagg import SecaggPolicy, Suite
from privacy.secagg.messages import (
    Confirmation,
    KeyMessage,
    decode_confirmations,
    decode_keys,
    encode_confirmations,
    encode_keys,
)
from tests.privacy.secagg.rounds import SESSION, Federation, client_names

A, B, C, D = client_names(4)


class Exchange:
    """A key exchange stopped where a test wants to lie."""

    def __init__(self, n: int = 4, cohort: int | None = None, **options) -> None:
        self.federation = Federation(n, keys_exchanged=False, **options)
        self.server, self.clients = self.federation.server, self.federation.clients
        self.cohort = self.federation.names[:cohort]
        self.server.begin_epoch(SESSION, 1, self.cohort)
        self.keys = {name: self.clients[name].advertise(SESSION, 1, self.cohort) for name in self.cohort}

    def sign_key(self, name: str, **changes) -> bytes:
        """A key message as its owner could make it, with anything changed."""
        template = KeyMessage.decode(self.keys[self.cohort[0]])
        message = replace(template, client_id=name, **changes)
        return replace(message, signature=self.federation.identities[name].sign(message.to_sign())).encode()

    def directory(self, names=None) -> bytes:
        return encode_keys([self.keys[name] for name in names or self.cohort])

    def collect(self, names=None) -> bytes:
        for name in names or self.cohort:
            self.server.add_key(name, self.keys[name])
        return self.server.key_directory()

    def confirm(self) -> dict[str, bytes]:
        directory = self.directory()
        return {name: self.clients[name].accept_keys(directory) for name in self.cohort}

    def addressed_to(self, name: str, messages: dict[str, bytes]) -> list[Confirmation]:
        items = [item for message in messages.values() for item in decode_confirmations(message)]
        return [item for item in items if item.destination == name]

    def sign_confirmation(self, item: Confirmation, **changes) -> Confirmation:
        item = replace(item, **changes)
        return replace(item, signature=self.federation.identities[item.source].sign(item.to_sign()))


# --- the client, against the server and other clients -------------------------------------------------------


def test_client_refuses_an_epoch_number_again():
    exchange = Exchange()
    with pytest.raises(ProtocolError, match="does not follow"):
        exchange.clients[A].advertise(SESSION, 1, exchange.cohort)


def test_client_refuses_an_unsorted_cohort():
    exchange = Exchange()
    with pytest.raises(ProtocolError, match="repeat or are out of order"):
        exchange.clients[A].advertise(SESSION, 2, (B, A, C, D))


def test_client_refuses_strangers_in_the_cohort():
    exchange = Exchange()
    with pytest.raises(ProtocolError, match="not in the roster"):
        exchange.clients[A].advertise(SESSION, 2, (*exchange.cohort, "stranger"))


def test_client_refuses_an_epoch_it_is_no_part_of():
    exchange = Exchange()
    with pytest.raises(ProtocolError, match="not a member"):
        exchange.clients[A].advertise(SESSION, 2, (B, C, D))


def test_client_refuses_a_small_epoch():
    exchange = Exchange()
    with pytest.raises(PolicyRefusal, match="2 clients take part"):
        exchange.clients[A].advertise(SESSION, 2, (A, B))


def test_client_refuses_a_crowd():
    policy = SecaggPolicy(suite=Suite.X25519, max_cohort=3)
    federation = Federation(4, policy=policy, keys_exchanged=False)
    with pytest.raises(PolicyRefusal, match="4 clients invited"):
        federation.clients[A].advertise(SESSION, 1, federation.names)


def test_client_accepts_one_directory_per_epoch():
    exchange = Exchange()
    exchange.clients[A].accept_keys(exchange.directory())
    with pytest.raises(ProtocolError, match="out of order"):
        exchange.clients[A].accept_keys(exchange.directory())


def test_client_refuses_a_key_twice_in_the_directory():
    exchange = Exchange()
    with pytest.raises(ProtocolError, match="repeat"):
        exchange.clients[A].accept_keys(exchange.directory((A, B, B, C, D)))


def test_client_refuses_keys_of_the_uninvited():
    exchange = Exchange(5, cohort=4)
    exchange.keys["silo-04"] = exchange.sign_key("silo-04", x25519=bytes([9]) * 32)
    with pytest.raises(ProtocolError, match="not a member"):
        exchange.clients[A].accept_keys(exchange.directory((*exchange.cohort, "silo-04")))


def test_client_refuses_a_directory_of_two():
    exchange = Exchange()
    with pytest.raises(PolicyRefusal, match="2 clients take part"):
        exchange.clients[A].accept_keys(exchange.directory((A, B)))


def test_client_refuses_a_stale_key():
    exchange = Exchange()
    stale = exchange.keys[B]
    exchange.keys = {
        name: exchange.clients[name].advertise(SESSION, 2, exchange.cohort) for name in (A, B, C, D)
    }
    exchange.keys[B] = stale
    with pytest.raises(ProtocolError, match="another session, epoch or cohort"):
        exchange.clients[A].accept_keys(exchange.directory())


def test_client_refuses_keys_of_another_suite():
    exchange = Exchange()
    exchange.keys[B] = exchange.sign_key(B, x25519=bytes([9]) * 32, mlkem=bytes(1184))
    with pytest.raises(ProtocolError, match="keys of suite X25519"):
        exchange.clients[A].accept_keys(exchange.directory())


def test_client_refuses_a_downgrade_from_the_hybrid_suite():
    exchange = Exchange(suite=Suite.X25519_MLKEM768)
    exchange.keys[B] = exchange.sign_key(B, x25519=bytes([9]) * 32, mlkem=b"")
    with pytest.raises(ProtocolError, match="keys of suite X25519_MLKEM768"):
        exchange.clients[A].accept_keys(exchange.directory())


def test_client_refuses_a_key_the_server_swapped():
    exchange = Exchange()
    swapped = replace(KeyMessage.decode(exchange.keys[B]), x25519=bytes([9]) * 32)
    exchange.keys[B] = swapped.encode()
    with pytest.raises(ProtocolError, match="does not verify under the enrolled key of 'silo-01'"):
        exchange.clients[A].accept_keys(exchange.directory())


def test_client_refuses_a_directory_without_its_own_key():
    exchange = Exchange()
    with pytest.raises(ProtocolError, match="own key"):
        exchange.clients[A].accept_keys(exchange.directory((B, C, D)))


def test_client_refuses_a_copied_key():
    exchange = Exchange()
    exchange.keys[B] = exchange.sign_key(B, x25519=KeyMessage.decode(exchange.keys[C]).x25519)
    with pytest.raises(ProtocolError, match="same agreement key"):
        exchange.clients[A].accept_keys(exchange.directory())


def test_client_refuses_a_key_of_small_order():
    exchange = Exchange()
    exchange.keys[B] = exchange.sign_key(B, x25519=bytes(32))
    confirmations = {name: exchange.clients[name].accept_keys(exchange.directory()) for name in (A, C, D)}
    items = [
        exchange.sign_confirmation(item, source=B) if item.source == C else item
        for item in exchange.addressed_to(A, confirmations)
        if item.source in (C, D)
    ]
    with pytest.raises(ProtocolError, match="small order"):
        exchange.clients[A].accept_confirmations(encode_confirmations(items))


def test_client_wants_keys_before_confirmations():
    exchange = Exchange()
    with pytest.raises(ProtocolError, match="out of order"):
        exchange.clients[A].accept_confirmations(encode_confirmations([]))


def test_client_refuses_a_second_confirmation_of_one_peer():
    exchange = Exchange()
    items = exchange.addressed_to(A, exchange.confirm())
    with pytest.raises(ProtocolError, match="repeat"):
        exchange.clients[A].accept_confirmations(encode_confirmations([items[0], *items]))


def test_client_refuses_a_misdelivered_confirmation():
    exchange = Exchange()
    items = exchange.addressed_to(C, exchange.confirm())
    with pytest.raises(ProtocolError, match="misdelivered"):
        exchange.clients[A].accept_confirmations(encode_confirmations(items[1:]))


def test_client_refuses_a_confirmation_of_someone_who_sent_no_key():
    exchange = Exchange(5)
    four = exchange.directory((A, B, C, D))
    own = {name: exchange.clients[name].accept_keys(four) for name in (A, B, C, D)}
    item = exchange.addressed_to(A, own)[0]
    forged = exchange.sign_confirmation(item, source="silo-04")
    with pytest.raises(ProtocolError, match="misdelivered"):
        exchange.clients[A].accept_confirmations(encode_confirmations([forged]))


def test_client_refuses_a_split_view_of_the_keys():
    exchange = Exchange()
    exchange.clients[A].accept_keys(exchange.directory())
    other_view = {name: exchange.clients[name].accept_keys(exchange.directory((A, B, C))) for name in (B, C)}
    with pytest.raises(ProtocolError, match="another key directory"):
        exchange.clients[A].accept_confirmations(encode_confirmations(exchange.addressed_to(A, other_view)))


def test_client_refuses_a_ciphertext_where_none_is_due():
    exchange = Exchange()
    items = exchange.addressed_to(A, exchange.confirm())
    items[0] = exchange.sign_confirmation(items[0], ciphertext=bytes(1088))
    with pytest.raises(ProtocolError, match="KEM ciphertext"):
        exchange.clients[A].accept_confirmations(encode_confirmations(items))


def test_client_refuses_a_ciphertext_the_server_swapped():
    exchange = Exchange(suite=Suite.X25519_MLKEM768)
    items = exchange.addressed_to(D, exchange.confirm())
    items[0] = replace(items[0], ciphertext=items[1].ciphertext)
    with pytest.raises(ProtocolError, match="does not verify"):
        exchange.clients[D].accept_confirmations(encode_confirmations(items))


# --- the server, against clients ----------------------------------------------------------------------------


def test_server_refuses_strangers_in_the_cohort():
    with pytest.raises(ProtocolError, match="not in the roster"):
        Exchange().server.begin_epoch(SESSION, 2, (A, B, C, "stranger"))


def test_server_takes_no_key_after_the_directory():
    exchange = Exchange()
    exchange.collect((A, B, C))
    with pytest.raises(ProtocolError, match="out of order"):
        exchange.server.add_key(D, exchange.keys[D])


def test_server_refuses_a_key_under_another_name():
    exchange = Exchange()
    with pytest.raises(ProtocolError, match="claims to be from"):
        exchange.server.add_key(B, exchange.keys[A])


def test_server_refuses_a_key_of_the_uninvited():
    exchange = Exchange(5, cohort=4)
    with pytest.raises(ProtocolError, match="not a member"):
        exchange.server.add_key("silo-04", exchange.sign_key("silo-04", x25519=bytes([9]) * 32))


def test_server_takes_one_key_per_client():
    exchange = Exchange()
    exchange.server.add_key(A, exchange.keys[A])
    with pytest.raises(ProtocolError, match="second message"):
        exchange.server.add_key(A, exchange.keys[A])


def test_server_makes_one_directory():
    exchange = Exchange()
    exchange.collect()
    with pytest.raises(ProtocolError, match="out of order"):
        exchange.server.key_directory()


def test_server_wants_keys_before_confirmations():
    exchange = Exchange()
    for name in (A, B, C, D):
        exchange.server.add_key(name, exchange.keys[name])
    with pytest.raises(ProtocolError, match="out of order"):
        exchange.server.add_confirmations(A, exchange.confirm()[A])


def test_server_refuses_confirmations_of_someone_without_keys():
    exchange = Exchange()
    directory = exchange.collect((A, B, C))
    own = {name: exchange.clients[name].accept_keys(directory) for name in (A, B, C)}
    forged = [
        exchange.sign_confirmation(item, source=D, destination=name)
        for name, item in zip((A, B, C), decode_confirmations(own[A]) * 2, strict=False)
    ]
    with pytest.raises(ProtocolError, match="not a member"):
        exchange.server.add_confirmations(D, encode_confirmations(forged))


def lie_in_confirmations(lie, **options) -> None:
    """Client A sends the server its confirmations as changed by ``lie(exchange, items)``."""
    exchange = Exchange(**options)
    exchange.collect()
    items = list(decode_confirmations(exchange.confirm()[A]))
    exchange.server.add_confirmations(A, encode_confirmations(lie(exchange, items)))


def test_server_takes_confirmations_once():
    exchange = Exchange()
    exchange.collect()
    confirmations = exchange.confirm()
    exchange.server.add_confirmations(A, confirmations[A])
    with pytest.raises(ProtocolError, match="second message"):
        exchange.server.add_confirmations(A, confirmations[A])


def test_server_wants_a_confirmation_to_every_peer():
    with pytest.raises(ProtocolError, match="exactly the other clients"):
        lie_in_confirmations(lambda exchange, items: items[1:])


def test_server_refuses_confirmations_of_another_source():
    with pytest.raises(ProtocolError, match="claims to be from"):
        lie_in_confirmations(lambda exchange, items: [*items[1:], replace(items[0], source=C)])


def test_server_refuses_confirmations_of_another_directory():
    with pytest.raises(ProtocolError, match="another key directory"):
        lie_in_confirmations(
            lambda exchange, items: [*items[1:], exchange.sign_confirmation(items[0], transcript=bytes(32))]
        )


def test_server_refuses_a_ciphertext_where_none_is_due():
    with pytest.raises(ProtocolError, match="KEM ciphertext"):
        lie_in_confirmations(
            lambda exchange, items: [*items[1:], exchange.sign_confirmation(items[0], ciphertext=bytes(1088))]
        )


def test_server_refuses_confirmations_with_a_false_signature():
    with pytest.raises(ProtocolError, match="does not verify"):
        lie_in_confirmations(lambda exchange, items: [*items[1:], replace(items[0], signature=bytes(64))])


def test_server_closes_the_exchange_once():
    federation = Federation(4)
    with pytest.raises(ProtocolError, match="out of order"):
        federation.server.confirmations()


def test_the_directory_is_what_clients_signed():
    exchange = Exchange()
    assert [message.encode() for message in decode_keys(exchange.collect())] == list(exchange.keys.values())
