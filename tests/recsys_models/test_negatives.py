from __future__ import annotations

import numpy as np
import pytest

from recsys_models.data import Catalogue, Sequences
from recsys_models.errors import DataError
from recsys_models.negatives import CatalogueSampler, UntouchedSampler


def test_draws_follow_the_stated_distribution() -> None:
    sampler = CatalogueSampler(4, np.array([0.0, 1.0, 2.0, 5.0]), uniform_share=0.2)
    drawn = sampler.sample(np.random.default_rng(0).random(40_000))
    share = np.bincount(drawn, minlength=4) / drawn.size
    np.testing.assert_allclose(sampler.probability, [0.05, 0.15, 0.25, 0.55])
    np.testing.assert_allclose(share, sampler.probability, atol=0.01)


def test_uniform_without_popularity() -> None:
    np.testing.assert_array_equal(
        CatalogueSampler(4).sample(np.array([0.0, 0.26, 0.51, 1 - 2**-53])), [0, 1, 2, 3]
    )


def test_log_expected_count_is_of_the_same_distribution() -> None:
    sampler = CatalogueSampler(4, np.array([0.0, 1.0, 2.0, 5.0]), uniform_share=0.2)
    np.testing.assert_allclose(
        sampler.log_expected_count(np.array([3, 0]), 10), np.log([5.5, 0.5]), rtol=1e-6
    )


def test_noisy_counts_below_zero_can_still_be_drawn() -> None:
    sampler = CatalogueSampler(3, np.array([-7.0, 1.0, 1.0]), uniform_share=0.3)
    np.testing.assert_allclose(sampler.probability, [0.1, 0.45, 0.45])
    np.testing.assert_allclose(CatalogueSampler(3, np.array([-1.0, -1, 0])).probability, [1 / 3] * 3)


@pytest.mark.parametrize("popularity", [np.array([1.0, np.nan]), np.array([1.0, np.inf]), np.ones(3)])
def test_refuses_what_is_no_distribution(popularity: np.ndarray) -> None:
    with pytest.raises(DataError, match="popularity must be finite"):
        CatalogueSampler(2, popularity)


@pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
def test_refuses_a_share_that_leaves_items_undrawn(share: float) -> None:
    with pytest.raises(DataError, match="uniform_share"):
        CatalogueSampler(2, np.ones(2), uniform_share=share)


@pytest.mark.parametrize("number", [1.0, -0.1, float("nan")])
def test_refuses_numbers_outside_the_unit_interval(number: float) -> None:
    with pytest.raises(DataError, match="uniform numbers"):
        CatalogueSampler(2).sample(np.array([number]))


def test_untouched_items_are_drawn_alike_and_no_others() -> None:
    log = Sequences(
        ["a", "b"], np.array([1, 1, 3, 0]), np.array([0, 3, 4]), Catalogue([f"i{n}" for n in range(5)])
    )
    users = np.repeat([0, 1], 6000)
    uniform = np.tile((np.arange(6000) + 0.5) / 6000, 2)
    drawn = UntouchedSampler(log).sample(users, uniform)
    assert np.bincount(drawn[users == 0], minlength=5).tolist() == [2000, 0, 2000, 0, 2000]
    assert np.bincount(drawn[users == 1], minlength=5).tolist() == [0, 1500, 1500, 1500, 1500]


def test_refuses_a_user_who_has_everything() -> None:
    log = Sequences(["a"], np.array([0, 1]), np.array([0, 2]), Catalogue(["i0", "i1"]))
    with pytest.raises(DataError, match="a user has all 2 items"):
        UntouchedSampler(log)
