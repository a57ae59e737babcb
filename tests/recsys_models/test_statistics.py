from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_models.errors import DataError
from recsys_models.statistics import (
    Rows,
    StatisticsLayout,
    collect_rows,
    popularity_rows,
    split_statistics,
    statistics_rows,
)

N_ITEMS = 9
histories = st.lists(
    st.lists(st.integers(0, N_ITEMS - 1), max_size=12).map(lambda h: np.array(h, dtype=np.int64)), max_size=6
)
heads = st.sets(st.integers(0, N_ITEMS - 1), min_size=1).map(lambda s: np.array(sorted(s), dtype=np.int64))


def dense(rows: Rows) -> np.ndarray:
    """[users, length]; repeated indices of one user would show as a lost entry in the comparisons below."""
    matrix = np.zeros((len(rows.offsets) - 1, rows.length))
    for user in range(len(matrix)):
        own = slice(rows.offsets[user], rows.offsets[user + 1])
        assert len(np.unique(rows.indices[own])) == len(rows.indices[own])
        matrix[user, rows.indices[own]] = rows.values[own]
    return matrix


def positions(head: np.ndarray) -> np.ndarray:
    at = np.full(N_ITEMS, -1, dtype=np.int64)
    at[head] = np.arange(len(head))
    return at


def brute_force(
    history: np.ndarray, head: np.ndarray, layout: StatisticsLayout
) -> tuple[np.ndarray, np.ndarray]:
    """One user's Gram and transition matrix, straight from the definitions."""
    seen = [list(head).index(item) for item in history if item in head]
    size = len(head)
    x = np.zeros(size)
    x[seen] = 1.0
    gram = np.outer(x, x) / max(x.sum(), 1.0)
    transitions = np.zeros((size, size))
    for later in range(len(seen)):
        for step in range(1, layout.orders + 1):
            if later - step >= 0:
                transitions[seen[later - step], seen[later]] += layout.decay ** (step - 1)
    return gram, transitions / max(np.linalg.norm(transitions), 1e-300)


@settings(max_examples=150, deadline=None)
@given(histories, heads, st.floats(0.0, 1.0), st.integers(1, 5), st.floats(0.1, 1.0))
def test_no_user_adds_more_than_norm_one(
    users: list[np.ndarray], head: np.ndarray, share: float, orders: int, decay: float
) -> None:
    layout = StatisticsLayout(len(head), share, orders, decay)
    for matrix in (
        dense(statistics_rows(users, positions(head), layout)),
        dense(popularity_rows(users, N_ITEMS)),
    ):
        assert np.all(np.linalg.norm(matrix, axis=1) <= 1.0 + 1e-12)


@settings(max_examples=150, deadline=None)
@given(histories, heads, st.sampled_from([0.2, 0.5, 0.9]), st.integers(1, 4), st.sampled_from([0.4, 1.0]))
def test_the_sum_is_the_dense_gram_and_the_dense_transitions(
    users: list[np.ndarray], head: np.ndarray, share: float, orders: int, decay: float
) -> None:
    layout = StatisticsLayout(len(head), share, orders, decay)
    gram, transitions = split_statistics(
        dense(statistics_rows(users, positions(head), layout)).sum(axis=0), layout
    )
    wanted = [brute_force(history, head, layout) for history in users]
    nothing = np.zeros((len(head), len(head)))
    np.testing.assert_allclose(gram, sum((g for g, _ in wanted), nothing), atol=1e-12)
    np.testing.assert_allclose(transitions, sum((t for _, t in wanted), nothing), atol=1e-12)


def test_a_users_row_has_norm_one_when_both_parts_are_there() -> None:
    layout = StatisticsLayout(N_ITEMS, 0.3)
    row = dense(statistics_rows([np.array([1, 4, 1, 7])], np.arange(N_ITEMS), layout))[0]
    assert np.linalg.norm(row[: layout.gram_length]) ** 2 == pytest.approx(0.3)
    assert np.linalg.norm(row) == pytest.approx(1.0)


def test_popularity_counts_each_item_once() -> None:
    rows = dense(popularity_rows([np.array([2, 2, 5, 2, 5]), np.array([], dtype=np.int64)], N_ITEMS))
    assert rows[0, [2, 5]] == pytest.approx([2**-0.5, 2**-0.5])
    assert np.count_nonzero(rows) == 2


def test_split_inverts_any_symmetric_pair_of_matrices() -> None:
    layout = StatisticsLayout(5, 0.4)
    random = np.random.default_rng(0)
    transitions = random.normal(size=(5, 5))
    gram = random.normal(size=(5, 5))
    gram = gram + gram.T
    stored = gram * np.where(np.eye(5) > 0, 1.0, np.sqrt(2.0))
    total = np.concatenate(
        [
            stored[np.triu_indices(5)] * layout.gram_weight,
            transitions.reshape(-1) * layout.transition_weight,
        ]
    )
    back_gram, back_transitions = split_statistics(total, layout)
    np.testing.assert_allclose(back_gram, gram, atol=1e-12)
    np.testing.assert_allclose(back_transitions, transitions, atol=1e-12)
    # The stored triangle has the matrix's Frobenius norm: that is what the clip norm is about.
    assert np.linalg.norm(total[: layout.gram_length] / layout.gram_weight) == pytest.approx(
        np.linalg.norm(gram)
    )


def test_without_a_gram_part_nothing_is_spent_on_it() -> None:
    layout = StatisticsLayout(N_ITEMS, 0.0, 2, 0.5)
    assert (layout.gram_length, layout.length, layout.transition_weight) == (0, N_ITEMS**2, 1.0)
    history = np.array([1, 4, 1, 7])
    row = dense(statistics_rows([history], np.arange(N_ITEMS), layout))[0]
    assert np.linalg.norm(row) == pytest.approx(1.0)
    gram, transitions = split_statistics(row, layout)
    assert not gram.any()
    np.testing.assert_allclose(transitions, brute_force(history, np.arange(N_ITEMS), layout)[1], atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_where_nothing_is_bounded_transitions_are_counted(share: float) -> None:
    users = [np.array([0, 1, 0, 1]), np.array([0, 1])]
    position = np.arange(N_ITEMS)
    counted = StatisticsLayout(N_ITEMS, share, 2, 0.5, normalised=False)
    _, transitions = split_statistics(dense(statistics_rows(users, position, counted)).sum(axis=0), counted)
    wanted = np.zeros((N_ITEMS, N_ITEMS))
    wanted[0, 1], wanted[1, 0], wanted[0, 0], wanted[1, 1] = 3.0, 1.0, 0.5, 0.5
    np.testing.assert_allclose(transitions, wanted)
    # What she did twice says twice as much; normalised, her row is as long as any other's.
    bounded = StatisticsLayout(N_ITEMS, share, 2, 0.5)
    lengths = [
        np.linalg.norm(dense(statistics_rows([history], position, layout)))
        for layout in (counted, bounded)
        for history in users
    ]
    assert lengths[0] > lengths[1]
    assert lengths[2] == pytest.approx(1.0) == lengths[3]


def test_users_without_head_items_or_without_events_add_nothing() -> None:
    layout = StatisticsLayout(2, 0.5)
    rows = statistics_rows(
        [np.array([], dtype=np.int64), np.array([8, 8]), np.array([0])], positions(np.array([0, 1])), layout
    )
    assert np.diff(rows.offsets).tolist() == [0, 0, 1]
    assert rows.values == pytest.approx([layout.gram_weight])


def test_nobody_is_a_vector_of_zeros() -> None:
    for rows in (
        popularity_rows([], N_ITEMS),
        statistics_rows([], np.arange(N_ITEMS), StatisticsLayout(N_ITEMS)),
    ):
        assert rows.offsets.tolist() == [0]
        assert rows.indices.dtype == np.int64
    assert collect_rows([], 4).length == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "head=0"), ((3, 1.1), "gram_share=1.1"), ((3, float("nan")), "gram_share=nan")],
)
def test_impossible_layouts_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message):
        StatisticsLayout(*arguments)


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match=r"\(5,\) does not fit 7 cells for K=2"):
        split_statistics(np.zeros(5), StatisticsLayout(2, 0.5))
    with pytest.raises(DataError, match=r"\(7,\) does not fit 4 cells for K=2"):
        split_statistics(np.zeros(7), StatisticsLayout(2))
