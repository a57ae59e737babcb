"""What the server asks of whatever carries its messages.

A federation is written against :class:`Transport` alone, so the same schedule runs over Flower, over a
loopback inside one process, and over anything else that can deliver opaque bytes. A transport never
interprets a payload.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Protocol

from privacy.errors import InputError

_KIND = re.compile(r"(query|train|evaluate)\.[a-z][a-z0-9_]{0,40}")


class NotEnoughClients(RuntimeError):
    """Too few clients came before the deadline; nothing was asked of those that did."""


class Transport(Protocol):
    """Carries one request to each of several clients and collects what comes back in time."""

    def clients(self) -> tuple[str, ...]:
        """Ids of the clients that introduced themselves, sorted."""
        ...

    def exchange(self, kind: str, requests: Mapping[str, bytes], *, deadline_s: float) -> dict[str, bytes]:
        """Send each client its request and wait for the answers, at most ``deadline_s`` seconds.

        Args:
            kind: message type ``category.action`` with the category ``query``, ``train`` or ``evaluate``.
            requests: client id -> opaque payload. Not every client need be asked.
            deadline_s: seconds after which a missing answer counts as a dropout.

        Returns:
            Client id -> opaque answer. A client that refused, failed, vanished or was late is simply absent.

        Raises:
            InputError: the kind, the deadline or a client id is not usable.
        """
        ...


def require_exchange(kind: str, deadline_s: float) -> None:
    """Refuse an exchange that no transport could carry out.

    Raises:
        InputError: ``kind`` is not ``category.action``, or ``deadline_s`` is not a positive finite number.
    """
    if not _KIND.fullmatch(kind):
        raise InputError(
            f"message kind {kind!r} is not category.action; use query, train or evaluate, a dot, a word"
        )
    if not (math.isfinite(deadline_s) and deadline_s > 0):
        raise InputError(f"deadline_s is {deadline_s}; every exchange needs a positive number of seconds")
