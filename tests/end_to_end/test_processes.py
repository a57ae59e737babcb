"""Real server and client processes on 127.0.0.1, with an echo in place of the federation."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.processes import free_port, processes_naming, start, wait_for

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


def test_payloads_dropouts_and_failures_cross_real_processes(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    out, port = tmp_path / "out", free_port()
    scenario = tmp_path / "scenario.toml"
    scenario.write_text(
        f"large_bytes = {LARGE_BYTES}\nsmall_exchanges = 2\nbusy_s = 4.0\ndeadline_s = {DEADLINE_S}\n"
    )
    clients = {f"client-{i}": _client(tmp_path, f"client-{i}", port) for i in range(3)}
    started.extend(clients.values())
    server = start(
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

    wait_for(lambda: (out / "ready-to-kill").exists() or server.poll() is not None, 100)
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
    wait_for(lambda: not processes_naming(f"127.0.0.1:{port}"), 20)

    assert SECRET in (tmp_path / "client-0.log").read_text(), "the client's own log tells what went wrong"
    told = [tmp_path / "server.log", *(p for p in out.rglob("*") if p.is_file())]
    assert [p.name for p in told if SECRET.encode() in p.read_bytes()] == []


def test_a_server_without_enough_clients_says_so(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    scenario, log = tmp_path / "scenario.toml", tmp_path / "server.log"
    scenario.write_text("")
    arguments = ("server", "--scenario", scenario, "--clients", 2, "--port", 0, "--out", tmp_path / "out")
    server = start(
        log, *arguments, "--wait-for-clients-s", 1, "--federation", "tests.end_to_end.echo:run_federation"
    )
    started.append(server)
    assert server.wait(60) == 1
    assert "NotEnoughClients: 0 of 2 clients came within 1 s" in log.read_text().splitlines()[-1]


def test_sigterm_stops_a_waiting_server_and_everything_it_started(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    scenario, port, log = tmp_path / "scenario.toml", free_port(), tmp_path / "server.log"
    scenario.write_text("")
    server = start(
        log, "server", "--scenario", scenario, "--clients", 2, "--port", port, "--out", tmp_path / "out"
    )
    started.append(server)
    wait_for(lambda: "server is ready" in log.read_text(), 60)
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) != 0
    wait_for(lambda: not processes_naming(f"127.0.0.1:{port}", str(tmp_path)), 10)


def test_a_client_gives_up_on_a_server_that_never_comes(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    client = _client(tmp_path, "lonely", port := free_port(), max_wait_s=3)
    started.append(client)
    assert client.wait(60) == 1
    assert f"gave up on 127.0.0.1:{port}" in (tmp_path / "lonely.log").read_text()
    assert not processes_naming(f"127.0.0.1:{port}")


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
    return start(folder / f"{client_id}.log", *arguments)
