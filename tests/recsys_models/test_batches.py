from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_models.batches import next_item_batch, window, window_times
from recsys_models.data.histories import TimedHistories
from recsys_models.encoders import build_encoder
from recsys_models.errors import DataError
from recsys_models.negatives import CatalogueSampler

HISTORIES = [np.array([4, 1, 7, 2]), np.array([3]), np.array([], dtype=np.int64), np.arange(9)]


def test_window_keeps_the_newest_on_the_right() -> None:
    ids, mask = window(HISTORIES, 5)
    assert ids.tolist() == [[-1, 4, 1, 7, 2], [-1, -1, -1, -1, 3], [-1] * 5, [4, 5, 6, 7, 8]]
    assert mask.sum(axis=1).tolist() == [4, 1, 0, 5]


def test_window_is_no_wider_than_the_longest_history() -> None:
    assert window(HISTORIES[:2], 50)[0].shape == (2, 4)
    assert window([], 50, at_least=2)[0].shape == (0, 2)


def test_times_stand_where_their_items_do() -> None:
    timed = TimedHistories(HISTORIES, [items + 0.5 for items in HISTORIES])
    for width in (2, 5, 20):
        ids, mask = window(HISTORIES, width, at_least=width)
        times = window_times(timed, width).numpy()
        assert np.array_equal(times[mask], ids[mask] + 0.5)
        assert np.isnan(times[~mask]).all()
        assert np.isnan(window_times(HISTORIES, width).numpy()).all()


def test_sampled_batch_predicts_each_next_item_from_what_came_before() -> None:
    torch.manual_seed(0)
    encoder, table = build_encoder("gru", 6, max_length=4, start="random"), torch.randn(10, 6)
    sampler = CatalogueSampler(10)
    negatives = np.tile(np.arange(10), (4, 1))
    batch = next_item_batch(
        HISTORIES,
        max_length=4,
        negatives=negatives,
        log_expected_count=sampler.log_expected_count(negatives, 10),
    )
    loss = batch(encoder, table[batch.item_ids.clamp(min=0)])
    history = table[torch.tensor([[4, 1, 7]])]
    users = encoder(history, torch.ones(1, 3, dtype=torch.bool))
    expected = torch.nn.functional.cross_entropy(users[0] @ table.T, torch.tensor([1, 7, 2]))
    torch.testing.assert_close(loss[0], expected)
    assert loss[1] == 0.0
    assert loss[2] == 0.0


def test_three_kinds_of_candidates_agree_when_all_items_are_there() -> None:
    torch.manual_seed(0)
    encoder, table = build_encoder("attention", 6, max_length=4, start="random"), torch.randn(10, 6)
    trained = next_item_batch(HISTORIES, max_length=4, n_items=10)
    frozen = next_item_batch(HISTORIES, max_length=4, frozen_catalogue=table)
    assert trained.item_ids.shape == (4, 5 + 10)
    assert frozen.item_ids.shape == (4, 5)
    torch.testing.assert_close(
        trained(encoder, table[trained.item_ids.clamp(min=0)]),
        frozen(encoder, table[frozen.item_ids.clamp(min=0)]),
    )


def test_select_gives_the_same_losses() -> None:
    torch.manual_seed(0)
    encoder, table = build_encoder("mean-pool", 6, max_length=4, start="random"), torch.randn(10, 6)
    negatives = np.random.default_rng(0).integers(0, 10, (4, 3))
    batch = next_item_batch(
        HISTORIES, max_length=4, negatives=negatives, log_expected_count=np.zeros((4, 3), np.float32)
    )
    some = batch.select(torch.tensor([3, 0]))
    torch.testing.assert_close(
        some(encoder, table[some.item_ids.clamp(min=0)]),
        batch(encoder, table[batch.item_ids.clamp(min=0)])[[3, 0]],
    )
    assert some.n_users == 2


def test_an_empty_batch_has_its_shape() -> None:
    batch = next_item_batch(
        [],
        max_length=4,
        negatives=np.zeros((0, 3), np.int64),
        log_expected_count=np.zeros((0, 3), np.float32),
    )
    assert batch.item_ids.shape == (0, 5)


def test_refuses_two_kinds_of_candidates() -> None:
    with pytest.raises(DataError, match="exactly one"):
        next_item_batch(HISTORIES, max_length=4, n_items=10, frozen_catalogue=torch.zeros(10, 6))
    with pytest.raises(DataError, match="exactly one"):
        next_item_batch(HISTORIES, max_length=4)
    with pytest.raises(DataError, match="log_expected_count"):
        next_item_batch(HISTORIES, max_length=4, negatives=np.zeros((4, 3), np.int64))
