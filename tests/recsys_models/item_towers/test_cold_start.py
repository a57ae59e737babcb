"""Rows of cold items, predicted from content."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_models.errors import DataError
from recsys_models.item_towers.cold_start import fill_from_content

N, F, D = 60, 7, 4


@pytest.fixture
def content() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, F)).astype(np.float32)


@pytest.fixture
def linear(content: np.ndarray) -> np.ndarray:
    return (content @ np.random.default_rng(1).normal(size=(F, D))).astype(np.float32)


@pytest.fixture
def known() -> np.ndarray:
    return np.random.default_rng(2).random(N) < 0.7


@pytest.mark.parametrize("ridge", [None, 0.0, 1e-6])
def test_recovers_rows_that_are_linear_in_content(
    content: np.ndarray, linear: np.ndarray, known: np.ndarray, ridge: float | None
) -> None:
    broken = np.where(known[:, None], linear, np.nan).astype(np.float32)
    filled = fill_from_content(broken, known, content, ridge)
    np.testing.assert_allclose(filled, linear, atol=2e-3, rtol=1e-3)


def test_known_rows_stay_bit_for_bit_and_input_too(
    content: np.ndarray, linear: np.ndarray, known: np.ndarray
) -> None:
    tower = linear + np.random.default_rng(3).normal(size=linear.shape).astype(np.float32)
    before = tower.copy()
    filled = fill_from_content(tower, known, content)
    assert np.array_equal(filled[known], tower[known]) and np.array_equal(tower, before)
    assert filled.dtype == np.float32 and not np.shares_memory(filled, tower)
    assert np.array_equal(filled, fill_from_content(tower, known, content))


def test_a_penalty_shrinks_what_noise_would_teach(content: np.ndarray, known: np.ndarray) -> None:
    noise = np.random.default_rng(4).normal(size=(N, D)).astype(np.float32)
    norms = [
        np.linalg.norm(fill_from_content(noise, known, content, ridge)[~known]) for ridge in (0.0, 1.0, 100.0)
    ]
    assert norms[0] > 1.5 * norms[1] > 10 * norms[2]
    assert np.linalg.norm(fill_from_content(noise, known, content)[~known]) < 0.5 * norms[0]


def test_a_norm_is_given_to_filled_rows_alone(
    content: np.ndarray, linear: np.ndarray, known: np.ndarray
) -> None:
    free, given = (fill_from_content(linear, known, content, row_norm=norm) for norm in (None, 2.0))
    np.testing.assert_allclose(np.linalg.norm(given[~known], axis=1), 2.0, rtol=1e-5)
    cosine = (free * given).sum(1) / np.linalg.norm(free, axis=1) / np.linalg.norm(given, axis=1)
    np.testing.assert_allclose(cosine, 1.0, rtol=1e-5)
    assert np.array_equal(given[known], linear[known])


def test_nothing_known_gives_zeros(content: np.ndarray, linear: np.ndarray, known: np.ndarray) -> None:
    assert not fill_from_content(linear, np.zeros(N, dtype=bool), content).any()
    assert np.array_equal(fill_from_content(linear, np.ones(N, dtype=bool), content), linear)
    item = int(np.flatnonzero(~known)[0])
    content[item] = 0.0
    assert not fill_from_content(linear, known, content)[item].any()
    unknown_content = fill_from_content(linear, known, np.zeros((N, F)))
    assert np.array_equal(unknown_content[known], linear[known]) and not unknown_content[~known].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content_NF": np.zeros((3, F))}, "one row per item"),
        ({"known_rows": np.ones(N)}, "must be bool"),
        ({"ridge": -1.0}, "at least 0, got -1.0"),
        ({"ridge": float("nan")}, "at least 0, got nan"),
        ({"row_norm": float("inf")}, "row_norm must be finite"),
        ({"tower_ND": np.full((N, D), np.nan, dtype=np.float32)}, "must be finite"),
    ],
)
def test_refuses_what_does_not_fit(
    content: np.ndarray, linear: np.ndarray, known: np.ndarray, change: dict[str, object], message: str
) -> None:
    arguments = {"tower_ND": linear, "known_rows": known, "content_NF": content, "ridge": None, **change}
    with pytest.raises(DataError, match=message):
        fill_from_content(**arguments)
