"""The Flower ClientApp: decode -> answer -> encode, nothing else.

No exception text ever leaves this process. Flower sends the text of an exception to the server, and such a
text may quote a line of somebody's behaviour log; so everything is caught here and answered with a short
reason code, while the traceback stays in this client's own log.
"""

from __future__ import annotations

import logging
import re

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from client.runtime import ColdStart, handlers_for
from privacy.errors import (
    BudgetExceeded,
    InputError,
    LedgerError,
    PolicyRefusal,
    ProtocolError,
    SensitivityViolation,
)
from privacy.wire.federation import UPLINK

_log = logging.getLogger(__name__)

HELLO = "query.hello"
"""Asked by the transport itself, to learn which client a Flower node is."""

KINDS = (HELLO, *UPLINK)
"""Every message this client knows; what is not listed is refused before any handler sees it."""

_APP_ERROR = 2  # Flower's CLIENT_APP_RAISED_EXCEPTION: the code says only that there is no answer
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (ColdStart, "cold-start-use-fedtower-client"),
    (BudgetExceeded, "budget-exceeded"),
    (LedgerError, "ledger-not-trusted"),
    (SensitivityViolation, "sensitivity-violation"),
    (ProtocolError, "protocol-error"),
    (InputError, "unusable-input"),
)
_REASON_CODE = re.compile(r"[a-z][a-z0-9_-]{0,39}")

app = ClientApp()


def answer(message: Message, context: Context) -> Message:
    """Answer one Flower message; never raises an ``Exception``."""
    try:
        handlers = handlers_for(context.node_config)
        kind = message.metadata.message_type
        payload = b"" if kind == HELLO else handlers.answer(kind, _payload_of(message))
        return _reply(message, handlers.client_id, payload)
    except Exception as error:
        _log.exception("%s was not answered", message.metadata.message_type)
        return refusal(message, reason_code(error))


def refusal(message: Message, reason: str) -> Message:
    """A reply that carries a reason code and nothing else."""
    return Message(Error(code=_APP_ERROR, reason=reason), reply_to=message)


def reason_code(error: Exception) -> str:
    """What the server may know about a failure: one fixed word, chosen by the kind of error."""
    if isinstance(error, PolicyRefusal):
        return error.reason_code if _REASON_CODE.fullmatch(error.reason_code) else "policy-refusal"
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), "failed")


def _payload_of(message: Message) -> bytes:
    try:
        array = message.content["payload"]["bytes"].numpy()  # type: ignore[index,union-attr]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError("the message carries no payload") from error
    if array.dtype != np.uint8 or array.ndim != 1:
        raise InputError(f"the payload is {array.dtype} with {array.ndim} dimensions, not a row of bytes")
    return array.tobytes()


def _reply(message: Message, client_id: str, payload: bytes) -> Message:
    content = RecordDict(
        {
            "payload": ArrayRecord({"bytes": Array(np.frombuffer(payload, dtype=np.uint8))}),
            "about": ConfigRecord({"client-id": client_id}),
        }
    )
    return Message(content, reply_to=message)


def _register() -> None:
    decorator_of = {"query": app.query, "train": app.train, "evaluate": app.evaluate}
    for kind in KINDS:
        category, action = kind.split(".")
        decorator_of[category](action)(answer)


_register()
