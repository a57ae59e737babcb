from __future__ import annotations

import copy

import pytest
import torch

from recsys_models.encoders import ENCODERS, build_encoder
from recsys_models.encoders.dropout import OwnDropout, own_dropout


def outputs(name: str, seed: int, *, training: bool = True) -> torch.Tensor:
    torch.manual_seed(0)
    encoder = build_encoder(name, 8, max_length=5, dropout=0.3, start="random").train(training)
    own_dropout(encoder, torch.Generator().manual_seed(seed))
    items = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(1))
    return encoder(items, torch.ones(4, 5, dtype=torch.bool))


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_draws_its_masks_from_the_given_generator(name: str) -> None:
    assert torch.equal(outputs(name, 1), outputs(name, 1))
    assert not torch.equal(outputs(name, 1), outputs(name, 2))
    assert torch.equal(outputs(name, 1, training=False), outputs(name, 2, training=False))


def test_the_mean_is_kept_and_a_copy_shares_the_generator() -> None:
    dropout = OwnDropout(0.25, torch.Generator().manual_seed(0))
    kept = dropout(torch.ones(100_000))
    assert float((kept == 0.0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.01)
    assert not torch.equal(copy.deepcopy(dropout)(torch.ones(100)), dropout(torch.ones(100)))
    assert torch.equal(copy.deepcopy(dropout).eval()(torch.ones(100)), torch.ones(100))
