"""A transport inside one process: the real handlers, the real bytes, no network and no Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from client.runtime import Handlers
from privacy.errors import InputError
from server.transport import require_exchange

Fault = Callable[[str, str, int], str | None]
"""``(client, kind, how often that kind was asked before) -> None | "before" | "after"``: whether this answer is lost, and
whether the client still did the work."""


def no_faults(_client: str, _kind: str, _count: int) -> str | None:
    """Every client answers everything."""
    return None


class Loopback:
    """Calls each client's handlers directly; several clients at a time, each client's messages one after the other.

    Args:
        handlers: by client id.
        fault: loses answers, for dropout tests.
        workers: threads; results do not depend on it, because clients share nothing.
    """

    def __init__(
        self, handlers: Mapping[str, Handlers], *, fault: Fault = no_faults, workers: int = 2
    ) -> None:
        self._handlers = dict(sorted(handlers.items()))
        self._fault = fault
        self._workers = workers
        self._asked: dict[tuple[str, str], int] = {}

    def clients(self) -> tuple[str, ...]:
        """All clients."""
        return tuple(self._handlers)

    def exchange(self, kind: str, requests: Mapping[str, bytes], *, deadline_s: float) -> dict[str, bytes]:
        """Ask the handlers; an answer that took longer than the deadline is dropped like any late answer.

        Raises:
            InputError: an unusable kind or deadline, or an unknown client.
        """
        require_exchange(kind, deadline_s)
        unknown = set(requests) - set(self._handlers)
        if unknown:
            raise InputError(f"no such clients: {sorted(unknown)}; this transport has {list(self._handlers)}")
        with ThreadPoolExecutor(self._workers) as pool:
            answers = pool.map(
                lambda client: self._ask(client, kind, requests[client], deadline_s), sorted(requests)
            )
            return {client: a for client, a in zip(sorted(requests), answers, strict=True) if a is not None}

    def _ask(self, client: str, kind: str, payload: bytes, deadline_s: float) -> bytes | None:
        count = self._asked.get((client, kind), 0)
        self._asked[(client, kind)] = count + 1
        fault = self._fault(client, kind, count)
        if fault == "before":
            return None
        started = time.monotonic()
        answer = self._handlers[client].answer(kind, bytes(payload))
        if fault == "after" or time.monotonic() - started > deadline_s:
            return None
        return answer
