"""What the ClientApp lets through: payloads and reason codes, never an exception's text."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client import runtime
from client.app import HELLO, KINDS, app
from client.runtime import ColdStart, handlers_for, keep_warm, open_handlers
from privacy.errors import BudgetExceeded, InputError, LedgerError, PolicyRefusal, ProtocolError

SECRET = "SECRET-ROW-4711"


class Scripted:
    client_id = "north"

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.kinds: list[str] = []

    def answer(self, kind: str, payload: bytes) -> bytes:
        self.kinds.append(kind)
        if self._error is not None:
            raise self._error
        return payload[::-1]


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process without handlers that is not warm, and with a task identity for Flower's messages."""
    monkeypatch.setattr(runtime, "_open", {})
    monkeypatch.setattr(runtime, "_is_warm", False)
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 7, 1
    yield
    TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def ask(config: Path, kind: str, content: RecordDict | None = None) -> Message:
    record = RecordDict({"payload": ArrayRecord({"bytes": Array(np.frombuffer(b"abc", np.uint8))})})
    message = Message(content if content is not None else record, dst_node_id=9, message_type=kind)
    context = Context(
        run_id=7, node_id=9, node_config={"config": str(config)}, state=RecordDict(), run_config={}
    )
    return app(message, context)


def warm(tmp_path: Path, handlers: Scripted) -> Path:
    config = tmp_path / "client.toml"
    runtime._open[config.resolve()] = handlers
    keep_warm()
    return config


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != HELLO])
def test_every_kind_reaches_the_handlers(tmp_path: Path, kind: str) -> None:
    handlers = Scripted()
    reply = ask(warm(tmp_path, handlers), kind)
    assert handlers.kinds == [kind]
    assert reply.content["payload"]["bytes"].numpy().tobytes() == b"cba"  # type: ignore[index,union-attr]
    assert dict(reply.content["about"]) == {"client-id": "north"}  # type: ignore[call-overload]


def test_hello_names_the_client_without_asking_the_handlers(tmp_path: Path) -> None:
    handlers = Scripted()
    reply = ask(warm(tmp_path, handlers), HELLO)
    assert reply.content["about"]["client-id"] == "north"  # type: ignore[index,call-overload]
    assert handlers.kinds == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PolicyRefusal("noise-too-small", SECRET), "noise-too-small"),
        (PolicyRefusal(f"see {SECRET}", SECRET), "policy-refusal"),
        (BudgetExceeded(SECRET), "budget-exceeded"),
        (LedgerError(SECRET), "ledger-not-trusted"),
        (ProtocolError(SECRET), "protocol-error"),
        (InputError(SECRET), "unusable-input"),
        (KeyError(SECRET), "failed"),
    ],
)
def test_an_exception_becomes_a_reason_code(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception, reason: str
) -> None:
    reply = ask(warm(tmp_path, Scripted(error)), "query.keys")
    assert reply.has_error()
    assert reply.error.reason == reason
    assert SECRET not in repr(vars(reply))
    assert SECRET in caplog.text, "the operator of this client must still find out"


def test_a_process_for_one_message_answers_with_a_clear_refusal(tmp_path: Path) -> None:
    reply = ask(tmp_path / "client.toml", "query.keys")
    assert reply.error.reason == "cold-start-use-fedtower-client"
    with pytest.raises(ColdStart, match="fedtower client"):
        handlers_for({"config": "client.toml"})


def test_the_factory_used_by_default_exists() -> None:
    module, _, name = runtime.DEFAULT_FACTORY.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_a_message_without_payload_is_refused(tmp_path: Path) -> None:
    assert ask(warm(tmp_path, Scripted()), "query.keys", RecordDict({})).error.reason == "unusable-input"


def test_handlers_are_opened_once_for_a_configuration(tmp_path: Path) -> None:
    config = tmp_path / "client.toml"
    config.write_text('client_id = "north"\nhandlers = "tests.end_to_end.echo:open_client"\n')
    keep_warm()
    assert open_handlers(config) is handlers_for({"config": str(tmp_path / "." / "client.toml")})


@pytest.mark.parametrize(
    "text", ['handlers = "no.such.module:x"', 'handlers = "json:no_such"', "handlers = 3", "x ="]
)
def test_an_unusable_configuration_names_the_file(tmp_path: Path, text: str) -> None:
    config = tmp_path / "client.toml"
    config.write_text(text)
    with pytest.raises(InputError, match=r"client\.toml"):
        open_handlers(config)


@pytest.mark.parametrize("node_config", [{}, {"config": ""}, {"config": 3}])
def test_a_node_without_configuration_is_refused(node_config: dict[str, object]) -> None:
    keep_warm()
    with pytest.raises(InputError, match="TOML"):
        handlers_for(node_config)
