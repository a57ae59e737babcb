from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.schedule import ScheduledRelease
from privacy.bounded import BoundedSum, UserContributions, clip_and_sum
from privacy.errors import InputError
from privacy.mechanisms.discrete_gaussian import MAX_SIGMA, add_noise
from privacy.randomness import SeededRandomness
from privacy.release_terms import SECTION, ReleaseTerms, release_terms
from privacy.secagg.ring import encode
from recsys_models.release_shapes import ReleaseShape
from tests.privacy.accounting.test_plan import plan

LENGTH = 12


def terms(
    noise_multiplier: float | None = 2.0, *, clip: float = 1.0, unit: float | None = None, **changes: Any
) -> ReleaseTerms:
    release = ScheduledRelease("r", "statistics", 1.0, noise_multiplier=noise_multiplier)
    agreed = plan(releases=(release,), **changes)
    return release_terms(agreed, "r", ReleaseShape(LENGTH, clip, unit))


def contributions(matrix: np.ndarray) -> UserContributions:
    return UserContributions.from_dense(matrix)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 8),
    st.floats(0.01, 50.0),
    st.sampled_from([0.001, 0.7, 2.0, 90.0, 5000.0]),
    st.integers(0, 2**31),
)
def test_removing_one_user_changes_the_sum_by_at_most_the_bound(
    users: int, scale: float, noise_multiplier: float, seed: int
) -> None:
    rows = np.random.default_rng(seed).normal(size=(users, LENGTH)) * scale
    t = replace(
        terms(noise_multiplier), private=False
    )  # the sum before its noise, on the noisy release's grid
    whole = t.protect(contributions(rows), SeededRandomness(0))
    for left_out in range(users):
        without = t.protect(contributions(np.delete(rows, left_out, axis=0)), SeededRandomness(0))
        assert int(((whole - without) ** 2).sum()) <= t.l2_bound**2


def test_the_bound_is_reached_so_it_is_not_a_looser_one() -> None:
    t = replace(terms(), private=False)
    one = t.protect(contributions(np.eye(LENGTH)[:1] * 7.0), SeededRandomness(0))
    assert np.linalg.norm(one) == t.l2_bound


@pytest.mark.parametrize(
    ("users", "clients", "noise_multiplier", "bits"),
    [(100, 5, 2.0, 32), (20_000, 5, 2.0, 32), (40_000, 5, 2.0, 64), (3, 5, 0.0, 64)],
)
def test_words_widen_where_a_sum_could_wrap(
    users: int, clients: int, noise_multiplier: float, bits: int
) -> None:
    t = terms(noise_multiplier, max_users=users, private=noise_multiplier > 0)
    (section,) = t.schema(clients).sections
    assert (section.name, section.word_bits, section.length) == (SECTION, bits, LENGTH)
    assert section.client_bound * clients < 2 ** (bits - 1)


@pytest.mark.parametrize("bound", [2**31 // 5 - 1, 2**31 // 5, 2**31 // 5 + 1])
def test_the_switch_of_width_is_exact(bound: int) -> None:
    t = ReleaseTerms(plan().releases[0], LENGTH, float(bound), 1.0, 1, 1, private=False)
    (section,) = t.schema(5).sections
    assert section.client_bound == bound
    assert section.word_bits == (32 if 5 * bound <= 2**31 - 1 else 64)


@pytest.mark.parametrize("private", [True, False])
def test_the_largest_client_fits_its_words(private: bool) -> None:
    users = 30
    t = terms(1.5, max_users=users, private=private)
    schema = t.schema(5)
    same_cell = np.zeros((users, LENGTH))
    same_cell[:, 0] = 1e300
    for seed in range(20):
        values = t.protect(contributions(same_cell), SeededRandomness(seed))
        encode(schema, {SECTION: values})  # refuses what exceeds the client's bound
    with pytest.raises(InputError):
        too_many = t.protect(contributions(np.repeat(same_cell, 40, axis=0)), SeededRandomness(0))
        encode(schema, {SECTION: too_many})


def test_noise_at_its_far_end_fits_too() -> None:
    # A share's table ends before 13 sigma; the schema must allow it beside the fullest client.
    t = terms(4.0, max_users=1)
    (section,) = t.schema(5).sections
    share = t.total_sigma / math.sqrt(t.honest_survivors)
    assert section.client_bound >= t.l2_bound + math.ceil(12.4 * share) + 1


@pytest.mark.parametrize("noise_multiplier", [0.01, 60.0, 7000.0])
@pytest.mark.parametrize("unit", [None, 2.0**-10])
def test_every_noise_can_be_drawn_shared_and_whole(noise_multiplier: float, unit: float | None) -> None:
    t = terms(noise_multiplier, clip=2.65, unit=unit)
    assert t.total_sigma <= MAX_SIGMA
    values = t.protect(contributions(np.ones((2, LENGTH))), SeededRandomness(1))
    encode(t.schema(5), {SECTION: values})
    nothing = BoundedSum(np.zeros(LENGTH, np.int64), t.l2_bound, t.unit, 0)
    add_noise(nothing, t.total_sigma, SeededRandomness(1), name="encoder")  # what an encoder's own part gets
    assert t.total_sigma / t.l2_bound == pytest.approx(noise_multiplier)


def test_a_given_unit_is_kept_where_noise_allows() -> None:
    assert terms(2.0, clip=2.65, unit=2.0**-10).unit == 2.0**-10
    coarser = terms(200.0, clip=2.65, unit=2.0**-10).unit
    assert coarser > 2.0**-10
    assert math.log2(coarser).is_integer()


def test_shares_of_k_clients_have_the_stated_deviation() -> None:
    t = terms(2.0)  # 5 clients, threshold 4, one colluding: 3 honest survivors
    n = 200_000
    wide = replace(t, length=n)
    nothing = BoundedSum(np.zeros(n, np.int64), t.l2_bound, t.unit, 0)
    shares = [wide.add_share(nothing, SeededRandomness(seed)) for seed in range(5)]
    for survivors in (3, 4, 5):
        measured = float(np.std(np.sum(shares[:survivors], axis=0))) * t.unit
        error = 4.0 / math.sqrt(2 * n)  # four standard errors of a standard deviation
        assert measured == pytest.approx(t.executed_sd(survivors), rel=error)
        wrong = t.total_sigma * t.unit * math.sqrt(survivors / 4)  # had colluders been forgotten
        assert measured != pytest.approx(wrong, rel=error)
    assert t.executed_sd(3) == pytest.approx(2.0 * t.l2_bound * t.unit)


def test_per_client_noise_is_whole_at_every_client() -> None:
    t = terms(2.0, noise="per_client")
    n = 200_000
    nothing = BoundedSum(np.zeros(n, np.int64), t.l2_bound, t.unit, 0)
    alone = float(np.std(replace(t, length=n).add_share(nothing, SeededRandomness(0))))
    assert alone == pytest.approx(t.total_sigma, rel=4.0 / math.sqrt(2 * n))
    assert t.executed_sd(5) == pytest.approx(t.total_sigma * t.unit * math.sqrt(5))


def test_without_privacy_the_sum_is_exact() -> None:
    t = terms(0.0, private=False)
    rows = contributions(np.eye(LENGTH) * 0.5)
    assert np.array_equal(
        t.protect(rows, SeededRandomness(0)), clip_and_sum(rows, l2_clip_norm=1.0, unit=t.unit).values
    )
    assert t.executed_sd(5) == 0.0
    assert t.protect(rows, SeededRandomness(0))[0] * t.unit == 0.5


def test_wrong_lengths_bounds_and_grids_are_refused() -> None:
    t = terms()
    with pytest.raises(InputError, match="release 'r' has 12 cells, got 3"):
        t.protect(contributions(np.ones((1, 3))), SeededRandomness(0))
    for bound, unit in ((t.l2_bound + 1, t.unit), (t.l2_bound, t.unit * 2)):
        total = BoundedSum(np.zeros(LENGTH, np.int64), bound, unit, 1)
        with pytest.raises(InputError, match="is accounted with bound"):
            t.add_share(total, SeededRandomness(0))


def test_a_schedule_that_was_not_fitted_cannot_be_released() -> None:
    with pytest.raises(InputError, match="fit the schedule first"):
        terms(None).protect(contributions(np.ones((1, LENGTH))), SeededRandomness(0))


def test_the_event_states_clip_grid_and_who_adds_the_noise() -> None:
    release = ScheduledRelease("statistics", "statistics", 1.0, noise_multiplier=2.0)
    terms = ReleaseTerms(release, 7, 1.5, 0.25, honest_survivors=3, max_users=10, private=True)
    event = terms.event(simulated=False)
    assert (event.name, event.noise_multiplier) == ("statistics", 2.0)
    assert event.detail == {
        "l2_clip_norm": 1.5, "unit": 0.25, "cells": 7, "noise_shares": 3, "randomness": "system",
    }  # fmt: skip
    fit = replace(terms, release=replace(release, left_the_client=False)).event(simulated=True)
    # The encoder's own fit shares its noise with nobody.
    assert (fit.detail["noise_shares"], fit.detail["randomness"]) == (1, "simulated")
