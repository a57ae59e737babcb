"""The short way from gradients to the bounded sum gives what the long way gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from privacy.bounded import clip_and_sum
from privacy.errors import InputError
from privacy.user_gradients import per_user_gradients, wrap_encoder
from privacy.user_gradients.reference_engines import hooks_step, plain_step
from tests.privacy.user_gradients.encoders import Sound, own_softmax


@pytest.mark.parametrize("clip", [0.01, 0.3, 50.0])
def test_the_same_integers(table: Tensor, item_ids: Tensor, clip: float):
    torch.manual_seed(1)
    gradients = per_user_gradients(wrap_encoder(Sound()), table, item_ids, own_softmax)
    unit = clip / 2**14
    short = gradients.clip_and_sum(12, l2_clip_norm=clip, unit=unit)
    long = clip_and_sum(gradients.to_contributions(12), l2_clip_norm=clip, unit=unit)
    assert np.array_equal(short.values, long.values)
    assert (short.l2_bound, short.users) == (long.l2_bound, long.users)
    with pytest.raises(InputError, match="the tower has 5 items"):
        gradients.clip_and_sum(5, l2_clip_norm=clip, unit=unit)


def test_a_user_without_finite_gradient_adds_nothing(table: Tensor, item_ids: Tensor):
    table = torch.cat([table, torch.full((1, table.shape[1]), 1e30)])
    item_ids = item_ids.clone()
    item_ids[2, 0] = 12
    torch.manual_seed(1)
    wrapped = wrap_encoder(Sound())
    for module in wrapped.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    everybody = per_user_gradients(wrapped, table, item_ids, own_softmax)
    others = torch.tensor([u for u in range(9) if u != 2])
    rest = per_user_gradients(wrapped, table, item_ids[others], own_softmax)
    with_broken, without = (g.clip_and_sum(13, l2_clip_norm=1.0, unit=2.0**-14) for g in (everybody, rest))
    if everybody.dropped_users:
        assert np.abs(with_broken.values - without.values).max() <= 1


def test_touched_rows_are_renumbered(table: Tensor, item_ids: Tensor):
    torch.manual_seed(1)
    gradients = per_user_gradients(wrap_encoder(Sound()), table, item_ids, own_softmax)
    items, compact = gradients.touched_rows()
    whole = gradients.clip_and_sum(12, l2_clip_norm=1.0, unit=2.0**-14).values
    part = compact.clip_and_sum(items.numel(), l2_clip_norm=1.0, unit=2.0**-14).values
    parameters, dim = gradients.encoder.shape[1], table.shape[1]
    assert np.array_equal(whole[:parameters], part[:parameters])
    rows = whole[parameters:].reshape(12, dim)
    assert np.array_equal(rows[items.numpy()], part[parameters:].reshape(-1, dim))
    assert not np.delete(rows, items.numpy(), axis=0).any()


def test_the_reference_engines_take_a_step(table: Tensor, item_ids: Tensor):
    ids = item_ids.clamp(min=0)
    private = {"rate": 0.1, "l2_clip_norm": 1.0, "noise_multiplier": 0.5}
    for make in (
        lambda e, t: plain_step(e, t, ids, own_softmax, 0.1),
        lambda e, t: hooks_step(e, t, ids, own_softmax, **private),
    ):
        torch.manual_seed(2)
        moved = table.clone()
        make(Sound(), moved)()
        assert not torch.equal(moved, table)
        assert moved.isfinite().all()
