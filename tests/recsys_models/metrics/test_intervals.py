from __future__ import annotations

import math

import numpy as np
import pytest

from recsys_models.errors import DataError
from recsys_models.metrics import mean_estimate, proportion_estimate


def test_wilson_interval_of_a_textbook_case() -> None:
    estimate = proportion_estimate(81, 263)  # Newcombe 1998, table I
    assert estimate.value == pytest.approx(0.3080, abs=1e-4)
    assert (estimate.low, estimate.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_no_hit_still_has_an_upper_end() -> None:
    estimate = proportion_estimate(0, 20)
    assert estimate.value == estimate.low == 0.0
    assert estimate.high == pytest.approx(0.1611, abs=1e-4)


@pytest.mark.parametrize("noise_sd", [0.0, 8.0, 25.0])
def test_covers_the_truth_in_95_of_100(noise_sd: float) -> None:
    generator = np.random.default_rng(5)
    share, n, trials = 0.2, 400, 4000
    hits = generator.binomial(n, share, trials) + generator.normal(0, noise_sd, trials)
    counts = n + generator.normal(0, noise_sd, trials)
    variance = noise_sd**2
    covered = [
        e.low <= share <= e.high
        for h, c in zip(hits, counts, strict=True)
        for e in [proportion_estimate(h, c, noise_variance=variance, count_noise_variance=variance)]
    ]
    assert 0.935 < np.mean(covered) < 0.97


def test_forgetting_the_noise_would_not_cover() -> None:
    generator = np.random.default_rng(5)
    hits = generator.binomial(400, 0.2, 4000) + generator.normal(0, 25.0, 4000)
    estimates = [proportion_estimate(h, 400) for h in hits]
    assert np.mean([e.low <= 0.2 <= e.high for e in estimates]) < 0.6


def test_mean_uses_squares_where_given_and_the_widest_variance_otherwise() -> None:
    values = np.array([0.4, 0.5, 0.6] * 50)
    known = mean_estimate(values.sum(), 150, total_of_squares=float((values**2).sum()))
    bounded = mean_estimate(values.sum(), 150)
    assert known.high - known.value == pytest.approx(1.96 * values.std() / math.sqrt(150), rel=1e-3)
    assert bounded.high - bounded.value == pytest.approx(1.96 * 0.5 / math.sqrt(150), rel=1e-3)


def test_nothing_is_known_without_users() -> None:
    for estimate in (proportion_estimate(3.0, -2.0), mean_estimate(3.0, 0.4)):
        assert (estimate.value, estimate.low, estimate.high) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_refuses_bad_variances(bad: float) -> None:
    with pytest.raises(DataError, match="variances"):
        proportion_estimate(1, 2, noise_variance=bad)
    with pytest.raises(DataError, match="variances"):
        mean_estimate(1, 2, count_noise_variance=bad)


def test_refuses_sums_that_are_no_numbers() -> None:
    with pytest.raises(DataError, match="finite"):
        proportion_estimate(float("nan"), 2)
