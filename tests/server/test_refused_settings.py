from __future__ import annotations

from typing import Any

import pytest

from privacy.errors import InputError
from server.refused_settings import reason_for
from server.scenario import parse_scenario


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"gradients": {"negatives_from": "batch"}}, "every other user's gradient"),
        ({"gradients": {"in_batch_negatives": True}}, "every other user's gradient"),
        ({"gradients": {"negatives": "in-batch"}}, "every other user's gradient"),
        ({"gradients": {"local_epochs": 5}}, "one distributed noise"),
        ({"local_epochs": 3}, "one distributed noise"),
        ({"accountant": "gdp"}, "understates epsilon"),
        ({"privacy": {"accountant": "CLT"}}, "understates epsilon"),
        ({"privacy": {"accountant": "rdp"}}, "nothing to choose"),
        ({"gradients": {"server_optimizer": "krum"}}, "never holds one"),
        ({"federation": {"aggregator": "trimmed-mean"}}, "never holds one"),
        ({"model": {"batch_norm": True}}, "layer norm"),
        ({"model": {"normalization": "batch"}}, "layer norm"),
        ({"gradients": {"normalize_by": "count"}}, "private count"),
        ({"gradients": {"loss_reduction": "mean"}}, "private count"),
        ({"gradients": {"encoder_noise": False}}, "cannot be switched off"),
        ({"gradients": {"clip_per_layer": True}}, "one vector"),
        ({"privacy": {"epsilon_per_round": 1.0}}, "one budget"),
    ],
)
def test_settings_of_other_frameworks_are_refused_with_the_reason(document: dict[str, Any], why: str):
    with pytest.raises(InputError) as caught:
        parse_scenario(document, source="scenario.toml")
    message = str(caught.value)
    assert "is refused: " in message
    assert why in message
    assert "\n" not in message


def test_a_misspelt_setting_still_gets_its_closest_name():
    with pytest.raises(InputError, match=r"did you mean 'gradients\.rounds'"):
        parse_scenario({"gradients": {"round": 5}}, source="scenario.toml")


def test_a_wrong_value_of_a_known_setting_is_no_refusal_of_the_setting():
    with pytest.raises(InputError, match="Input should be"):
        parse_scenario({"gradients": {"server_optimizer": "adamw"}}, source="scenario.toml")
    assert reason_for("gradients.negatives", -1) is None
    assert reason_for("gradients.server_optimizer", "fedavg") is None


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (
            {"gradients": {"local_steps": 5}, "privacy": {"noise": "distributed"}},
            "use privacy.noise = 'per_client'",
        ),
        ({"gradients": {"local_steps": 5, "adaptive_clip": True}}, "counts users once a round"),
        ({"gradients": {"local_steps": 0}}, "greater than or equal to 1"),
    ],
)
def test_local_steps_are_refused_where_they_would_break_the_promise(document: dict[str, Any], why: str):
    with pytest.raises(InputError, match=why):
        parse_scenario(document, source="scenario.toml")
    off = {"gradients": {"local_steps": 5}, "privacy": {"noise": "distributed", "mode": "off"}}
    assert parse_scenario(off, source="scenario.toml").gradients.local_steps == 5


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"recipe": "statistics"}, "recipe = 'gradients' or 'hybrid'"),
        ({"model": {"content": "off"}}, "model.content = 'off' leaves it out: use 'auto'"),
        ({"gradients": {"local_steps": 5}}, "use gradients.local_steps = 1"),
    ],
)
def test_a_map_of_content_is_refused_where_nothing_would_train_it(document: dict[str, Any], why: str):
    for tower in ("content", "fusion"):
        asked = {**document, "model": {**document.get("model", {}), "item_tower": tower}}
        with pytest.raises(InputError, match=why) as refusal:
            parse_scenario(asked, source="scenario.toml")
        assert f"model.item_tower = '{tower}'" in str(refusal.value)
    parse_scenario(document, source="scenario.toml")
    with pytest.raises(InputError, match="'ids', 'content' or 'fusion'"):
        parse_scenario({"model": {"item_tower": "images"}}, source="scenario.toml")
