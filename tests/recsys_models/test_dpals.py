from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys_models.baselines import DPALS, DpalsSettings, Popularity
from recsys_models.baselines.dpals import _symmetric, item_sums, newest_items_matrix, noisy_popularity
from recsys_models.data import Catalogue, Sequences, leave_last_out
from recsys_models.errors import DataError
from recsys_models.evaluation import evaluate
from simulations.synthetic import synthetic_log


def silence(_kind: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.zeros(shape)


def log_of(*lists: list[int], n_items: int = 6) -> Sequences:
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in lists])])
    items = np.concatenate([np.array(one, dtype=np.int64) for one in lists])
    return Sequences(
        [str(n) for n in range(len(lists))], items, offsets, Catalogue([f"i{n}" for n in range(n_items)])
    )


def test_the_newest_distinct_items_count_and_rows_have_norm_one() -> None:
    matrix = newest_items_matrix(log_of([0, 1, 2, 1], [], [3]), 2)
    np.testing.assert_allclose(matrix[0], np.array([0, 1, 1, 0, 0, 0]) / np.sqrt(2))
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), [1, 0, 1])


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_one_user_adds_at_most_one_to_every_sum(seed: int, dim: int) -> None:
    random = np.random.default_rng(seed)
    weights, user = random.random((1, 7)) * (random.random((1, 7)) < 0.5), random.normal(size=(1, dim))
    weights /= max(1.0, np.linalg.norm(weights))
    user /= max(1.0, np.linalg.norm(user))
    for part in item_sums(weights, user):
        assert np.linalg.norm(part) <= 1.0 + 1e-12


def test_every_sum_is_noised_in_every_step() -> None:
    asked: list[tuple[str, tuple[int, ...]]] = []

    def noise(kind: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        asked.append((kind, shape))
        return np.zeros(shape)

    DPALS(log_of([0, 1], [2, 3]), DpalsSettings(head=4, dim=2, steps=2), noise)
    step = [("matrices", (4, 2, 2)), ("gram", (1, 2, 2)), ("vectors", (4, 2))]
    assert asked == [("counts", (6,)), *step, *step]


def test_symmetric_noise_has_the_variance_of_orthonormal_coordinates() -> None:
    random = np.random.default_rng(0)
    drawn = _symmetric(lambda _kind, shape: random.normal(0.0, 2.0, shape), "gram", 20_000, 2)
    assert np.array_equal(drawn, drawn.transpose(0, 2, 1))
    assert drawn[:, 0, 0].var() == pytest.approx(4.0, rel=0.05)
    assert drawn[:, 0, 1].var() == pytest.approx(2.0, rel=0.05)


def test_without_noise_it_beats_popularity_and_with_much_it_does_not() -> None:
    split = leave_last_out(synthetic_log(600, 120, seed=0).sequences)
    random = np.random.default_rng(1)

    def recall(scorer: object) -> float:
        return evaluate(scorer, split.history("test"), split.test).means()["hit@10"]  # type: ignore[arg-type]

    settings = DpalsSettings(head=120, dim=16, steps=3, item_l2=0.1, unobserved_weight=0.3, decay=0.8)
    popularity = recall(Popularity(split.train))
    assert recall(DPALS(split.train, settings, silence)) > popularity + 0.1
    drowned = DPALS(split.train, settings, lambda _kind, shape: random.normal(0.0, 1e4, shape))
    assert recall(drowned) < popularity


def test_items_outside_the_head_rank_below_by_counts() -> None:
    log = log_of([0, 1, 2], [0, 1, 3], [0, 1, 3], [1, 0, 4])
    scores = DPALS(log, DpalsSettings(head=2, dim=2, steps=1), silence)([np.array([0])])[0]
    assert min(scores[[0, 1]]) > scores[3] > scores[[2, 4]].max() >= scores[[2, 4]].min() > scores[5]


def test_popularity_is_the_sum_of_rows_and_noise() -> None:
    weights = newest_items_matrix(log_of([0, 1], [0]), 5)
    counts = noisy_popularity(weights, lambda kind, shape: np.full(shape, 0.5 if kind == "counts" else 9.0))
    np.testing.assert_allclose(counts[:3], [1 + 1 / np.sqrt(2) + 0.5, 1 / np.sqrt(2) + 0.5, 0.5])


@pytest.mark.parametrize("change", [{"head": 0}, {"item_l2": 0.0}, {"user_l2": float("nan")}, {"decay": 1.5}])
def test_refuses_bad_settings(change: dict[str, float]) -> None:
    with pytest.raises(DataError):
        DpalsSettings(**change)  # type: ignore[arg-type]
