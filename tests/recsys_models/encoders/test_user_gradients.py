"""Every encoder with every kind of candidates passes the guard: its per-user gradients are exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from privacy.user_gradients import check_engine, per_user_gradients, wrap_encoder
from privacy.user_gradients.clipped_sum import Method
from recsys_models.batches import NextItemBatch, next_item_batch
from recsys_models.data.histories import TimedHistories
from recsys_models.encoders import ENCODERS, build_encoder
from recsys_models.negatives import CatalogueSampler
from recsys_models.sampled_losses import SAMPLED_LOSSES, sampled_loss

N_ITEMS, DIM, LENGTH = 30, 8, 10


def batch(candidates: str, table: torch.Tensor) -> NextItemBatch:
    generator = np.random.default_rng(0)
    items = [generator.integers(0, N_ITEMS, n) for n in (11, 3, 20, 2, 1, 0, 7, 9)]
    # From fractions of a second to years, with a user whose times are not all known and one whose times fall.
    times = [np.cumsum(0.1 * 3.0 ** np.arange(len(own))) for own in items]
    times[0][[2, 9]], times[2] = np.nan, times[2][::-1]
    histories = TimedHistories(items, times)
    if candidates == "frozen":
        return next_item_batch(histories, max_length=LENGTH, frozen_catalogue=table)
    if candidates == "catalogue":
        return next_item_batch(histories, max_length=LENGTH, n_items=N_ITEMS)
    sampler = CatalogueSampler(N_ITEMS, np.arange(N_ITEMS))
    negatives = sampler.sample(generator.random((8, 5)))
    correction = sampler.log_expected_count(negatives, 5)
    loss = sampled_loss(candidates, negatives=5, n_items=N_ITEMS)
    return next_item_batch(
        histories, max_length=LENGTH, negatives=negatives, log_expected_count=correction, loss=loss
    )


@pytest.mark.parametrize("candidates", [*SAMPLED_LOSSES, "catalogue", "frozen"])
@pytest.mark.parametrize("start", ["pooled", "random"])
@pytest.mark.parametrize("name", ENCODERS)
def test_per_user_gradients_are_exact(name: str, start: str, candidates: str) -> None:
    torch.manual_seed(0)
    table = torch.randn(N_ITEMS, DIM)
    encoder = build_encoder(name, DIM, max_length=LENGTH, blocks=2, heads=2, dropout=0.2, start=start)
    users = batch(candidates, table)
    found = check_engine(
        encoder, table, users.item_ids, users.select, 0.05, train_table=candidates != "frozen"
    )
    assert found.users == 8
    assert found.relative_error < 1e-5
    assert found.clipped_norm == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("method", ["hooks", "ghost"])
def test_the_gradients_of_gap_biases_are_each_users_own(method: Method) -> None:
    """On users with gaps in many buckets, and on users of whom no time is known."""
    torch.manual_seed(0)
    table = torch.randn(N_ITEMS, DIM)
    users = batch("frozen", table)
    for given in (users, replace(users, times=torch.full_like(users.times, torch.nan))):
        encoder = build_encoder("hstu", DIM, max_length=LENGTH, blocks=2, heads=2, start="random")
        found = check_engine(
            encoder, table, given.item_ids, given.select, 0.05, train_table=False, method=method
        )
        assert found.relative_error < 1e-5
        given(encoder, table[given.item_ids.clamp(min=0)]).sum().backward()
        moved = int(encoder.trunk.blocks[1].gap_bias.weight.grad.any(dim=1).sum())
        assert moved > 10 if given is users else moved == 1


@pytest.mark.parametrize("name", ENCODERS)
def test_users_without_a_next_item_contribute_nothing(name: str) -> None:
    table = torch.randn(N_ITEMS, DIM)
    users = batch("sampled-softmax", table)
    wrapped = wrap_encoder(build_encoder(name, DIM, max_length=LENGTH))
    norms = per_user_gradients(wrapped, table, users.item_ids, users).norms
    assert (norms[[4, 5]] == 0.0).all()
    assert (norms[[0, 1, 2, 3, 6, 7]] > 0.0).all()
