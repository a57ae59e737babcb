"""Keeps one client's handlers alive between messages.

A round of secure aggregation spans several messages, and its secrets may live in this process's memory only.
Flower's ordinary mode starts a fresh process for every message and would lose them; :mod:`client.flower_node`
therefore answers all messages from one process and declares it with :func:`keep_warm`. In any other process
no handlers are handed out.
"""

from __future__ import annotations

import importlib
import threading
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from privacy.errors import InputError

DEFAULT_FACTORY = "client.config:open_client"


class Handlers(Protocol):
    """One client's answers."""

    @property
    def client_id(self) -> str:
        """The name under which the other side knows this client."""
        ...

    def answer(self, kind: str, payload: bytes) -> bytes:
        """Answer one message; any exception becomes a short reason code, its text never leaves."""
        ...


class ColdStart(RuntimeError):
    """The process will not outlive the message, so it could not keep a round's secrets."""


_lock = threading.Lock()
_open: dict[Path, Handlers] = {}
_is_warm = False


def keep_warm() -> None:
    """Declare that this process stays for all messages; only the process that holds the loop may say so."""
    global _is_warm
    _is_warm = True


def handlers_for(node_config: Mapping[str, object]) -> Handlers:
    """The handlers of the client whose configuration file ``node_config["config"]`` names, opened once.

    Raises:
        ColdStart: the process was started for a single message.
        InputError: the configuration is missing or unusable.
    """
    if not _is_warm:
        raise ColdStart(
            "this client was started for one message only and cannot keep a round's secrets; "
            "start it with `fedtower client`"
        )
    config = node_config.get("config")
    if not isinstance(config, str) or not config:
        raise InputError(
            f"the node configuration has config={config!r}; it needs the path of a client's TOML file"
        )
    return open_handlers(Path(config))


def open_handlers(config_path: Path) -> Handlers:
    """Open the client that a TOML file describes, or return it if it is open already.

    The file may name another factory, ``handlers = "module:function"``; the default is
    ``client.config:open_client``.

    Raises:
        InputError: the file cannot be read, or names no factory.
    """
    path = config_path.resolve()
    with _lock:
        if path not in _open:
            _open[path] = _factory(path)(path)
        return _open[path]


def _factory(path: Path) -> Callable[[Path], Handlers]:
    try:
        reference = tomllib.loads(path.read_text(encoding="utf-8")).get("handlers", DEFAULT_FACTORY)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot read the client configuration {path}: {error}") from error
    module, _, name = str(reference).partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: handlers = {reference!r} names no function ({error})") from error
    return factory
