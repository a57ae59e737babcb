from __future__ import annotations

import numpy as np
import pytest

from recsys_models.item_towers.factorisation import (
    denoise_transitions,
    noise_edge,
    principal_items,
    tower_from_gram,
    tower_from_transitions,
)

K = 60


def symmetric_noise(sd: float, seed: int) -> np.ndarray:
    upper = np.triu(np.random.default_rng(seed).normal(0.0, sd, size=(K, K)))
    return upper + np.triu(upper, 1).T


def planted(strengths: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(K, len(strengths))))
    return (basis * np.array(strengths)) @ basis.T, basis


@pytest.mark.parametrize("seed", range(5))
def test_of_noise_alone_one_column_is_kept(seed: int) -> None:
    # At the edge itself a few eigenvalues may stand out; a tenth above it none does.
    assert principal_items(symmetric_noise(1.0, seed), 1.1, 8).shape == (K, 1)


def test_the_edge_is_where_noise_ends() -> None:
    largest = [np.linalg.eigvalsh(symmetric_noise(3.0, seed)).max() for seed in range(20)]
    assert np.mean(largest) == pytest.approx(noise_edge(3.0, K), rel=0.1)


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_a_planted_rank_is_found_and_its_space_too(rank: int) -> None:
    edge = noise_edge(1.0, K)
    signal, basis = planted([6.0 * edge + 3.0 * k for k in range(rank)])
    columns = principal_items(signal + symmetric_noise(1.0, 7), 1.05, 8)
    assert columns.shape == (K, rank)
    np.testing.assert_allclose(columns.T @ columns, np.eye(rank), atol=1e-10)
    # Cosine of the largest angle between the planted and the found space.
    assert np.linalg.svd(basis.T @ columns, compute_uv=False).min() > 0.95


def test_without_noise_the_rank_is_exact_and_the_order_is_by_strength() -> None:
    signal, basis = planted([1.0, 5.0, 3.0])
    columns = principal_items(signal, 0.0, 8)
    assert columns.shape == (K, 3)
    np.testing.assert_allclose(np.abs(np.sum(columns * basis[:, [1, 2, 0]], axis=0)), 1.0, atol=1e-10)
    assert principal_items(signal, 0.0, 2).shape == (K, 2)


def test_signs_do_not_depend_on_the_solver() -> None:
    signal, _ = planted([1.0, 5.0, 3.0])
    columns = principal_items(signal, 0.0, 3)
    assert np.all(columns[np.argmax(np.abs(columns), axis=0), np.arange(3)] > 0)
    order = np.random.default_rng(1).permutation(K)
    shuffled = principal_items(signal[np.ix_(order, order)], 0.0, 3)
    np.testing.assert_allclose(shuffled, columns[order], atol=1e-10)


def test_a_tower_projects_histories_onto_the_signal() -> None:
    signal, basis = planted([2.0, 1.0])
    tower = tower_from_gram(signal, 0.0, 6, score_norm=3.0)
    assert tower.shape == (K, 6)
    assert np.all(tower[:, 2:] == 0.0)
    assert np.linalg.norm(tower, axis=1).mean() == pytest.approx(3.0)
    projection = tower @ tower.T
    np.testing.assert_allclose(projection / np.trace(projection), basis @ basis.T / 2.0, atol=1e-10)


def test_a_catalogue_smaller_than_the_tower_is_wide_fills_what_it_can() -> None:
    assert tower_from_gram(np.eye(3), 0.0, 6).shape == (3, 6)


def test_a_tower_of_transitions_is_one_of_both_directions_with_the_noise_these_have_together() -> None:
    signal, _ = planted([40.0, 14.0])
    directed = np.random.default_rng(5).normal(size=(K, K))
    transitions = signal + directed - directed.T + np.random.default_rng(6).normal(size=(K, K))
    symmetric = (transitions + transitions.T) / 2.0
    tower = tower_from_transitions(transitions, 1.1, 6, score_norm=3.0)
    np.testing.assert_array_equal(tower, tower_from_gram(symmetric, 1.1 / np.sqrt(2.0), 6, score_norm=3.0))
    assert np.linalg.norm(tower, axis=1).mean() == pytest.approx(3.0)
    assert np.flatnonzero(tower.any(axis=0)).tolist() == [
        0,
        1,
    ]  # the edge of one direction's noise would leave one


def planted_transitions() -> tuple[np.ndarray, np.ndarray]:
    """Of rank one, and with noise of deviation 1 in every cell."""
    random = np.random.default_rng(3)
    u, v = np.abs(random.normal(size=(2, K)))
    low_rank = 40.0 * np.outer(u, v) / np.linalg.norm(u) / np.linalg.norm(v)
    return low_rank, low_rank + random.normal(size=(K, K))


@pytest.mark.parametrize("prior_total", [0.0, 7.0])
def test_transitions_that_stand_out_survive_both_readings(prior_total: float) -> None:
    low_rank, noisy = planted_transitions()
    channel = denoise_transitions(noisy, 1.0, prior_total=prior_total)
    assert channel.left.shape == channel.right.shape == (K, 1)
    assert np.linalg.norm(channel.left @ channel.right.T - low_rank) < 0.5 * np.linalg.norm(noisy - low_rank)
    cells = np.where(noisy > 1.5, noisy, 0.0)
    totals = cells.sum(axis=1)
    for row in range(K):
        wanted = cells[row] / (totals[row] + totals.mean() + prior_total)
        np.testing.assert_allclose(channel.sparse[row], wanted, rtol=1e-12)
    assert 0.0 < np.mean(cells > 0.0) < 0.5


def test_a_row_of_little_says_less_than_a_row_of_much() -> None:
    matrix = np.array([[0.0, 90.0, 0.0], [3.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    channel = denoise_transitions(matrix, 0.0, prior_total=10.0)
    np.testing.assert_allclose(channel.sparse, [[0, 0.9, 0], [3 / 16, 0, 3 / 16], [0, 0, 0]])


def test_the_threshold_is_in_deviations_of_the_noise() -> None:
    _, noisy = planted_transitions()
    for threshold, sd in ((1.5, 1.0), (3.0, 1.0), (1.5, 2.0)):
        kept = denoise_transitions(noisy, sd, threshold_sd=threshold, prior_total=0.0).sparse > 0.0
        assert np.array_equal(kept, noisy > threshold * sd)


def test_pure_noise_has_no_smooth_part_and_few_cells() -> None:
    noise = np.random.default_rng(4).normal(size=(K, K))
    channel = denoise_transitions(noise, 1.1, prior_total=0.0)
    assert channel.left.shape == channel.right.shape == (K, 0)
    assert 0.02 < np.mean(channel.sparse != 0.0) < 0.08  # above 1.65 of its own deviations
    # Divided by its own total alone, a row of noise would speak as loudly as any: it adds up to less than 1 here.
    assert channel.sparse.sum(axis=1).mean() == pytest.approx(0.5, abs=0.1)


def test_without_noise_the_cells_say_it_all() -> None:
    matrix = np.array([[0.5, -0.1], [0.0, 2.0]])
    channel = denoise_transitions(matrix, 0.0, prior_total=0.0)
    assert np.array_equal(channel.sparse, [[1.0, 0.0], [0.0, 1.0]])
    assert channel.left.shape == channel.right.shape == (2, 0)
    assert not denoise_transitions(np.zeros((2, 2)), 0.0, prior_total=0.0).sparse.any()
