"""The same scenario in one process and as real server and client processes: the same bytes come out."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from server.console import RunProgress
from server.scenario import load_scenario
from simulations.provision import provision
from simulations.run import simulate
from tests.end_to_end.processes import free_port, processes_naming, start, wait_for

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(420),
    pytest.mark.skipif(
        not Path("/proc/self/cmdline").exists(), reason="looks for left-over processes in /proc"
    ),
]

SCENARIO = """
name = "deployment-test"
recipe = "hybrid"
seed = 7
[model]
dim = 8
max_length = 20
item_tower = "fusion"
[gradients]
rounds = 2
min_users = 0
[fit]
steps = 2
[federation]
deadline_s = 180
[simulation]
clients = 3
users = 150
items = 60
"""


def test_processes_and_loopback_publish_the_same_bytes(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    (tmp_path / "scenario.toml").write_text(SCENARIO)
    scenario = load_scenario(tmp_path / "scenario.toml")
    deployment = tmp_path / "deployment"
    commands = provision(scenario, deployment)
    assert len(commands) == 4

    port = free_port()
    clients = [
        start(
            tmp_path / f"{folder.name}.log",
            *("client", "--superlink", f"127.0.0.1:{port}", "--config", folder / "client.toml"),
            *("--max-wait-s", 60),
        )
        for folder in sorted((deployment / "clients").iterdir())
    ]
    started.extend(clients)
    server = start(
        tmp_path / "server.log",
        *("server", "--scenario", deployment / "scenario.toml", "--clients", 3, "--port", port),
        *("--out", deployment / "run", "--wait-for-clients-s", 90, "--deadline-s", 320),
    )
    started.append(server)

    # The loopback runs meanwhile: same scenario, same seed, no Flower.
    in_process = simulate(scenario, tmp_path / "loopback", RunProgress())

    assert server.wait(340) == 0, (tmp_path / "server.log").read_text()
    deployed = json.loads((deployment / "run" / "report.json").read_text())
    assert deployed["item_tower_sha256"] == in_process["item_tower_sha256"]
    published = [folder / "item_tower.safetensors" for folder in (deployment / "run", tmp_path / "loopback")]
    assert published[0].read_bytes() == published[1].read_bytes(), "every published array, bit for bit"
    assert deployed["metrics"] == in_process["metrics"]
    assert deployed["privacy"]["epsilon"] == in_process["privacy"]["epsilon"]
    assert deployed["left_the_client"] == in_process["left_the_client"]
    assert deployed["dropouts"] == []

    for client in clients:
        client.terminate()
        assert client.wait(30) == 0
    wait_for(lambda: not processes_naming(f"127.0.0.1:{port}"), 20)
    encoders = sorted((deployment / "clients").glob("*/state/encoder.safetensors"))
    assert len(encoders) == 3, "each client keeps its own encoder"
    assert not list((deployment / "run").rglob("encoder.safetensors"))
