from __future__ import annotations

import math

import numpy as np
import pytest

from recsys_models.errors import DataError
from recsys_models.metrics.lists import (
    attribute_diversity,
    attribute_values,
    exposure_cell,
    gini,
    item_bits,
    mean_bits,
    new_share,
    novelty_cap,
    shown_threshold,
    top_lists,
    vector_diversity,
)


def test_lists_are_the_best_items_left_and_ties_go_to_the_earlier_item() -> None:
    scores = np.array([[0.1, 0.9, 0.5, 0.5, 0.5], [5.0, 4.0, -np.inf, 2.0, 1.0]])
    assert top_lists(scores, 3).tolist() == [[1, 2, 3], [0, 1, 3]]
    seen = [np.array([1]), np.array([0, 3, 3])]
    assert top_lists(scores, 3, seen).tolist() == [[2, 3, 4], [1, 4, -1]]
    assert top_lists(scores[:1], 9).tolist() == [[1, 2, 3, 4, 0, -1, -1, -1, -1]]


def test_lists_equal_a_stable_sort() -> None:
    generator = np.random.default_rng(1)
    scores = generator.integers(0, 12, (50, 40)).astype(np.float32)  # many ties
    assert np.array_equal(top_lists(scores, 10), np.argsort(-scores, axis=1, kind="stable")[:, :10])


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_broken_scorer_gets_no_lists(broken: float) -> None:
    with pytest.raises(DataError, match="scorer is broken"):
        top_lists(np.array([[0.0, broken]]), 1)
    with pytest.raises(DataError, match="removed items of 1 users"):
        top_lists(np.zeros((1, 3)), 1, [])


def test_novelty_is_self_information_in_bits() -> None:
    bits = item_bits(np.array([4.0, 2.0, 1.0, 1.0]))
    assert bits.tolist() == [1.0, 2.0, 3.0, 3.0]
    assert mean_bits(np.array([[0, 1, -1], [2, 3, 0], [-1, -1, -1]]), bits).tolist() == [1.5, 7.0 / 3.0, 0.0]


def test_unpopular_items_count_the_cap_and_an_empty_release_is_uniform() -> None:
    noisy = np.array([100.0, -7.0, 0.0, 1e-9])
    assert item_bits(noisy).tolist() == pytest.approx([0.0, 6.0, 6.0, 6.0], abs=1e-9)
    assert novelty_cap(4) == 6.0
    assert item_bits(np.zeros(8)).tolist() == [3.0] * 8
    assert 0.0 <= item_bits(np.array([1.0]))[0] == 0.0
    with pytest.raises(DataError, match="finite"):
        item_bits(np.array([np.nan, 1.0]))


def test_new_share() -> None:
    lists = np.array([[0, 1, 2, 3], [4, 5, -1, -1], [-1, -1, -1, -1]])
    histories = [np.array([1, 1, 9]), np.array([4, 5]), np.array([0])]
    assert new_share(lists, histories).tolist() == [0.75, 0.0, 0.0]


def test_vector_diversity() -> None:
    vectors = np.array([[1.0, 0.0], [3.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    lists = np.array([[0, 1, -1], [0, 2, -1], [0, 3, -1], [0, 4, -1], [0, -1, -1], [0, 1, 2]])
    expected = [0.0, 1.0, 0.5, 0.5, 0.0, (0.0 + 1.0 + 1.0) / 3.0]
    assert vector_diversity(lists, vectors).tolist() == pytest.approx(expected, abs=1e-12)


def test_attribute_diversity() -> None:
    attributes = {
        "genre": [["Drama", "War"], ["Drama"], ["Comedy"], [], []],
        "year": [["1990"], [], [], [], []],
    }
    values = attribute_values(attributes, 5)
    assert values[0] == {"genre=Drama", "genre=War", "year=1990"}
    lists = np.array([[0, 1, -1], [1, 2, -1], [3, 4, -1], [2, 3, -1], [0, -1, -1], [0, 1, 2]])
    expected = [2 / 3, 1.0, 0.0, 1.0, 0.0, (2 / 3 + 1.0 + 1.0) / 3.0]
    assert attribute_diversity(lists, values).tolist() == pytest.approx(expected)


def test_exposure_cells() -> None:
    assert exposure_cell(5, 8).tolist() == [0, 1, 2, 3, 4]
    hashed = exposure_cell(40_000, 4096)
    counts = np.bincount(hashed, minlength=4096)
    assert len(counts) == 4096
    mean = 40_000 / 4096
    assert abs(((counts - mean) ** 2 / mean).sum() - 4095) < 5 * math.sqrt(2 * 4095)  # chi-squared
    assert np.array_equal(hashed, exposure_cell(40_000, 4096))


def test_gini_known_answers() -> None:
    assert gini(np.array([3.0, 3.0, 3.0, 3.0])) == pytest.approx(0.0)
    assert gini(np.array([0.0, 0.0, 0.0, 8.0])) == pytest.approx(0.75)
    assert gini(np.array([2.0, 1.0])) == pytest.approx(1.0 / 6.0)
    assert gini(np.zeros(3)) == 0.0
    values = np.random.default_rng(0).random(30)
    pairwise = np.abs(values[:, None] - values).sum() / (2 * len(values) ** 2 * values.mean())
    assert gini(values) == pytest.approx(pairwise)
    for broken in ([], [-1.0, 2.0], [np.nan], [np.inf]):
        with pytest.raises(DataError):
            gini(np.array(broken))


def test_noise_alone_passes_the_threshold_in_one_cell_of_a_thousand() -> None:
    assert shown_threshold(0.0) == 0.5
    noise = np.random.default_rng(2).normal(0.0, 13.4, 200_000)
    assert np.mean(noise > shown_threshold(13.4)) == pytest.approx(1e-3, abs=3e-4)
    assert shown_threshold(13.4) == pytest.approx(41.4, abs=0.1)
