"""The baselines on a log small enough to do by hand, and on MovieLens-100K against known figures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recsys_models.baselines import (
    EASE,
    ImplicitALS,
    ItemKNN,
    Popularity,
    RandomRanking,
    RootTransitionCounts,
    TransitionCounts,
)
from recsys_models.data import Catalogue, LeaveLastOut, Sequences, leave_last_out
from recsys_models.errors import DataError
from recsys_models.evaluation import Scorer, evaluate

DATA = Path(os.environ.get("FEDTOWER_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture
def log() -> Sequences:
    items = [[0, 1, 2], [0, 1, 3], [2, 0, 1]]
    return Sequences(
        ["a", "b", "c"],
        np.concatenate(items),
        np.array([0, 3, 6, 9]),
        Catalogue([f"i{n}" for n in range(5)]),
    )


def test_popularity_counts_users(log: Sequences) -> None:
    assert Popularity(log)([np.array([1])] * 2).tolist() == [[3, 3, 2, 1, 0]] * 2


def test_transitions_count_both_orders_and_normalise_by_root(log: Sequences) -> None:
    counts = TransitionCounts(log).counts
    # After 0 came 1 three times, and 2 and 3 once each two steps later: 4 in all.
    np.testing.assert_allclose(counts[0], np.array([0, 3.0, 0.5, 0.5, 0]) / 2.0)
    assert counts[2, 3] == 0.0  # the end of one user and the start of the next are no transition


def test_transitions_decay_from_the_newest(log: Sequences) -> None:
    scorer = TransitionCounts(log, decay=0.5, last=2)
    scores = scorer([np.array([3, 2, 0])])
    np.testing.assert_allclose(scores[0], scorer.counts[0] + 0.5 * scorer.counts[2])


def test_roots_of_transitions_add_up_over_the_newest_items(log: Sequences) -> None:
    scorer = RootTransitionCounts(log, orders=1, decay=0.5, last=2)
    # 0 was followed by 1 in all three of its transitions, 1 once by 2 and once by 3; 30 more are the prior of a row.
    after_zero = np.sqrt(np.array([0, 3, 0, 0, 0]) / 33.0)
    after_one = np.sqrt(np.array([0, 0, 1, 1, 0]) / 32.0)
    np.testing.assert_allclose(
        scorer([np.array([4, 0, 1])])[0], (after_one + 0.5 * after_zero) / 1.5, atol=1e-6
    )


def test_neighbours_are_cosines(log: Sequences) -> None:
    similarity = ItemKNN(log).similarity
    assert similarity[0, 1] == pytest.approx(1.0)
    assert similarity[0, 2] == pytest.approx(2 / np.sqrt(6))
    assert not similarity.diagonal().any()


def test_ease_solves_its_ridge_regression(log: Sequences) -> None:
    weights = EASE(log, l2=2.0).weights
    x = np.zeros((3, 5))
    x[np.repeat(np.arange(3), 3), log.items] = 1.0
    others = [1, 2, 3, 4]
    expected = np.linalg.solve(x[:, others].T @ x[:, others] + 2 * np.eye(4), x[:, others].T @ x[:, 0])
    np.testing.assert_allclose(weights[others, 0], expected, atol=1e-12)


def test_als_lowers_its_own_loss(log: Sequences) -> None:
    def loss(iterations: int) -> float:
        model = ImplicitALS(log, dim=2, unobserved_weight=0.3, l2=1e-4, iterations=iterations)
        x = np.zeros((3, 5))
        x[np.repeat(np.arange(3), 3), log.items] = 1.0
        scores = model([log.of(u) for u in range(3)])
        return float((x * (1 - scores) ** 2).sum() + 0.3 * (scores**2).sum())

    assert loss(8) < loss(1)


def test_random_is_seeded() -> None:
    one, same, other = (RandomRanking(9, seed)([np.array([0])]) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


@pytest.mark.parametrize("l2", [0.0, -1.0, float("nan")])
def test_refuses_a_ridge_that_is_none(log: Sequences, l2: float) -> None:
    with pytest.raises(DataError, match="l2 must be positive"):
        EASE(log, l2=l2)


@pytest.fixture(scope="module")
def split() -> LeaveLastOut:
    from recsys_models.data.adapters import load

    folder = DATA / "ml-100k"
    if not folder.exists():
        pytest.skip(f"MovieLens-100K is not in {DATA}; set FEDTOWER_DATA")
    return leave_last_out(load(folder).sequences)


@pytest.mark.parametrize(
    ("build", "hit_at_10", "standard_errors"),
    [
        (Popularity, 0.086, 1),
        (TransitionCounts, 0.195, 1),
        (lambda train: EASE(train, l2=100.0), 0.143, 1),
        (lambda train: ImplicitALS(train, dim=64, unobserved_weight=0.3, l2=0.01), 0.145, 1),
        (lambda train: RandomRanking(train.catalogue.n_items), 10 / 1682, 3),
    ],
    ids=["popularity", "transitions", "ease", "ials", "random"],
)
def test_known_figures_on_movielens_100k(
    split: LeaveLastOut, build: Callable[[Sequences], Scorer], hit_at_10: float, standard_errors: int
) -> None:
    result = evaluate(build(split.train), split.history("test"), split.test)
    standard_error = np.sqrt(hit_at_10 * (1 - hit_at_10) / result.users.size)
    assert result.users.size == 943
    assert abs(result.means()["hit@10"] - hit_at_10) < standard_errors * standard_error
