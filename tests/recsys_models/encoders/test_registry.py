from __future__ import annotations

from dataclasses import asdict
from typing import get_args

import pytest

from recsys_models.encoders import ENCODER_SIZES, ENCODERS, build_encoder
from server.scenario import Scenario


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_comes_in_every_size_from_small_to_large(name: str) -> None:
    parameters = [
        sum(parameter.numel() for parameter in build_encoder(name, **asdict(size)).parameters())
        for size in ENCODER_SIZES.values()
    ]
    assert list(ENCODER_SIZES) == ["S", "M", "L"]
    assert parameters == sorted(set(parameters))


def test_a_scenario_can_name_every_encoder() -> None:
    assert set(get_args(Scenario.model_fields["encoder"].annotation)) == set(ENCODERS)
