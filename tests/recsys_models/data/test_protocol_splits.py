"""The splits by time and by a random share, by hand and against published checksums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_models.data import Catalogue, Sequences
from recsys_models.data.splits import global_time_split, random_share_split
from recsys_models.errors import DataError
from simulations.synthetic import synthetic_log
from tests.recsys_models.data.real_data import real_data

CATALOGUE = Catalogue([f"i{n}" for n in range(8)])


def timed(*users: list[tuple[int, float]]) -> Sequences:
    events = [event for user in users for event in user]
    return Sequences(
        [str(n) for n in range(len(users))],
        np.array([item for item, _ in events]),
        np.concatenate([[0], np.cumsum([len(user) for user in users])]),
        CATALOGUE,
        np.array([time for _, time in events]),
    )


def test_the_split_by_time_by_hand() -> None:
    log = timed(
        [(0, 1.0), (1, 2.0), (2, 3.0), (3, 8.0), (4, 9.0)],  # both sides: 3 is found after 0, 1, 2
        [(5, 1.0), (6, 2.0)],  # all before the cut: has a validation item alone
        [(7, 2.0), (6, 8.0)],  # one event before it: nothing to train and validate on
        [(5, 8.5)],  # all after it: seen by nobody
    )
    split = global_time_split(log, 0.7)
    assert split.test.tolist() == [3, -1, -1, -1]
    assert split.validation.tolist() == [2, 6, -1, -1]
    assert [split.train.of(user).tolist() for user in range(4)] == [[0, 1], [5], [7], []]
    assert split.history("test").of(0).tolist() == [0, 1, 2]
    assert split.evaluated.tolist() == [0]


def test_nobody_sees_past_the_cut() -> None:
    log = synthetic_log(300, 60, seed=1).sequences
    assert log.timestamps is not None
    cut = np.quantile(log.timestamps, 0.8, method="lower")
    split = global_time_split(log, 0.8)
    train_times, seen = split.train.timestamps, split.history("test")
    assert train_times is not None
    assert train_times.max() < cut
    for user in split.evaluated:
        mine = log.timestamps[log.offsets[user] : log.offsets[user + 1]]
        assert len(seen.of(user)) == np.sum(mine < cut)
        assert log.of(user)[len(seen.of(user))] == split.test[user]


def test_a_log_of_order_alone_has_no_split_by_time() -> None:
    log = Sequences(["a"], np.arange(5), np.array([0, 5]), CATALOGUE)
    with pytest.raises(DataError, match="an order but no times"):
        global_time_split(log)


@pytest.mark.parametrize("quantile", [0.0, 1.0, float("nan")])
def test_refuses_a_quantile_that_cuts_nothing(quantile: float) -> None:
    with pytest.raises(DataError, match="within 0 and 1"):
        global_time_split(timed([(0, 1.0), (1, 2.0)]), quantile)


@given(st.lists(st.lists(st.integers(0, 7), max_size=12), min_size=1, max_size=6), st.integers(0, 3))
def test_a_random_share_divides_distinct_items(lists: list[list[int]], seed: int) -> None:
    split = random_share_split(timed(*[[(item, 0.0) for item in one] for one in lists]), seed=seed)
    for user, one in enumerate(lists):
        distinct = list(dict.fromkeys(one))
        train, test = split.train.of(user).tolist(), split.test.of(user).tolist()
        assert sorted(train + test) == sorted(distinct)
        assert train == [item for item in distinct if item in train], "the order of time is kept"
        assert len(train) == min(len(distinct), max(1, int(0.8 * len(distinct) + 1e-9)))


def test_a_random_share_is_random_and_published() -> None:
    log = synthetic_log(50, 60, seed=1).sequences
    one, same, other = (random_share_split(log, seed=seed) for seed in (1, 1, 2))
    assert one.checksum == same.checksum != other.checksum


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_refuses_a_share_that_leaves_nothing(share: float) -> None:
    with pytest.raises(DataError, match="share for training"):
        random_share_split(timed([(0, 1.0), (1, 2.0)]), share)


def test_published_checksums_of_movielens_100k() -> None:
    from recsys_models.data.adapters import load
    from recsys_models.evaluation import checksum_of_negatives, evaluation_negatives

    log = load(real_data("ml-100k")).sequences
    by_time = global_time_split(log)
    assert (by_time.evaluated.size, by_time.train.n_events) == (89, 89_131)
    assert by_time.checksum.startswith("46901646e1064759")
    assert random_share_split(log).checksum.startswith("b3d0106b4182e98c")
    assert checksum_of_negatives(evaluation_negatives(log)).startswith("3057929501be6e3a")
