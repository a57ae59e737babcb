from __future__ import annotations

from dataclasses import asdict
from typing import get_args

import pytest
import torch

from recsys_models.encoder_sizes import ENCODERS_WITH_HEADS
from recsys_models.encoders import ENCODER_SIZES, ENCODERS, build_encoder
from recsys_models.sampled_losses import LOSSES
from server.scenario import GradientsSection, ModelSection, Scenario


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_comes_in_every_size_from_small_to_large(name: str) -> None:
    parameters = [
        sum(parameter.numel() for parameter in build_encoder(name, **asdict(size)).parameters())
        for size in ENCODER_SIZES.values()
    ]
    assert list(ENCODER_SIZES) == ["S", "M", "L"]
    assert parameters == sorted(set(parameters))


def test_a_scenario_can_name_every_encoder_size_and_loss() -> None:
    assert set(get_args(Scenario.model_fields["encoder"].annotation)) == set(ENCODERS)
    assert set(get_args(ModelSection.model_fields["size"].annotation)) == set(ENCODER_SIZES)
    assert get_args(GradientsSection.model_fields["loss"].annotation) == LOSSES


@pytest.mark.parametrize("name", ENCODERS)
def test_more_heads_than_one_change_those_encoders_that_have_heads(name: str) -> None:
    outputs = []
    for heads in (1, 2):
        torch.manual_seed(0)
        encoder = build_encoder(name, 8, max_length=5, heads=heads, start="random").eval()
        items = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
        outputs.append(encoder(items, torch.ones(2, 5, dtype=torch.bool)))
    assert torch.equal(*outputs) == (name not in ENCODERS_WITH_HEADS)
