from __future__ import annotations

import numpy as np
import pytest
import torch

from privacy.user_gradients import check_engine
from recsys_models.batches import NextItemBatch, next_item_batch
from recsys_models.encoders import build_encoder
from recsys_models.errors import DataError
from recsys_models.losses import sampled_softmax
from recsys_models.negatives import CatalogueSampler
from recsys_models.sampled_losses import SAMPLED_LOSSES, sampled_loss

N_ITEMS, DIM = 30, 8


def batch(name: str) -> NextItemBatch:
    generator = np.random.default_rng(0)
    histories = [generator.integers(0, N_ITEMS, n) for n in (11, 3, 20, 2, 1, 0, 7, 9)]
    sampler = CatalogueSampler(N_ITEMS, np.arange(N_ITEMS))
    negatives = sampler.sample(generator.random((8, 5)))
    return next_item_batch(
        histories,
        max_length=10,
        negatives=negatives,
        log_expected_count=sampler.log_expected_count(negatives, 5),
        loss=sampled_loss(name, negatives=5, n_items=N_ITEMS),
    )


@pytest.mark.parametrize("name", SAMPLED_LOSSES)
def test_per_user_gradients_are_exact(name: str) -> None:
    torch.manual_seed(0)
    table, users = torch.randn(N_ITEMS, DIM), batch(name)
    found = check_engine(
        build_encoder("mean-pool", DIM, max_length=10), table, users.item_ids, users.select, 0.05
    )
    assert found.users == 8
    assert found.relative_error < 1e-5


@pytest.mark.parametrize("name", SAMPLED_LOSSES)
def test_a_batch_keeps_its_loss(name: str) -> None:
    torch.manual_seed(0)
    table, users = torch.randn(N_ITEMS, DIM), batch(name)
    encoder = build_encoder("mean-pool", DIM, max_length=10)
    losses = users(encoder, table[users.item_ids.clamp(min=0)])
    some = users.select(torch.tensor([2, 6])).to(torch.device("cpu"))
    torch.testing.assert_close(some(encoder, table[some.item_ids.clamp(min=0)]), losses[[2, 6]])
    assert not losses[[4, 5]].any()


def test_the_losses_differ() -> None:
    torch.manual_seed(0)
    table, encoder = torch.randn(N_ITEMS, DIM), build_encoder("mean-pool", DIM, max_length=10)
    of_first = {
        float(users(encoder, table[users.item_ids.clamp(min=0)])[0].detach())
        for users in map(batch, SAMPLED_LOSSES)
    }
    assert len(of_first) == len(SAMPLED_LOSSES)


def test_sampled_softmax_is_the_default() -> None:
    assert sampled_loss("sampled-softmax", negatives=1, n_items=2) is sampled_softmax
    assert next_item_batch([np.arange(3)], max_length=2, n_items=4).loss is sampled_softmax


def test_a_negative_that_is_the_positive_is_left_out() -> None:
    """With her own next items as the only negatives, only the positive's term is left."""
    users, positives = torch.randn(1, 1, 4), torch.randn(1, 1, 4)
    loss = sampled_loss("bce", negatives=2, n_items=9)(
        users,
        positives,
        positives.expand(1, 2, 4),
        positive_ids_BL=torch.tensor([[3]]),
        negative_ids_BN=torch.tensor([[3, 3]]),
        log_expected_count_BN=torch.zeros(1, 2),
        valid_BL=torch.tensor([[True]]),
    )
    torch.testing.assert_close(loss, torch.nn.functional.softplus(-(users * positives).sum(-1))[0])


def test_refuses_unknown_names_and_catalogues() -> None:
    with pytest.raises(DataError, match="unknown loss 'hinge'; choose one of sampled-softmax, bpr"):
        sampled_loss("hinge", negatives=1, n_items=2)
    with pytest.raises(DataError, match="needs sampled negatives"):
        next_item_batch(
            [np.arange(3)], max_length=2, n_items=4, loss=sampled_loss("bpr", negatives=1, n_items=4)
        )
