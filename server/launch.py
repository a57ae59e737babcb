"""Runs one federation through a Flower server link on this machine: start, submit, follow, stop.

Only Flower's commands are used, its supported surface. The bundle that is submitted holds nothing but a
``pyproject.toml``: both sides run the code that is installed with them.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from privacy.errors import InputError
from server.superlink import (
    HOST,
    LaunchError,
    environment_for,
    flwr,
    last_line,
    port_to_use,
    superlink,
    wait_until_healthy,
)

FAILURE = "failure.txt"
"""In the run's directory, written by the ServerApp: why the run failed, in one line."""

_SETTLE_S = 30.0  # from the end of the log to a final status


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
        resume: run folder whose arrays and ledger the run goes on from.
        federation: ``module:function`` to run instead of the usual federation; for tests.
    """

    scenario: Path
    out: Path
    clients: int
    port: int = 0
    wait_for_clients_s: float = 300.0
    deadline_s: float = 6 * 3600.0
    resume: Path | None = None
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


def launch(settings: LaunchSettings, *, say: Callable[[str], None] = print) -> None:
    """Run one federation to its end; returns if it completed.

    Args:
        settings: what to run and where.
        say: receives one line at a time: where clients connect, then the run's log.

    Raises:
        LaunchError: the run failed or exceeded its deadline, or the link did not start or ended early.
        KeyboardInterrupt: SIGTERM or Ctrl-C; everything that was started is stopped first.
    """
    home = (settings.out / "flower").resolve()
    home.mkdir(parents=True, exist_ok=True)
    (settings.out / FAILURE).unlink(missing_ok=True)
    port = port_to_use(settings.port)
    deadline = time.monotonic() + settings.deadline_s
    environment = environment_for(home)
    with _interrupt_on_sigterm(), superlink(home, port, environment) as link:
        wait_until_healthy(link, port, home)
        say(f"server is ready: fedtower client --superlink {HOST}:{port} --config client.toml")
        run_id = _submit(settings, home, port, environment)
        status = _follow(run_id, link, environment, home, deadline, say)
    if status != "finished:completed":
        raise LaunchError(f"run {run_id} ended as {status}: {_failure(settings.out, home)}")
    say(f"run {run_id} is complete")


def _submit(settings: LaunchSettings, home: Path, port: int, environment: dict[str, str]) -> str:
    """Hand the run to the link; returns its id."""
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "this"\n\n[superlink.this]\naddress = "{HOST}:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )
    bundle = home / "fedtower"
    bundle.mkdir(exist_ok=True)
    (bundle / "pyproject.toml").write_text(bundle_pyproject(settings), encoding="utf-8")
    answer = flwr(["run", str(bundle), "this", "--format", "json"], environment)
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
    if settings.resume is not None:
        config["resume"] = str(settings.resume.resolve())
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
                raise LaunchError(f"the link ended during the run: {last_line(home)}")
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
        answer = flwr(["ls", "this", "--run-id", run_id, "--format", "json"], environment)
        match answer.get("runs"):
            case [{"status": str(status)}, *_]:
                pass
            case _:
                status = "unknown"
        if status.startswith("finished") or time.monotonic() >= give_up:
            return status
        time.sleep(1.0)


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


def _failure(out: Path, home: Path) -> str:
    try:
        return (out / FAILURE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return last_line(home)
