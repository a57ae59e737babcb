"""Where a client may connect, and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.supernode import NodeSettings, _command
from privacy.errors import InputError

CONFIG = Path("client.toml")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.8.8.8"])
def test_plain_http_is_for_this_machine(host: str) -> None:
    command = _command(NodeSettings(f"{host}:8000", CONFIG), "127.0.0.1:9", Path("secret"))
    assert "--insecure" in command
    assert command[command.index("--isolation") + 1] == "process"


@pytest.mark.parametrize("host", ["10.0.0.8", "fedtower.example", "127.0.0.1.example", "0.0.0.0"])
def test_plain_http_to_another_machine_is_refused(host: str) -> None:
    with pytest.raises(InputError, match="root-certificates"):
        NodeSettings(f"{host}:8000", CONFIG)
    settings = NodeSettings(f"{host}:8000", CONFIG, root_certificates=Path("ca.crt"))
    assert "--insecure" not in _command(settings, "127.0.0.1:9", Path("secret"))


@pytest.mark.parametrize("superlink", ["", "127.0.0.1", ":8000", "127.0.0.1:http"])
def test_a_malformed_address_is_refused(superlink: str) -> None:
    with pytest.raises(InputError, match="host:port"):
        NodeSettings(superlink, CONFIG)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_wait_needs_an_end(seconds: float) -> None:
    with pytest.raises(InputError, match="max_wait_s"):
        NodeSettings("127.0.0.1:8000", CONFIG, max_wait_s=seconds)


def test_a_path_with_blanks_and_accents_reaches_flower_unchanged(tmp_path: Path) -> None:
    from flwr.common.config import parse_config_args

    config = tmp_path / "Büro nord's" / "client.toml"
    command = _command(NodeSettings("127.0.0.1:8000", config), "127.0.0.1:9", Path("secret"))
    assert parse_config_args([command[command.index("--node-config") + 1]]) == {"config": str(config)}
