"""A Flower server link as a child process, and the ``flwr`` commands that talk to it.

The link speaks plain HTTP and is bound to 127.0.0.1: its control API asks for no credential, so whoever
reaches the port could run code. Other machines come in through a TLS proxy that lets only ``/v1/fleet/*`` and
``/health`` pass.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)

HOST = "127.0.0.1"

_OPEN_S = 90.0  # for the link to answer /health; importing Flower takes seconds on a busy machine
_COMMAND_S = 90.0  # for one `flwr` command
_STOP_S = 10.0


class LaunchError(RuntimeError):
    """The server could not be started, or its run did not complete; one line for the operator."""


@contextmanager
def superlink(home: Path, port: int, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A running ``flower-superlink``; on the way out it and everything it started are stopped."""
    command = ["flower-superlink", "--host", HOST, "--port", str(port), "--insecure"]
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


def wait_until_healthy(link: subprocess.Popen[bytes], port: int, home: Path) -> None:
    """Wait until the link answers; ``LaunchError`` if it ends first or takes too long."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _OPEN_S
    while time.monotonic() < deadline:
        if link.poll() is not None:
            raise LaunchError(f"the link ended at once: {last_line(home)}")
        try:
            with direct.open(f"http://{HOST}:{port}/health", timeout=2.0) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise LaunchError(f"the link did not answer within {_OPEN_S:.0f} s: {last_line(home)}")


def flwr(arguments: list[str], environment: dict[str, str]) -> dict[str, object]:
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


def environment_for(home: Path) -> dict[str, str]:
    """The environment of everything Flower starts: quiet, offline, and able to find our packages."""
    here = str(Path(__file__).resolve().parent.parent)
    no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    return os.environ | {
        "no_proxy": ",".join(filter(None, [no_proxy, HOST])),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        # Flower starts its parts by name, and they import our packages from where this file lies.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")])),
    }


def last_line(home: Path) -> str:
    """The last thing the link said."""
    lines = (home / "superlink.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "its log is empty"


def port_to_use(port: int) -> int:
    """The port itself if nobody listens there, or a free one for 0: a run must not reach another's link."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise LaunchError(f"port {port} on {HOST} is taken ({error.strerror}); use --port 0") from error
        return probe.getsockname()[1]
