"""Real server and client processes on 127.0.0.1, with an echo in place of the federation."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECRET = "SECRET-ROW-4711"
LARGE_BYTES = 8 * 1024 * 1024
DEADLINE_S = 25.0

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(170),
    pytest.mark.skipif(
        not Path("/proc/self/cmdline").exists(), reason="looks for left-over processes in /proc"
    ),
]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_payloads_dropouts_and_failures_cross_real_processes(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    out, port = tmp_path / "out", _free_port()
    scenario = tmp_path / "scenario.toml"
    scenario.write_text(
        f"large_bytes = {LARGE_BYTES}\nsmall_exchanges = 2\nbusy_s = 4.0\ndeadline_s = {DEADLINE_S}\n"
    )
    clients = {f"client-{i}": _client(tmp_path, f"client-{i}", port) for i in range(3)}
    started.extend(clients.values())
    server = _start(
        tmp_path / "server.log",
        *("server", "--scenario", scenario, "--clients", 3, "--port", port, "--out", out),
        *(
            "--deadline-s",
            100,
            "--wait-for-clients-s",
            60,
            "--federation",
            "tests.end_to_end.echo:run_federation",
        ),
    )
    started.append(server)

    _wait_for(lambda: (out / "ready-to-kill").exists() or server.poll() is not None, 100)
    time.sleep(1.0)  # the clients are now busy with train.fit
    clients["client-2"].kill()
    assert server.wait(60) == 0, (tmp_path / "server.log").read_text()

    record = json.loads((out / "record.json").read_text())
    assert record["clients"] == ["client-0", "client-1", "client-2"]
    first, second, large, failing, after, busy, last = record["exchanges"]
    _check_echo(first, second, after)
    assert {c: a["reversed"] for c, a in large["answers"].items()} == dict.fromkeys(clients, True)
    assert failing["answers"] == {}
    assert failing["missing"] == dict.fromkeys(clients, "error 2: failed")
    for exchange in (busy, last):
        assert set(exchange["answers"]) == {"client-0", "client-1"}
        assert set(exchange["missing"]) == {"client-2"}
        assert exchange["seconds"] < DEADLINE_S - 3, (
            "a client that left should be noticed before the deadline"
        )

    for name in ("client-0", "client-1"):
        clients[name].terminate()
        assert clients[name].wait(20) == 0, (tmp_path / f"{name}.log").read_text()
    _wait_for(lambda: not _processes_naming(f"127.0.0.1:{port}"), 20)

    assert SECRET in (tmp_path / "client-0.log").read_text(), "the client's own log tells what went wrong"
    told = [tmp_path / "server.log", *(p for p in out.rglob("*") if p.is_file())]
    assert [p.name for p in told if SECRET.encode() in p.read_bytes()] == []


def test_a_server_without_enough_clients_says_so(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    scenario, log = tmp_path / "scenario.toml", tmp_path / "server.log"
    scenario.write_text("")
    arguments = ("server", "--scenario", scenario, "--clients", 2, "--port", 0, "--out", tmp_path / "out")
    server = _start(
        log, *arguments, "--wait-for-clients-s", 1, "--federation", "tests.end_to_end.echo:run_federation"
    )
    started.append(server)
    assert server.wait(60) == 1
    assert "NotEnoughClients: 0 of 2 clients came within 1 s" in log.read_text().splitlines()[-1]


def test_sigterm_stops_a_waiting_server_and_everything_it_started(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    scenario, port, log = tmp_path / "scenario.toml", _free_port(), tmp_path / "server.log"
    scenario.write_text("")
    server = _start(
        log, "server", "--scenario", scenario, "--clients", 2, "--port", port, "--out", tmp_path / "out"
    )
    started.append(server)
    _wait_for(lambda: "server is ready" in log.read_text(), 60)
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) != 0
    _wait_for(lambda: not _processes_naming(f"127.0.0.1:{port}", str(tmp_path)), 10)


def test_a_client_gives_up_on_a_server_that_never_comes(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    client = _client(tmp_path, "lonely", port := _free_port(), max_wait_s=3)
    started.append(client)
    assert client.wait(60) == 1
    assert f"gave up on 127.0.0.1:{port}" in (tmp_path / "lonely.log").read_text()
    assert not _processes_naming(f"127.0.0.1:{port}")


def _check_echo(*exchanges: dict[str, Any]) -> None:
    pids: dict[str, set[int]] = {}
    seen: dict[str, list[int]] = {}
    for exchange in exchanges:
        assert exchange["missing"] == {}
        for client, answer in exchange["answers"].items():
            assert answer["sha256"] == exchange["sent_sha256"]
            pids.setdefault(client, set()).add(answer["pid"])
            seen.setdefault(client, []).append(answer["seen"])
    assert len(pids) == 3
    assert all(len(p) == 1 for p in pids.values()), "one process must answer all messages of a client"
    assert all(s == [1, 2, 5] for s in seen.values()), (
        "what a client knew must still be there at the next message"
    )


def _client(folder: Path, client_id: str, port: int, max_wait_s: float = 60) -> subprocess.Popen[bytes]:
    config = folder / f"{client_id}.toml"
    handlers = "tests.end_to_end.echo:open_client"
    config.write_text(f'client_id = "{client_id}"\nsecret_text = "{SECRET}"\nhandlers = "{handlers}"\n')
    arguments = ("client", "--superlink", f"127.0.0.1:{port}", "--config", config, "--max-wait-s", max_wait_s)
    return _start(folder / f"{client_id}.log", *arguments)


def _start(log_path: Path, *arguments: object) -> subprocess.Popen[bytes]:
    with log_path.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "fedtower.py"), *map(str, arguments)],
            cwd=ROOT,
            # A killed client cannot tidy up: what it leaves goes with the test's folder.
            env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(log_path.parent)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {seconds} s"
        time.sleep(0.1)


def _processes_naming(*texts: str) -> list[str]:
    """Command lines of running processes, other than this one, that mention one of the texts."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(text in line for text in texts):
            found.append(line)
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
