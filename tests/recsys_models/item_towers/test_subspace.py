from __future__ import annotations

import numpy as np
import pytest

from recsys_models.errors import DataError
from recsys_models.item_towers.factorisation import tower_from_gram
from recsys_models.item_towers.subspace import (
    is_orthonormal,
    next_basis,
    orthonormal,
    shrink_rows,
    start_basis,
    subspace_blocks,
    tower_from_product,
)

N, RANK, DIM = 400, 12, 4


def gap_matrix() -> tuple[np.ndarray, np.ndarray]:
    """A symmetric matrix with four large eigenvalues, and their eigenvectors."""
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(N, N)))[0]
    values = np.r_[[90.0, 70.0, 60.0, 50.0], np.linspace(1.0, 0.0, N - 4)]
    return (directions * values) @ directions.T, directions[:, :4]


def power_rounds(matrix: np.ndarray, sd: float, rounds: int = 3) -> np.ndarray:
    random = np.random.default_rng(1)
    basis = start_basis(np.ones(N), RANK, 7)
    product = np.zeros((N, RANK))
    for step in range(rounds):
        basis = next_basis(product, sd) if step else basis
        product = matrix @ basis + sd * random.normal(size=(N, RANK))
    return product


def test_without_noise_the_tower_is_the_exact_eigenspace() -> None:
    matrix, wanted = gap_matrix()
    tower = tower_from_product(power_rounds(matrix, 0.0), 0.0, DIM, score_norm=3.0)
    found = np.linalg.qr(tower)[0]
    cosines = np.linalg.svd(found.T @ wanted)[1]
    np.testing.assert_allclose(cosines, 1.0, atol=1e-6)
    # Scores are those of the dense method: a projection onto the space, whatever basis of it was found.
    dense = tower_from_gram(matrix, 0.0, DIM, score_norm=3.0)
    one, other = (t @ t.T / np.trace(t @ t.T) for t in (tower, dense))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_under_noise_directions_above_its_edge_are_kept_and_no_others() -> None:
    matrix, wanted = gap_matrix()
    tower = tower_from_product(power_rounds(matrix, 0.5), 0.5, 8, score_norm=1.0)
    assert np.flatnonzero(tower.any(axis=0)).tolist() == [0, 1, 2, 3]
    cosines = np.linalg.svd(np.linalg.qr(tower[:, :4])[0].T @ wanted)[1]
    assert cosines.min() > 0.95
    drowned = tower_from_product(power_rounds(matrix, 50.0), 50.0, 8, score_norm=1.0)
    assert np.flatnonzero(drowned.any(axis=0)).tolist() == [0]


def test_no_user_adds_more_than_one() -> None:
    random = np.random.default_rng(2)
    basis = start_basis(random.random(N), RANK, 3)
    users = [random.integers(0, N, size=k) for k in (0, 1, 2, 50, 5000)]
    # The worst case: someone whose items are where one column of the basis lives.
    spike = np.zeros((N, 2), dtype=np.float32)
    spike[:25, 0], spike[25, 1] = 0.2, 1.0
    for v, histories in ((basis, users), (spike, [*users, np.arange(25), np.array([25, 25])])):
        for history, (places, values) in zip(histories, subspace_blocks(histories, v), strict=True):
            assert np.linalg.norm(values) <= 1.0 + 1e-6
            x = np.zeros(N)
            x[np.unique(history)] = 1.0 / np.sqrt(max(len(np.unique(history)), 1))
            dense = np.zeros(v.size)
            dense[places] = values
            np.testing.assert_allclose(dense.reshape(v.shape), np.outer(x, x @ v), atol=1e-6)
    tightest = next(subspace_blocks([np.arange(25)], spike))[1]
    assert np.linalg.norm(tightest) == pytest.approx(1.0)  # the bound has no slack that noise would pay for


def test_a_basis_is_orthonormal_repeatable_and_leans_toward_what_is_popular() -> None:
    popularity = np.random.default_rng(4).exponential(size=N) ** 4
    basis = start_basis(popularity, RANK, 5)
    assert is_orthonormal(basis)
    assert basis.tobytes() == start_basis(popularity, RANK, 5).tobytes()
    top = np.argsort(-popularity)[: N // 4]
    assert np.sum(basis[top] ** 2) > 0.7 * RANK
    known = np.random.default_rng(6).normal(size=(N, 3))
    started = start_basis(popularity, RANK, 5, known)
    assert np.linalg.norm(started.T @ np.linalg.qr(known)[0]) == pytest.approx(np.sqrt(3.0), rel=1e-5)
    assert is_orthonormal(orthonormal(np.zeros((N, 3))))
    assert not is_orthonormal(basis * 1.01)
    assert not is_orthonormal(np.ones((2, 3), np.float32))
    with pytest.raises(DataError, match="rank=401 for 400 items"):
        start_basis(popularity, N + 1, 0)


def test_rows_of_noise_vanish_and_strong_rows_stay() -> None:
    noise = np.random.default_rng(7).normal(size=(1000, 40))
    noise[:10] += 20.0
    shrunk = shrink_rows(noise, 1.0)
    np.testing.assert_allclose(shrunk[:10], noise[:10], rtol=0.01)
    assert np.linalg.norm(shrunk[10:]) < 0.25 * np.linalg.norm(noise[10:])
    assert shrink_rows(noise, 0.0) is noise
