from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from privacy.accounting.schedule import ScheduledRelease
from privacy.release_terms import ReleaseTerms, release_terms
from recsys_models.metrics.ranking import mean_metrics, target_ranks
from recsys_models.metrics.sums import user_metric_rows
from recsys_models.release_shapes import RANKERS, metrics_shape
from server.quality import quality_from_sums, random_quality
from server.secure_round import SecureSum
from tests.privacy.accounting.test_plan import plan

RANDOM = np.random.default_rng(0)
RANKS = {name: RANDOM.integers(1, 60, size=500) for name in RANKERS}
SURVIVORS = ("a", "b", "c", "d")


def terms(noise_multiplier: float, *, private: bool = True) -> ReleaseTerms:
    release = ScheduledRelease("m", "metrics", 1.0, noise_multiplier=noise_multiplier)
    shape = metrics_shape(private)
    agreed = plan(releases=(release,), private=private)
    return release_terms(agreed, "m", shape)


def exact_sum(t: ReleaseTerms) -> np.ndarray:
    rows = user_metric_rows(RANKS)
    return np.bincount(rows.indices, weights=np.trunc(rows.values / t.unit), minlength=rows.length).astype(
        np.int64
    )


def test_without_noise_the_figures_are_the_plain_ones() -> None:
    t = terms(0.0, private=False)
    quality = quality_from_sums(SecureSum(exact_sum(t), SURVIVORS), t)
    assert quality.users == 500
    for found, ranker in ((quality.model, RANKERS[0]), (quality.popularity, RANKERS[1])):
        plain = mean_metrics(RANKS[ranker])
        assert found["recall@10"].value == plain["hit@10"]
        assert found["recall@20"].value == plain["hit@20"]
        assert found["ndcg@10"].value == pytest.approx(plain["ndcg@10"], abs=1e-6)
        assert found["recall@10"].low < plain["hit@10"] < found["recall@10"].high


def test_intervals_widen_by_the_noise_that_was_really_added() -> None:
    values = exact_sum(terms(1.0))
    t = terms(4.0)  # weak enough that no interval is cut off at 0 or 1
    narrow = quality_from_sums(SecureSum(values, SURVIVORS), replace(t, private=False)).model["recall@10"]
    four = quality_from_sums(SecureSum(values, SURVIVORS), t).model["recall@10"]
    five = quality_from_sums(SecureSum(values, (*SURVIVORS, "e")), t).model["recall@10"]
    assert narrow.high - narrow.low < four.high - four.low < five.high - five.low
    # Of the difference in squared half-widths, noise is all: z^2 sd^2 (1 + m^2) / n^2, and 5/4 of it with one more.
    squares = [((e.high - e.low) / 2) ** 2 for e in (narrow, four, five)]
    assert (squares[2] - squares[0]) / (squares[1] - squares[0]) == pytest.approx(5 / 4, rel=1e-6)
    sd, m, n = t.executed_sd(4), four.value, 500.0
    assert squares[1] - squares[0] == pytest.approx((1.959964 * sd / n) ** 2 * (1 + m * m), rel=1e-3)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    t = terms(20.0)
    values, truth = exact_sum(t), mean_metrics(RANKS[RANKERS[0]])["hit@10"]
    noise = np.random.default_rng(1).normal(0.0, t.executed_sd(4) / t.unit, size=(400, len(values)))
    covered = 0
    for draw in noise:
        estimate = quality_from_sums(SecureSum(values + np.rint(draw).astype(np.int64), SURVIVORS), t)
        covered += estimate.model["recall@10"].low <= truth <= estimate.model["recall@10"].high
    assert covered / 400 >= 0.95  # the interval also covers the sampling of users, which is fixed here


def test_noise_that_leaves_no_users_says_nothing_instead_of_something_wrong() -> None:
    t = terms(20.0)
    estimate = quality_from_sums(SecureSum(np.full(t.length, -50_000), SURVIVORS), t).model["recall@10"]
    assert (estimate.low, estimate.high) == (0.0, 1.0)


def test_random_ranks_score_what_is_expected_of_them() -> None:
    expected = random_quality(2000.0, 200, 0.0)
    ranks = target_ranks(np.random.default_rng(2).random((20_000, 200)), np.zeros(20_000, dtype=np.int64))
    plain = mean_metrics(ranks)
    for name, source in (("recall@10", "hit@10"), ("recall@20", "hit@20"), ("ndcg@10", "ndcg@10")):
        error = 4.0 * math.sqrt(plain[source] / 20_000)
        assert expected[name].value == pytest.approx(plain[source], abs=error)
