from __future__ import annotations

import time

import pytest

from privacy.errors import InputError
from simulations.loopback import Loopback


class Echo:
    """Answers with its name and what it was asked; keeps count."""

    def __init__(self, client_id: str, wait: float = 0.0) -> None:
        self.client_id, self.wait = client_id, wait
        self.asked: list[str] = []

    def answer(self, kind: str, payload: bytes) -> bytes:
        self.asked.append(kind)
        time.sleep(self.wait)
        return self.client_id.encode() + b":" + payload


def echoes(*names: str) -> dict[str, Echo]:
    return {name: Echo(name) for name in names}


def test_requests_reach_their_clients_and_answers_come_back() -> None:
    transport = Loopback(echoes("b", "a", "c"))
    assert transport.clients() == ("a", "b", "c")
    assert transport.exchange("query.x", {"c": b"3", "a": b"1"}, deadline_s=5) == {"a": b"a:1", "c": b"c:3"}


def test_a_lost_answer_is_lost_before_or_after_the_work() -> None:
    clients = echoes("a", "b", "c")
    faults = {("a", 0): "before", ("b", 0): "after"}
    transport = Loopback(clients, fault=lambda client, _kind, count: faults.get((client, count)))
    asked = dict.fromkeys(clients, b"")
    assert list(transport.exchange("query.x", asked, deadline_s=5)) == ["c"]
    assert [len(clients[name].asked) for name in "abc"] == [0, 1, 1]
    assert list(transport.exchange("query.x", asked, deadline_s=5)) == ["a", "b", "c"]


def test_a_late_answer_is_none() -> None:
    clients = {"a": Echo("a"), "b": Echo("b", wait=0.2)}
    assert list(Loopback(clients).exchange("query.x", {"a": b"", "b": b""}, deadline_s=0.1)) == ["a"]


@pytest.mark.parametrize(
    ("kind", "client", "deadline", "message"),
    [
        ("query", "a", 1.0, "is not category.action"),
        ("query.x", "z", 1.0, r"no such clients: \['z'\]"),
        ("query.x", "a", 0.0, "deadline_s is 0.0"),
        ("query.x", "a", float("nan"), "deadline_s is nan"),
    ],
)
def test_impossible_exchanges_are_refused(kind: str, client: str, deadline: float, message: str) -> None:
    clients = echoes("a")
    with pytest.raises(InputError, match=message):
        Loopback(clients).exchange(kind, {client: b""}, deadline_s=deadline)
    assert clients["a"].asked == []
