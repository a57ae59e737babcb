"""Starts a Flower server link on this machine, runs one federation through it, and stops it again.

Only Flower's commands are used, its supported surface: ``flower-superlink`` as a child process, ``flwr run``
with a bundle that holds nothing but a ``pyproject.toml`` (the code is the installed one), ``flwr log`` to
follow, ``flwr ls`` for the outcome. The link speaks plain HTTP and is bound to 127.0.0.1: its control API asks
for no credential, so whoever reaches the port could run code. Other machines come in through a TLS proxy that
lets only ``/v1/fleet/*`` and ``/health`` pass.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from privacy.errors import InputError

_log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_OPEN_S = 90.0  # for the link to answer /health; importing Flower takes seconds on a busy machine
_COMMAND_S = 90.0  # for one `flwr` command
_SETTLE_S = 30.0  # from the end of the log to a final status
_STOP_S = 10.0


class LaunchError(RuntimeError):
    """The server could not be started or did not come to an end; one line for the operator."""


@dataclass(frozen=True)
class LaunchSettings:
    """One federation on this machine.

    Attributes:
        scenario: TOML file that describes the federation.
        out: directory for results; the link's log and home go to ``out/flower``.
        clients: how many clients to wait for.
        port: port of the link on 127.0.0.1; 0 picks a free one.
        wait_for_clients_s: seconds to wait for the clients.
        deadline_s: seconds that the whole run may take.
        federation: ``module:function`` to run instead of the usual federation; for tests.
    """

    scenario: Path
    out: Path
    clients: int
    port: int = 0
    wait_for_clients_s: float = 300.0
    deadline_s: float = 6 * 3600.0
    federation: str = ""

    def __post_init__(self) -> None:
        if not self.scenario.is_file():
            raise InputError(f"there is no scenario file {self.scenario}")
        if self.clients < 1:
            raise InputError(f"clients is {self.clients}; a federation needs at least one")
        if not 0 <= self.port <= 65535:
            raise InputError(f"port is {self.port}; use 1 to 65535, or 0 for a free one")
        if not (self.deadline_s > 0 and self.wait_for_clients_s > 0):
            raise InputError("deadline_s and wait_for_clients_s need a positive number of seconds")


def launch(settings: LaunchSettings, *, say: Callable[[str], None] = print) -> int:
    """Run one federation to its end.

    Args:
        settings: what to run and where.
        say: receives one line at a time: where clients connect, then the run's log.

    Returns:
        0 if the run completed, 1 if it failed; the log says why.

    Raises:
        LaunchError: the link did not start, ended early, or the run exceeded its deadline.
        KeyboardInterrupt: SIGTERM or Ctrl-C; everything that was started is stopped first.
    """
    home = (settings.out / "flower").resolve()
    home.mkdir(parents=True, exist_ok=True)
    port = settings.port or _free_port()
    deadline = time.monotonic() + settings.deadline_s
    environment = _environment(home)
    with _interrupt_on_sigterm(), _superlink(home, port, environment) as link:
        _wait_until_healthy(link, port, home)
        say(f"server is ready: fedtower client --superlink {_HOST}:{port} --config client.toml")
        run_id = _submit(settings, home, port, environment)
        status = _follow(run_id, link, environment, home, deadline, say)
    say(f"run {run_id}: {status}")
    return 0 if status == "finished:completed" else 1


@contextmanager
def _superlink(home: Path, port: int, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A running ``flower-superlink``; on the way out it and everything it started are stopped."""
    command = ["flower-superlink", "--host", _HOST, "--port", str(port), "--insecure"]
    command += ["--disable-runtime-dependency-installation"]
    with (home / "superlink.log").open("wb") as log:
        link = subprocess.Popen(
            command,
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # A session of its own: one process group to stop, and Ctrl-C reaches this process first.
            start_new_session=True,
        )
        try:
            yield link
        finally:
            _stop_group(link)


def _stop_group(leader: subprocess.Popen[bytes]) -> None:
    """Stop a process that leads a group of its own, and the group: its children may outlive a terminate."""
    if leader.poll() is None:
        leader.terminate()
    try:
        leader.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        _log.warning("the link did not stop within %.0f s; ending it by force", _STOP_S)
    try:
        os.killpg(leader.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    leader.wait()


def _wait_until_healthy(link: subprocess.Popen[bytes], port: int, home: Path) -> None:
    deadline = time.monotonic() + _OPEN_S
    while time.monotonic() < deadline:
        if link.poll() is not None:
            raise LaunchError(f"the link ended at once: {_last_line(home)}")
        try:
            with urllib.request.urlopen(f"http://{_HOST}:{port}/health", timeout=2.0) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise LaunchError(f"the link did not answer within {_OPEN_S:.0f} s: {_last_line(home)}")


def _submit(settings: LaunchSettings, home: Path, port: int, environment: dict[str, str]) -> str:
    """Hand the run to the link; returns its id."""
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "this"\n\n[superlink.this]\naddress = "{_HOST}:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )
    bundle = home / "fedtower"
    bundle.mkdir(exist_ok=True)
    (bundle / "pyproject.toml").write_text(bundle_pyproject(settings), encoding="utf-8")
    answer = _flwr(["run", str(bundle), "this", "--format", "json"], environment)
    run_id = answer.get("run-id")
    if run_id is None:
        raise LaunchError(f"the run was not accepted: {answer.get('error-message') or answer}")
    return str(run_id)


def bundle_pyproject(settings: LaunchSettings) -> str:
    """The one file of the bundle: which apps to run, and the run configuration."""
    config: dict[str, str | int | float] = {
        "scenario": str(settings.scenario.resolve()),
        "out": str(settings.out.resolve()),
        "clients": settings.clients,
        "wait-for-clients-s": float(settings.wait_for_clients_s),
        "federation": settings.federation,
    }
    # A JSON string or number is also a TOML one.
    values = "\n".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in config.items())
    return f"""\
[project]
name = "fedtower"
version = "0.1.0"
description = "Run configuration of one federation; the code is the installed one."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedtower"
fab-include = ["pyproject.toml"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
{values}
"""


def _follow(
    run_id: str,
    link: subprocess.Popen[bytes],
    environment: dict[str, str],
    home: Path,
    deadline: float,
    say: Callable[[str], None],
) -> str:
    """Relay the run's log until it ends; returns Flower's final status, such as ``finished:completed``."""
    log = subprocess.Popen(
        ["flwr", "log", run_id, "this", "--stream"],
        env=environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    relay = threading.Thread(target=_relay, args=(log, say), daemon=True)
    relay.start()
    try:
        while log.poll() is None:
            if link.poll() is not None:
                raise LaunchError(f"the link ended during the run: {_last_line(home)}")
            if time.monotonic() >= deadline:
                raise LaunchError(
                    "the run did not end within its deadline; raise --deadline-s if it needs longer"
                )
            time.sleep(0.1)
    finally:
        if log.poll() is None:
            log.kill()
        log.wait()
        relay.join(timeout=5.0)
    return _final_status(run_id, environment)


def _relay(log: subprocess.Popen[str], say: Callable[[str], None]) -> None:
    for line in log.stdout or ():
        if line.strip():
            say(line.rstrip())


def _final_status(run_id: str, environment: dict[str, str]) -> str:
    give_up = time.monotonic() + _SETTLE_S
    while True:
        answer = _flwr(["ls", "this", "--run-id", run_id, "--format", "json"], environment)
        match answer.get("runs"):
            case [{"status": str(status)}, *_]:
                pass
            case _:
                status = "unknown"
        if status.startswith("finished") or time.monotonic() >= give_up:
            return status
        time.sleep(1.0)


def _flwr(arguments: list[str], environment: dict[str, str]) -> dict[str, object]:
    """Run one ``flwr`` command that answers in JSON."""
    try:
        done = subprocess.run(
            ["flwr", *arguments],
            env=environment,
            cwd=environment["FLWR_HOME"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_COMMAND_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LaunchError(f"`flwr {arguments[0]}` did not answer within {_COMMAND_S:.0f} s") from error
    try:
        answer = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        detail = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]
        raise LaunchError(f"`flwr {arguments[0]}` failed: {detail[:300]}") from error
    return answer if isinstance(answer, dict) else {}


def _environment(home: Path) -> dict[str, str]:
    here = str(Path(__file__).resolve().parent.parent)
    return os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        # Flower starts its parts by name, and they import our packages from where this file lies.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")])),
    }


@contextmanager
def _interrupt_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that everything started here is stopped."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _last_line(home: Path) -> str:
    lines = (home / "superlink.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "its log is empty"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return probe.getsockname()[1]
