"""The child process that carries messages between a Flower server and this client.

``flower-supernode --isolation process`` connects to the server and offers messages on a local port; it runs
no app code itself. A secret that only this process and the child know keeps other local processes from taking
messages.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from privacy.errors import InputError

_OPEN_S = 60.0  # for the local port to open; importing Flower takes seconds on a busy machine
_STOP_S = 10.0  # for signing off from the server, which takes about 4 s


@dataclass(frozen=True)
class NodeSettings:
    """How one client reaches its server.

    Attributes:
        superlink: ``host:port`` of the server's link.
        config: the client's TOML file.
        max_wait_s: seconds to keep trying while the server cannot be reached.
        root_certificates: PEM file of the authority that signed the server's certificate. Without it plain
            HTTP is used, which is allowed to this machine only.
        private_key: the node's EC key (SSH format) where the server knows its nodes by key.
    """

    superlink: str
    config: Path
    max_wait_s: float = 600.0
    root_certificates: Path | None = None
    private_key: Path | None = None

    def __post_init__(self) -> None:
        host, colon, port = self.superlink.rpartition(":")
        if not (colon and host and port.isdigit()):
            raise InputError(f"superlink is {self.superlink!r}; write host:port, for example 127.0.0.1:8000")
        if not self.max_wait_s > 0:
            raise InputError(f"max_wait_s is {self.max_wait_s}; it needs a positive number of seconds")
        if self.root_certificates is None and not _is_this_machine(host):
            raise InputError(f"plain HTTP to {host} would be readable on the way; give --root-certificates")
        if '"' in str(self.config.resolve()):
            raise InputError(
                f"the path {self.config} has a quotation mark, which Flower cannot pass on; rename it"
            )


class SuperNode:
    """One running ``flower-supernode``.

    Attributes:
        address: ``host:port`` of its API on this machine.
        secret: what proves to it that a task is taken by this process.
    """

    def __init__(self, settings: NodeSettings, scratch: Path) -> None:
        self.secret = secrets.token_bytes(32)
        self.address = f"127.0.0.1:{_free_port()}"
        self._log_path = scratch / "supernode.log"
        secret_path = scratch / "secret"
        secret_path.unlink(missing_ok=True)
        with os.fdopen(os.open(secret_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(self.secret)
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                _command(settings, self.address, secret_path),
                env=_environment(scratch),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Out of reach of the terminal's Ctrl-C: this process decides when its node signs off.
                start_new_session=True,
            )

    def wait_until_open(self, stop: threading.Event) -> bool:
        """Wait for its local port; False if it ended, was told to stop, or took longer than a minute."""
        deadline = time.monotonic() + _OPEN_S
        host, _, port = self.address.partition(":")
        while self.is_running() and not stop.is_set() and time.monotonic() < deadline:
            try:
                socket.create_connection((host, int(port)), timeout=1.0).close()
            except OSError:
                stop.wait(0.1)
            else:
                return True
        return False

    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self._process.poll() is None

    def was_connected(self) -> bool:
        """Whether the server accepted this node at least once."""
        return "SuperNode ID:" in self._text()

    def lost_server(self) -> bool:
        """Whether it ended because the server stayed away for as long as it was allowed to wait."""
        return "Giving up reconnection" in self._text()

    def reason(self) -> str:
        """Why it ended, as far as its log tells, in one line."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", self._text())
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        telling = [line for line in lines if re.search(r"code:|rror|refused|Giving up", line)]
        return (telling or lines or ["it left no message"])[-1][:200]

    def stop(self) -> None:
        """Let it sign off from the server, and end it by force if it takes too long."""
        if self.is_running():
            self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _text(self) -> str:
        return self._log_path.read_text(encoding="utf-8", errors="replace")


def _command(settings: NodeSettings, address: str, secret_path: Path) -> list[str]:
    host, _, port = address.partition(":")
    command = [sys.executable, "-c", "from client.flower_node import supernode_main; supernode_main()"]
    command += ["--superlink", settings.superlink, "--max-wait-time", str(settings.max_wait_s)]
    command += ["--isolation", "process", "--superexec-auth-secret-file", str(secret_path)]
    command += ["--host", host, "--port", port]
    # Flower parses key=value pairs with a grammar of its own; a JSON string is a TOML string that suits it.
    config = json.dumps(str(settings.config.resolve()), ensure_ascii=False)
    command += ["--node-config", f"config={config}"]
    if settings.root_certificates is None:
        command += ["--insecure"]
    else:
        command += ["--root-certificates", str(settings.root_certificates)]
    if settings.private_key is not None:
        command += ["--auth-supernode-private-key", str(settings.private_key)]
    return command


def _environment(scratch: Path) -> dict[str, str]:
    here = str(Path(__file__).resolve().parent.parent)
    return os.environ | {
        "FLWR_HOME": str(scratch / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")])),
    }


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
