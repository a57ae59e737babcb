from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import InputError
from server.scenario import Scenario, load_scenario, override, parse_scenario


def test_an_empty_file_is_the_built_in_scenario(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("")
    assert load_scenario(tmp_path / "s.toml") == Scenario()


def test_a_file_is_read_and_options_go_over_it(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('recipe = "statistics"\n[privacy]\nepsilon = 2\n[fit]\nsteps = 0\n')
    scenario = override(load_scenario(tmp_path / "s.toml"), {"privacy.epsilon": 4.0, "simulation.clients": 7})
    assert (scenario.recipe, scenario.privacy.epsilon, scenario.fit.steps) == ("statistics", 4.0, 0)
    assert scenario.simulation.clients == 7
    assert scenario.privacy.delta == Scenario().privacy.delta


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[privcy]\nepsilon = 1", "unknown setting 'privcy'; did you mean 'privacy'?"),
        ("[privacy]\nepsilom = 1", "unknown setting 'privacy.epsilom'; did you mean 'privacy.epsilon'?"),
        ("recepie = 'hybrid'", "unknown setting 'recepie'; did you mean 'recipe'?"),
        ("zzzz = 1", "unknown setting 'zzzz'"),
        ("recipe = 'hybird'", "recipe: Input should be 'statistics', 'gradients' or 'hybrid' (got 'hybird')"),
        ("[privacy]\nepsilon = -1", "privacy.epsilon: Input should be greater than 0 (got -1)"),
        ("[privacy]\nepsilon = 0", "privacy.epsilon: Input should be greater than 0 (got 0)"),
        ("[privacy]\nepsilon = nan", "privacy.epsilon: Input should be"),
        ("[privacy]\nepsilon = inf", "privacy.epsilon: Input should be a finite number"),
        ("[privacy]\ndelta = 1.5", "privacy.delta: Input should be less than 1 (got 1.5)"),
        (
            "[privacy.noise_multipliers]\nstatistics = nan",
            "privacy.noise_multipliers.statistics: Input should be",
        ),
        ("[privacy.noise_multipliers]\nstatistics = 0", "greater than 0"),
        ("[shares]\nfit = -0.1", "shares.fit: Input should be greater than or equal to 0 (got -0.1)"),
        (
            "[federation]\nmin_clients = 2",
            "federation.min_clients: Input should be greater than or equal to 3",
        ),
        ("seed = -1", "seed: Input should be greater than or equal to 0"),
        ("[privacy]\nmode = 'off'\n[privacy.noise_multipliers]\nfit = 1", "contradict each other: drop one"),
        ("epsilon = [", "is not valid TOML"),
    ],
)
def test_every_mistake_is_one_line_that_names_it(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_scenario(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read scenario .*No such file"):
        load_scenario(tmp_path / "none.toml")
    (tmp_path / "s.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        load_scenario(tmp_path / "s.toml")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (32, 1, 1, 0.0)),
        ({"model.size": "M"}, (64, 2, 2, 0.1)),
        ({"model.size": "M", "encoder": "gru"}, (64, 2, 1, 0.1)),
        ({"model.size": "L", "model.dim": 40, "model.dropout": 0.0}, (40, 4, 4, 0.0)),
        ({"model.heads": 4, "encoder": "hstu"}, (32, 1, 4, 0.0)),
    ],
)
def test_a_size_says_what_the_section_leaves_out(changes: dict[str, Any], expected: tuple[Any, ...]) -> None:
    size = override(Scenario(), changes).encoder_size
    assert (size.dim, size.blocks, size.heads, size.dropout) == expected


def test_a_size_on_the_command_line_leaves_no_trace_of_the_one_before() -> None:
    assert override(override(Scenario(), {"model.size": "L"}), {"model.size": "M"}).encoder_size.dim == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.heads": 2, "encoder": "cnn"}, "'cnn' has no heads"),
        ({"model.heads": 3}, "does not divide model.dim = 32"),
        ({"model.size": "XL"}, "model.size: Input should be 'S', 'M' or 'L'"),
        ({"gradients.loss": "triplet"}, "gradients.loss: Input should be"),
    ],
)
def test_sizes_and_losses_that_do_not_exist(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        override(Scenario(), changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"gradients.loss": "bpr"}, r"gradients\.loss = 'bpr': read by gradient rounds alone"),
        (
            {"gradients.loss": "gbce", "gradients.rounds": 3},
            r"gradients\.rounds = 3, gradients\.loss = 'gbce': read by",
        ),
        ({"gradients.server_optimizer": "fedavg"}, r"gradients\.server_optimizer = 'fedavg': read by"),
    ],
)
def test_settings_of_gradient_rounds_are_refused_where_there_are_none(
    changes: dict[str, Any], named: str
) -> None:
    for recipe in ("hybrid", "gradients"):
        asked = override(Scenario(), {"recipe": recipe, **changes})
        with pytest.raises(InputError, match=named + ".*recipe = 'gradients' or 'hybrid', or leave"):
            override(asked, {"recipe": "statistics"})
    document = {"recipe": "statistics", "gradients": {k.split(".")[1]: v for k, v in changes.items()}}
    with pytest.raises(InputError, match="scenario.toml: scenario: .*" + named):
        parse_scenario(document, source="scenario.toml")
    at_default = {"recipe": "statistics", "gradients.loss": "sampled-softmax", "gradients.min_users": 0}
    assert override(Scenario(), at_default).recipe == "statistics"


def test_several_mistakes_are_told_together() -> None:
    with pytest.raises(InputError, match=r"greater than 0.*; .*'hybird'|'hybird'.*; .*greater than 0"):
        parse_scenario({"recipe": "hybird", "privacy": {"epsilon": -2.0}}, source="s")


@pytest.mark.parametrize(
    "wrong", [{"privacy.epsilon": math.nan}, {"privacy.epsilon": -3.0}, {"encoder": "lstm"}]
)
def test_options_are_checked_like_files(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^command line: "):
        override(Scenario(), wrong)
