from __future__ import annotations

import numpy as np
import pytest

from privacy.bounded import UserContributions, clip_and_sum
from recsys_models.errors import DataError
from recsys_models.metrics import (
    METRIC_UNIT,
    mean_metrics,
    metric_l2_bound,
    metric_names,
    read_metrics,
    user_metric_rows,
)

RANKERS = ("model", "popularity")


@pytest.fixture
def ranks() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {name: generator.integers(1, 40, 500) for name in RANKERS}


def test_layout() -> None:
    assert metric_names(RANKERS) == (
        "users",
        "model/hit@10",
        "model/hit@20",
        "model/ndcg@10",
        "popularity/hit@10",
        "popularity/hit@20",
        "popularity/ndcg@10",
    )


def test_sum_gives_the_plain_means_within_the_grid(ranks: dict[str, np.ndarray]) -> None:
    rows = user_metric_rows(ranks)
    total = np.bincount(rows.indices, rows.values, minlength=rows.length)
    estimates = read_metrics(total, RANKERS)
    for name in RANKERS:
        plain = mean_metrics(ranks[name])
        for metric in ("hit@10", "hit@20"):
            assert estimates[f"{name}/{metric}"].value == plain[metric]
        gap = plain["ndcg@10"] - estimates[f"{name}/ndcg@10"].value
        assert 0.0 <= gap < METRIC_UNIT


def test_rows_survive_the_integer_grid_unchanged(ranks: dict[str, np.ndarray]) -> None:
    ranks = {name: np.append(each, 1) for name, each in ranks.items()}  # the largest row possible
    rows = user_metric_rows(ranks)
    contributions = UserContributions(rows.indices, rows.values, rows.offsets, rows.length)
    bounded = clip_and_sum(contributions, l2_clip_norm=metric_l2_bound(2), unit=METRIC_UNIT)
    exact = np.bincount(rows.indices, rows.values, minlength=rows.length) / METRIC_UNIT
    np.testing.assert_array_equal(bounded.values, exact)


def test_nobody_exceeds_the_bound_and_the_best_user_reaches_it() -> None:
    for rankers in (1, 2, 3):
        rows = user_metric_rows({str(i): np.array([1]) for i in range(rankers)})
        norm = float(np.linalg.norm(rows.values))
        assert norm <= metric_l2_bound(rankers) < norm + METRIC_UNIT


def test_users_without_a_hit_count_as_users() -> None:
    rows = user_metric_rows({"model": np.array([500, 1])})
    assert rows.offsets.tolist() == [0, 1, 5]
    assert rows.indices.tolist() == [0, 0, 1, 2, 3]


def test_no_users_no_rows() -> None:
    rows = user_metric_rows({"model": np.zeros(0, np.int64)})
    assert rows.offsets.tolist() == [0]
    assert rows.length == 4


def test_noise_widens_the_interval(ranks: dict[str, np.ndarray]) -> None:
    rows = user_metric_rows(ranks)
    total = np.bincount(rows.indices, rows.values, minlength=rows.length)
    sharp = read_metrics(total, RANKERS)["model/hit@10"]
    noisy = read_metrics(total, RANKERS, noise_sd=20.0)["model/hit@10"]
    assert noisy.value == sharp.value
    assert noisy.high - noisy.low > 1.5 * (sharp.high - sharp.low)


def test_refuses_rankers_that_saw_other_users() -> None:
    with pytest.raises(DataError, match="same users"):
        user_metric_rows({"model": np.array([1]), "popularity": np.array([1, 2])})
    with pytest.raises(DataError, match="same users"):
        user_metric_rows({})
    with pytest.raises(DataError, match="expected 4 sums"):
        read_metrics(np.zeros(3), ["model"])
