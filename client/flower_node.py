"""A Flower client node that answers every message in one process, with locally installed code only.

Flower's ordinary mode unpacks the code that the server sends and starts a process for each message. Here this
process takes the messages from its :class:`~client.supernode.SuperNode`, one after another, and answers them
with the installed :mod:`client.app`. So code from the server is never imported, a round's secrets stay in
this process's memory, and torch is loaded once.

The SuperNode is started again, with a growing pause, when it stops: it gives up on its own when it reconnects
too early after a crash. The module leans on internals of flwr 1.41; a test with real processes guards them.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING

from client.runtime import keep_warm, open_handlers
from client.supernode import NodeSettings, SuperNode

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.supercore.protobuf.client import ProtobufClientInterceptor
    from flwr.supercore.runtime import RuntimeHttpClient

_log = logging.getLogger(__name__)

_TASK_POLL_S = 0.1
# Flower sleeps 3 s between polls of the server and 1 s for a content that is a moment late; a federation of
# hundreds of exchanges would pay for that each time.
_SUPERNODE_POLL_S = 0.25
_CONTENT_POLL_S = 0.05
_LONGEST_PAUSE_S = 30.0
_RETRY_S = 10.0  # for one call to the SuperNode on this machine
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


class NodeStopped(RuntimeError):
    """The node cannot go on; the message is one line for the operator."""


def run_node(settings: NodeSettings) -> None:
    """Answer the server's messages until SIGTERM or Ctrl-C, or until the server stays away.

    Opens the client before it connects, so a faulty configuration is reported here and not during a round.

    Raises:
        InputError: the client's configuration cannot be used.
        NodeStopped: the server was unreachable, or refused this node, for ``max_wait_s``.
    """
    handlers = open_handlers(settings.config)
    keep_warm()
    # The SuperNode beside this process must not be looked for behind a proxy.
    no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    os.environ["no_proxy"] = ",".join(filter(None, [no_proxy, "127.0.0.1"]))
    stop = threading.Event()
    with _stop_on_signals(stop), tempfile.TemporaryDirectory(prefix="fedtower-node-") as scratch:
        _log.info("client %s: connecting to %s", handlers.client_id, settings.superlink)
        _supervise(settings, Path(scratch), stop)
    _log.info("client %s: stopped", handlers.client_id)


def _supervise(settings: NodeSettings, scratch: Path, stop: threading.Event) -> None:
    """Keep a SuperNode and the task loop beside it running; restart with growing pauses."""
    failing_since, pause = time.monotonic(), 1.0
    while not stop.is_set():
        node = SuperNode(settings, scratch)
        try:
            _answer_until_it_stops(node, stop)
        finally:
            node.stop()
        if stop.is_set():
            return
        if node.was_connected():
            failing_since, pause = time.monotonic(), 1.0
        if node.lost_server() or time.monotonic() - failing_since >= settings.max_wait_s:
            raise NodeStopped(
                f"gave up on {settings.superlink} after {settings.max_wait_s:.0f} s: {node.reason()}"
            )
        _log.warning("the node stopped (%s); starting it again in %.0f s", node.reason(), pause)
        stop.wait(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def _answer_until_it_stops(node: SuperNode, stop: threading.Event) -> None:
    if not node.wait_until_open(stop):
        return
    with TaskLoop(node.address, node.secret, is_over=lambda: stop.is_set() or not node.is_running()) as tasks:
        while not stop.is_set() and node.is_running():
            if not tasks.take_one():
                stop.wait(_TASK_POLL_S)


class TaskLoop:
    """Takes tasks from a SuperNode and answers them with the installed ClientApp."""

    def __init__(self, address: str, secret: bytes, *, is_over: Callable[[], bool]) -> None:
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor

        from client.app import app

        _poll_contents_often()
        self._app = app
        self._address = address
        self._is_over = is_over
        self._acquirer = self._client(
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({_ACQUIRE})),
        )

    def __enter__(self) -> TaskLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self._acquirer.close()

    def take_one(self) -> bool:
        """Take and answer the oldest waiting task; False if there is none or it could not be taken."""
        from flwr.proto.runtime_pb2 import AcquireTaskRequest
        from flwr.supercore.constant import TaskType

        try:
            granted = self._acquirer.AcquireTask(
                AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
            )
        except Exception as error:
            _log.debug("no task could be taken: %s", error)
            return False
        if not (granted.HasField("task") and granted.token):
            return False
        try:
            self._answer(granted.token)
        except Exception:
            # Without a reply the SuperNode reports this task as crashed once its heartbeat lapses.
            _log.exception("a task was lost between this process and its SuperNode")
        return True

    def _answer(self, token: str) -> None:
        from flwr.common.constant import SubStatus
        from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
        from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

        client = self._client(
            RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), RuntimeTokenHttpInterceptor(token)
        )
        try:
            with _heartbeat(client):
                message, context, _run, _code_from_the_server = pull_task_input(
                    client
                )  # the code stays unopened
                push_message(client, self._reply(message, context), context)
                push_task_output(client=client, context=context, sub_status=SubStatus.COMPLETED, details="")
        finally:
            client.close()

    def _reply(self, message: Message, context: Context) -> Message:
        from client.app import refusal

        try:
            return self._app(message=message, context=context)
        except Exception:
            _log.exception("%s is no message this client knows", message.metadata.message_type)
            return refusal(message, "unknown-kind")

    def _client(self, *interceptors: ProtobufClientInterceptor) -> RuntimeHttpClient:
        """A client whose retries end; Flower's own would interrupt this process when a call is refused."""
        import httpx
        from flwr.supercore.retry import RetryInvoker, exponential
        from flwr.supercore.runtime import RuntimeHttpClient

        return RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=True,
            root_certificates=None,
            interceptors=list(interceptors),
            retry_invoker=RetryInvoker(
                lambda: exponential(base_delay=0.1, max_delay=2),
                httpx.TransportError,
                max_tries=None,
                max_time=_RETRY_S,
                should_giveup=lambda _error: self._is_over(),
            ),
        )


@contextmanager
def _heartbeat(client: RuntimeHttpClient) -> Iterator[None]:
    """Say that the task is being worked on; a refused beat does not interrupt this process."""
    from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest
    from flwr.supercore.heartbeat import HeartbeatSender

    def beat() -> bool:
        try:
            return bool(client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)
        except Exception:
            return False

    sender = HeartbeatSender(beat)
    sender.start()
    try:
        yield
    finally:
        sender.stop()


def supernode_main() -> None:
    """Body of the child: a ``flower-supernode`` that polls often and signs off when its parent is gone."""
    parent = os.getppid()

    def sign_off_after_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=sign_off_after_parent, daemon=True).start()
    from flwr.supernode import start_client_internal
    from flwr.supernode.cli import flower_supernode

    _poll_contents_often()
    impatient = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, _SUPERNODE_POLL_S)))
    start_client_internal.time = impatient  # type: ignore[assignment]
    flower_supernode()
    # It returns when it has given up on the server, but a thread of its own would keep this process alive.
    signal.raise_signal(signal.SIGTERM)


def _poll_contents_often() -> None:
    """A message is announced before its content is complete; look again sooner than Flower would."""
    from flwr.supercore.inflatable import inflatable_utils

    for function in (inflatable_utils.pull_objects, inflatable_utils.pull_and_inflate_object_from_tree):
        (function.__kwdefaults__ or {})["initial_backoff"] = _CONTENT_POLL_S


@contextmanager
def _stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """First SIGTERM or Ctrl-C: finish the message at hand. Second: end at once."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
