"""The :class:`~server.transport.Transport` over Flower's ``Grid`` (Message API, flwr 1.41).

The stock strategies wait forever for nodes and want one fixed record layout, so this is the plain loop: push
a list, poll for replies, stop at the deadline. Whatever goes wrong on the way to one client (refusal, crash,
silence, a reply that cannot be read) costs that client its place in the exchange and nobody else.

Payloads travel as one uint8 array: Flower sends arrays in chunks and stores equal ones once, so one model for
many clients is uploaded a single time. Bytes in a ``ConfigRecord`` would be neither chunked nor shared.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from privacy.errors import InputError
from server.transport import NotEnoughClients, require_exchange

_log = logging.getLogger(__name__)

HELLO = "query.hello"
"""Answered by a client's app itself, with its id: how a Flower node id gets its client id."""

_HELLO_TTL_S = 15.0  # a node that stays silent this long is greeted again; it may have been starting up
_PRESENCE_S = 1.0  # how often to ask which nodes are there


class FlowerTransport:
    """Exchanges with the clients behind one Flower grid.

    A client that restarts is a new node; it is greeted and takes its name back once its earlier node is gone,
    so it can be asked again in a later exchange.

    Attributes:
        missing: of the latest exchange, client id -> one-line reason why no answer came. For reports only.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        poll_s: float = 0.2,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.missing: dict[str, str] = {}
        self._grid = grid
        self._poll_s = poll_s
        self._clock = clock
        self._sleep = sleep
        self._node_of: dict[str, int] = {}
        self._present: set[int] = set()
        self._looked_at = -np.inf
        self._greet_again_at: dict[int, float] = {}
        self._greetings: dict[str, int] = {}

    def clients(self) -> tuple[str, ...]:
        """Ids of the clients that introduced themselves, sorted."""
        return tuple(sorted(self._node_of))

    def wait_for(self, expected: int, *, deadline_s: float) -> tuple[str, ...]:
        """Greet every node that appears until ``expected`` clients have told their id.

        Args:
            expected: how many different clients must answer.
            deadline_s: seconds to wait for them.

        Returns:
            The client ids, sorted.

        Raises:
            NotEnoughClients: fewer came in time.
            InputError: ``expected`` or ``deadline_s`` is not usable.
        """
        require_exchange(HELLO, deadline_s)
        if expected < 1:
            raise InputError(f"clients is {expected}; a federation needs at least one")
        deadline = self._clock() + deadline_s
        while True:
            self._look_round()
            if len(self._node_of) >= expected:
                return self.clients()
            if self._clock() >= deadline:
                names = f" ({', '.join(self.clients())})" if self._node_of else ""
                raise NotEnoughClients(
                    f"{len(self._node_of)} of {expected} clients came within {deadline_s:.0f} s{names}; "
                    "start the others with `fedtower client`, or wait longer"
                )
            self._sleep(self._poll_s)

    def exchange(self, kind: str, requests: Mapping[str, bytes], *, deadline_s: float) -> dict[str, bytes]:
        """Send each client its request and wait for the answers; see :meth:`Transport.exchange`."""
        require_exchange(kind, deadline_s)
        unknown = sorted(requests.keys() - self._node_of.keys())
        if unknown:
            raise InputError(f"no client called {', '.join(map(repr, unknown))} has introduced itself")
        deadline = self._clock() + deadline_s
        client_at = {self._node_of[client]: client for client in requests}
        sent = self._push(kind, {node: requests[client] for node, client in client_at.items()}, deadline_s)
        asked = {message_id: client_at[node] for message_id, node in sent.items()}
        node_of = {client: node for node, client in client_at.items()}
        answers: dict[str, bytes] = {}
        reasons = dict.fromkeys(requests, "the server's link refused the message")
        reasons |= dict.fromkeys(asked.values(), f"no answer within {deadline_s:.0f} s")
        while asked:
            self._look_round()
            for message_id, reply in self._replies(asked):
                client = asked.pop(message_id)
                try:
                    answers[client] = _open_answer(reply, node_of[client], client)
                except _NoAnswer as reason:
                    reasons[client] = str(reason)
            # Presence was read before the replies: a client that answered and then left has been heard.
            for message_id in [m for m, client in asked.items() if node_of[client] not in self._present]:
                reasons[asked.pop(message_id)] = "the client left"
            if self._clock() >= deadline:
                break
            if asked:
                self._sleep(min(self._poll_s, deadline - self._clock()))
        self.missing = {client: reason for client, reason in reasons.items() if client not in answers}
        for client, reason in sorted(self.missing.items()):
            _log.warning("%s: %s dropped out: %s", kind, client, reason)
        return answers

    def _look_round(self) -> None:
        """See which nodes are there, greet those without a name, hear who answered."""
        now = self._clock()
        if now - self._looked_at >= _PRESENCE_S:
            self._looked_at = now
            self._present = set(self._grid.get_node_ids())
            nameless = self._present - set(self._node_of.values())
            due = sorted(node for node in nameless if now >= self._greet_again_at.get(node, now))
            self._greet_again_at.update(dict.fromkeys(due, now + _HELLO_TTL_S))
            self._greetings |= self._push(HELLO, dict.fromkeys(due, b""), _HELLO_TTL_S)
            self._greetings = {m: node for m, node in self._greetings.items() if node in self._present}
        for message_id, reply in self._replies(self._greetings):
            self._introduce(self._greetings.pop(message_id), reply)

    def _introduce(self, node: int, reply: Message | None) -> None:
        try:
            client = _client_id(reply)
        except _NoAnswer as reason:
            _log.warning("node %d did not introduce itself: %s", node, reason)
            return
        earlier = self._node_of.get(client)
        if earlier is not None and earlier != node and earlier in self._present:
            # Whoever holds a name keeps it while it is there; the newcomer is greeted again later.
            _log.warning("a second node calls itself %s; it has to wait until the first one is gone", client)
            return
        self._node_of[client] = node

    def _push(self, kind: str, payloads: Mapping[int, bytes], ttl_s: float) -> dict[str, int]:
        """Push one message per node; returns message id -> node id of those that were accepted."""
        records = {payload: _to_record(payload) for payload in set(payloads.values())}
        # Past its time to live a message is not handed out: a straggler is not kept busy with an old round.
        messages = [
            Message(RecordDict({"payload": records[payload]}), dst_node_id=node, message_type=kind, ttl=ttl_s)
            for node, payload in payloads.items()
        ]
        # push_messages walks its argument twice, so it must be a list; rejected messages come back as None.
        ids = list(self._grid.push_messages(messages)) if messages else []
        return {message_id: node for message_id, node in zip(ids, payloads, strict=False) if message_id}

    def _replies(self, asked: Mapping[str, object]) -> Iterator[tuple[str, Message | None]]:
        """Yield message id and reply of whatever has arrived; None stands for a reply that cannot be read.

        One id at a time: an unreadable reply would otherwise take the others of the same pull with it.
        """
        for message_id in list(asked):
            try:
                replies = list(self._grid.pull_messages([message_id]))
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                _log.warning("a reply could not be read: %s", error)
                yield message_id, None
                continue
            for reply in replies:
                # The link's own error replies come from node 1, so only this id says whom a reply is about.
                if reply.metadata.reply_to_message_id == message_id:
                    yield message_id, reply
                    break


def poll_contents_often(seconds: float = 0.05) -> None:
    """Shorten Flower's 1 s sleep when a reply is announced before its content is complete; process-wide."""
    from flwr.supercore.inflatable import inflatable_utils

    (inflatable_utils.pull_objects.__kwdefaults__ or {})["initial_backoff"] = seconds


class _NoAnswer(Exception):
    """Why a reply is no answer; one line, for the log."""


def _to_record(payload: bytes) -> ArrayRecord:
    return ArrayRecord({"bytes": Array(np.frombuffer(payload, dtype=np.uint8))})


def _content(reply: Message | None) -> RecordDict:
    if reply is None:
        raise _NoAnswer("its reply could not be read")
    if reply.has_error():
        raise _NoAnswer(f"error {reply.error.code}: {reply.error.reason}"[:200])
    return reply.content


def _client_id(reply: Message | None) -> str:
    try:
        client = _content(reply)["about"]["client-id"]  # type: ignore[index,call-overload]
    except (KeyError, TypeError) as error:
        raise _NoAnswer("its reply names no client") from error
    if not isinstance(client, str) or not client:
        raise _NoAnswer("its reply names no client")
    return client


def _open_answer(reply: Message | None, node: int, client: str) -> bytes:
    content = _content(reply)
    if reply is None or reply.metadata.src_node_id != node or _client_id(reply) != client:
        raise _NoAnswer("its reply came from another node or under another name")
    try:
        array = content["payload"]["bytes"].numpy()  # type: ignore[index,union-attr]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _NoAnswer("its reply carries no payload") from error
    if array.dtype != np.uint8 or array.ndim != 1:
        raise _NoAnswer(f"its payload is {array.dtype} with {array.ndim} dimensions, not a row of bytes")
    return array.tobytes()
