"""The bundle that is handed to the link, and what is refused before anything starts."""

from __future__ import annotations

import socket
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import InputError
from server.app import load_function
from server.launch import LaunchSettings, bundle_pyproject, launch
from server.superlink import LaunchError


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / 'odd "name" ü' / "scenario.toml"
    path.parent.mkdir()
    path.write_text("")
    return path


def test_the_bundle_holds_the_run_configuration_and_no_code(tmp_path: Path, scenario: Path) -> None:
    settings = LaunchSettings(scenario=scenario, out=tmp_path / "out", clients=3, wait_for_clients_s=20)
    project = tomllib.loads(bundle_pyproject(settings))
    assert project["tool"]["flwr"]["app"]["fab-include"] == ["pyproject.toml"]
    assert project["tool"]["flwr"]["app"]["config"] == {
        "scenario": str(scenario),
        "out": str(tmp_path / "out"),
        "clients": 3,
        "wait-for-clients-s": 20.0,
        "federation": "",
    }
    resumed = tomllib.loads(bundle_pyproject(replace(settings, resume=tmp_path / "first")))
    assert resumed["tool"]["flwr"]["app"]["config"]["resume"] == str(tmp_path / "first")


@pytest.mark.parametrize(
    "change",
    [
        {"clients": 0},
        {"port": -1},
        {"port": 65536},
        {"deadline_s": 0.0},
        {"wait_for_clients_s": float("nan")},
    ],
)
def test_unusable_settings_are_refused(tmp_path: Path, scenario: Path, change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        LaunchSettings(**({"scenario": scenario, "out": tmp_path, "clients": 3} | change))


def test_a_missing_scenario_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.toml"):
        LaunchSettings(scenario=tmp_path / "absent.toml", out=tmp_path, clients=3)


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path, scenario: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings = LaunchSettings(scenario=scenario, out=tmp_path, clients=1, port=other.getsockname()[1])
        with pytest.raises(LaunchError, match=f"{settings.port} .* taken"):
            launch(settings)


@pytest.mark.parametrize("reference", ["", "json", "json:", ":loads", "json:no_such_name"])
def test_a_malformed_function_reference_is_refused(reference: str) -> None:
    with pytest.raises(InputError):
        load_function(reference)
