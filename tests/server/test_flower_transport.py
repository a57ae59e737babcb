"""FlowerTransport against a grid in this process that misbehaves on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from privacy.errors import InputError
from server.flower_transport import HELLO, FlowerTransport
from server.transport import NotEnoughClients

Answer = Callable[[Message], Message | None]


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += max(seconds, 0.001)


class FakeGrid(Grid):
    """Delivers at once; each node answers as its function says, None being silence."""

    def __init__(self, nodes: dict[int, Answer]) -> None:
        self.nodes = nodes
        self.pushed: list[Message] = []
        self.refused: set[int] = set()
        self.unreadable: set[int] = set()
        self._by_id: dict[str, Message] = {}

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        assert len(list(messages)) == len(list(messages)), "the grid walks its argument twice"
        ids: list[Any] = []
        for message in messages:
            if message.metadata.dst_node_id in self.refused:
                ids.append(None)
                continue
            message_id = f"message-{len(self.pushed)}"
            message.metadata.__dict__["_message_id"] = message_id
            self.pushed.append(message)
            self._by_id[message_id] = message
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies: list[Message] = []
        for message_id in message_ids:
            message = self._by_id.get(message_id)
            node = message.metadata.dst_node_id if message else 0
            if message is None or node not in self.nodes:
                continue
            if node in self.unreadable and message.metadata.message_type != HELLO:
                del self._by_id[message_id]
                raise ValueError("cannot inflate")
            TaskIdentity.node_id = node  # a reply is signed with the node that this process stands for
            reply = self.nodes[node](message)
            TaskIdentity.node_id = 1
            if reply is not None:
                del self._by_id[message_id]
                replies.append(reply)
        return replies


@pytest.fixture(autouse=True)
def identity() -> Iterator[None]:
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 7, 1
    yield
    TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def reply(message: Message, client: str, payload: bytes) -> Message:
    array = Array(np.frombuffer(payload, dtype=np.uint8))
    content = {"payload": ArrayRecord({"bytes": array}), "about": ConfigRecord({"client-id": client})}
    return Message(RecordDict(content), reply_to=message)


def payload_of(message: Message) -> bytes:
    return message.content["payload"]["bytes"].numpy().tobytes()  # type: ignore[index,union-attr]


def echo(client: str) -> Answer:
    return lambda message: reply(message, client, payload_of(message)[::-1])


def only_hello(client: str, then: Answer) -> Answer:
    """Introduces itself properly and misbehaves afterwards."""
    return lambda m: reply(m, client, b"") if m.metadata.message_type == HELLO else then(m)


def connect(nodes: dict[int, Answer]) -> tuple[FlowerTransport, FakeGrid, Clock]:
    grid, clock = FakeGrid(nodes), Clock()
    transport = FlowerTransport(grid, clock=clock, sleep=clock.sleep)
    transport.wait_for(len(nodes), deadline_s=5.0)
    return transport, grid, clock


@pytest.mark.parametrize("payload", [b"", b"0123456789", bytes(1000)])
def test_each_client_gets_its_own_request(payload: bytes) -> None:
    transport, grid, _ = connect({11: echo("b"), 12: echo("a")})
    assert transport.clients() == ("a", "b")
    answers = transport.exchange("train.open", {"a": payload, "b": b"xyz"}, deadline_s=9.0)
    assert answers == {"a": payload[::-1], "b": b"zyx"}
    assert transport.missing == {}
    sent = grid.pushed[-2:]
    assert {m.metadata.dst_node_id: payload_of(m) for m in sent} == {12: payload, 11: b"xyz"}
    assert {(m.metadata.message_type, m.metadata.ttl) for m in sent} == {("train.open", 9.0)}


def test_silence_costs_only_the_silent_client_and_only_until_the_deadline() -> None:
    transport, _, clock = connect({1: echo("a"), 2: only_hello("b", lambda _: None)})
    start = clock.now
    assert transport.exchange("query.keys", {"a": b"1", "b": b"2"}, deadline_s=3.0) == {"a": b"1"}
    assert 3.0 <= clock.now - start < 3.5
    assert transport.missing == {"b": "no answer within 3 s"}


def test_a_client_that_leaves_is_not_waited_for() -> None:
    transport, grid, clock = connect({1: echo("a"), 2: only_hello("b", lambda _: None)})
    del grid.nodes[2]
    start = clock.now
    assert transport.exchange("query.keys", {"a": b"1", "b": b"2"}, deadline_s=60.0) == {"a": b"1"}
    assert clock.now - start < 2.0
    assert transport.missing == {"b": "the client left"}


def test_a_refusal_is_a_dropout_even_when_the_link_sends_it_in_its_own_name() -> None:
    def refuse(message: Message) -> Message:
        TaskIdentity.node_id = 1
        return Message(Error(code=5, reason="node unavailable"), reply_to=message)

    transport, _, clock = connect({1: echo("a"), 2: only_hello("b", refuse)})
    start = clock.now
    assert transport.exchange("query.keys", {"a": b"1", "b": b"2"}, deadline_s=60.0) == {"a": b"1"}
    assert clock.now - start < 2.0
    assert transport.missing == {"b": "error 5: node unavailable"}


MALFORMED: dict[str, Callable[[Message], RecordDict]] = {
    "nothing": lambda _: RecordDict({}),
    "no payload": lambda _: RecordDict({"about": ConfigRecord({"client-id": "b"})}),
    "no name": lambda _: RecordDict({"payload": ArrayRecord({"bytes": Array(np.zeros(3, np.uint8))})}),
    "another's name": lambda m: reply(m, "a", b"forged").content,
    "floats": lambda _: RecordDict(
        {"payload": ArrayRecord({"bytes": Array(np.zeros(3))}), "about": ConfigRecord({"client-id": "b"})}
    ),
    "payload of another kind": lambda _: RecordDict(
        {"payload": ConfigRecord({"bytes": 3}), "about": ConfigRecord({"client-id": "b"})}
    ),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_reply_is_a_dropout(content: Callable[[Message], RecordDict]) -> None:
    transport, _, _ = connect({1: echo("a"), 2: only_hello("b", lambda m: Message(content(m), reply_to=m))})
    assert transport.exchange("query.keys", {"a": b"1", "b": b"2"}, deadline_s=5.0) == {"a": b"1"}
    assert set(transport.missing) == {"b"}


def test_an_unreadable_reply_and_a_refused_message_are_dropouts() -> None:
    transport, grid, _ = connect({1: echo("a"), 2: echo("b"), 3: echo("c")})
    grid.unreadable, grid.refused = {2}, {3}
    assert transport.exchange("query.keys", dict.fromkeys("abc", b"1"), deadline_s=5.0) == {"a": b"1"}
    assert transport.missing == {
        "b": "its reply could not be read",
        "c": "the server's link refused the message",
    }


def test_too_few_clients_is_one_line_with_the_numbers() -> None:
    clock = Clock()
    transport = FlowerTransport(FakeGrid({1: echo("a")}), clock=clock, sleep=clock.sleep)
    with pytest.raises(
        NotEnoughClients, match=r"^1 of 3 clients came within 4 s \(a\); start the others"
    ) as error:
        transport.wait_for(3, deadline_s=4.0)
    assert "\n" not in str(error.value)
    assert 4.0 <= clock.now < 4.5


def test_a_client_that_comes_late_is_waited_for_and_greeted_again() -> None:
    clock = Clock()
    awake_at = 20.0
    grid = FakeGrid(
        {1: lambda m: reply(m, "a", b"") if clock.now >= awake_at and m is grid.pushed[-1] else None}
    )
    transport = FlowerTransport(grid, clock=clock, sleep=clock.sleep)
    assert transport.wait_for(1, deadline_s=60.0) == ("a",)
    assert len(grid.pushed) == 2, "the silent node should be greeted a second time, and not more often"


def test_a_second_node_takes_a_name_only_after_the_first_is_gone() -> None:
    transport, grid, clock = connect({1: echo("a"), 2: echo("b")})
    grid.nodes[3] = lambda m: reply(m, "a", b"impostor")
    for _ in range(3):
        clock.now += 20
        assert transport.exchange("query.keys", {"a": b"12"}, deadline_s=5.0) == {"a": b"21"}
    del grid.nodes[1]
    for _ in range(3):
        clock.now += 20
        transport.exchange("query.keys", {"b": b"1"}, deadline_s=5.0)
    assert transport.exchange("query.keys", {"a": b"12"}, deadline_s=5.0) == {"a": b"impostor"}


@pytest.mark.parametrize("deadline_s", [0.0, -1.0, float("nan"), float("inf")])
def test_an_exchange_without_a_real_deadline_is_refused(deadline_s: float) -> None:
    transport, grid, _ = connect({1: echo("a")})
    with pytest.raises(InputError, match="deadline_s"):
        transport.exchange("query.keys", {"a": b""}, deadline_s=deadline_s)
    assert len(grid.pushed) == 1


@pytest.mark.parametrize(
    "kind", ["", "keys", "query", "query.", "system.keys", "query.Keys", "query.a.b", "query.a\n"]
)
def test_an_unusable_kind_is_refused(kind: str) -> None:
    transport, _, _ = connect({1: echo("a")})
    with pytest.raises(InputError, match="kind"):
        transport.exchange(kind, {"a": b""}, deadline_s=1.0)


def test_asking_a_stranger_is_refused() -> None:
    transport, _, _ = connect({1: echo("a")})
    with pytest.raises(InputError, match="'z'"):
        transport.exchange("query.keys", {"z": b""}, deadline_s=1.0)


def test_one_model_for_many_clients_is_packed_once() -> None:
    transport, grid, _ = connect({1: echo("a"), 2: echo("b")})
    transport.exchange("query.publish", dict.fromkeys("ab", b"model"), deadline_s=5.0)
    one, two = (m.content["payload"] for m in grid.pushed[-2:])
    assert one is two
