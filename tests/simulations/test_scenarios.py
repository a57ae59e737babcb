"""The scenario files that come with the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.scenario import Scenario, load_scenario

FILES = sorted((Path(__file__).resolve().parents[2] / "simulations" / "scenarios").glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_loads_under_its_own_name(path: Path):
    assert load_scenario(path).name == path.stem


def test_the_built_in_file_is_the_default_written_out():
    built_in = next(path for path in FILES if path.stem == "built-in")
    assert load_scenario(built_in) == Scenario()
