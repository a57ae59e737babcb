from __future__ import annotations

from pathlib import Path

import pytest

from client.config import load_config
from privacy.errors import InputError

GOOD = """
client_id = "hospital"
log = "log.csv"
catalogue = "catalogue.csv"
identity = "identity.pem"
roster = "/etc/roster.json"
[policy]
max_epsilon = 2.0
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "client.toml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.log == tmp_path / "log.csv"
    assert config.state_dir == tmp_path / "state"
    assert config.roster == Path("/etc/roster.json")
    assert (config.policy.max_epsilon, config.policy.min_cohort) == (2.0, 3)
    assert config.simulation_seed is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('log = "log.csv"', "", "log: Field required"),
        ("max_epsilon = 2.0", "max_epsilon = nan", "policy.max_epsilon"),
        ("max_epsilon = 2.0", "max_epsilon = -2.0", "policy.max_epsilon: Input should be greater than 0"),
        ("max_epsilon = 2.0", "min_cohort = 2", "policy.min_cohort"),
        ("max_epsilon", "max_epsilom", "policy.max_epsilom: Extra inputs are not permitted"),
        ('"hospital"', '""', "client_id"),
        ("[policy]", "[policy", "is not valid TOML"),
    ],
)
def test_every_mistake_is_one_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(InputError) as error:
        load_config(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read client configuration .*No such file"):
        load_config(tmp_path / "client.toml")
