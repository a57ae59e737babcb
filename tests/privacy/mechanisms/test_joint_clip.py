from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.bounded import BoundedSum, UserContributions, clip_and_sum, concatenate, l2_bound_on_grid
from privacy.bounded_rows import LongRowSum
from privacy.errors import InputError
from privacy.mechanisms.discrete_gaussian import sample
from privacy.mechanisms.joint_clip import MAX_CLIP_NORM, MIN_CLIP_NORM, JointClip
from privacy.randomness import SeededRandomness

BOUNDS = st.integers(2, 2**20)
NORMS = st.floats(math.log(MIN_CLIP_NORM), math.log(MAX_CLIP_NORM)).map(
    lambda x: min(max(math.exp(x), MIN_CLIP_NORM), MAX_CLIP_NORM)
)
QUANTILES = st.floats(0.01, 0.99)
ENTRIES = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-3, 3)


@settings(max_examples=300, deadline=None)
@given(
    bound=BOUNDS,
    norm=NORMS,
    quantile=QUANTILES,
    row=st.lists(ENTRIES, min_size=1, max_size=6),
    claimed=st.floats(allow_nan=True),
    scale=st.sampled_from([1e-9, 1.0, 1.0 + 1e-7, 1e9]),
)
def test_gradient_and_count_of_one_user_stay_within_the_joint_bound(
    bound: int, norm: float, quantile: float, row: list[float], claimed: float, scale: float
):
    """In exact integers, whatever the clip norm, the gradient, and the norm she is counted with."""
    clip = JointClip(bound, norm, quantile)
    with np.errstate(over="ignore"):
        values = np.array(row) * norm * scale
    long = LongRowSum(len(row), l2_clip_norm=clip.clip_norm(norm), unit=clip.unit(norm))
    long.add([(slice(0, len(row)), values)])
    sparse = clip_and_sum(
        UserContributions.from_dense(values[None]), l2_clip_norm=clip.clip_norm(norm), unit=clip.unit(norm)
    )
    with np.errstate(over="ignore", invalid="ignore"):
        own = float(np.sqrt(np.square(values).sum()))
    for total in (long.total(), sparse):
        assert total.l2_bound == clip.gradient_bound
        gradient = sum(int(v) ** 2 for v in total.values)
        for counted_as in (own, abs(claimed)):
            count = clip.count(np.array([counted_as]), norm)
            assert abs(count) <= clip.count_bound
            assert gradient + count**2 <= bound**2


@settings(max_examples=200, deadline=None)
@given(bound=BOUNDS, norm=NORMS)
def test_the_grid_gives_the_same_integers_at_every_clip_norm(bound: int, norm: float):
    clip = JointClip(bound, 1.0)
    assert l2_bound_on_grid(clip.clip_norm(norm), clip.unit(norm)) == clip.gradient_bound
    assert clip.gradient_bound**2 + clip.count_bound**2 <= bound**2
    assert clip.clip_norm(norm) == pytest.approx(norm, rel=1.0 / clip.gradient_bound)


def test_the_gradients_keep_nearly_all_of_the_bound():
    clip = JointClip(2**14, 1.0)
    assert clip.gradient_bound / clip.l2_bound > 0.994
    assert clip.count_bound == 1638


@settings(max_examples=100, deadline=None)
@given(
    norms=st.lists(st.floats(0, 1e3), min_size=1, max_size=20), norm=NORMS, quantile=QUANTILES, data=st.data()
)
def test_leaving_one_user_out_moves_the_count_by_at_most_its_bound(
    norms: list[float], norm: float, quantile: float, data: st.DataObject
):
    clip = JointClip(2**12, 1.0, quantile)
    out = data.draw(st.integers(0, len(norms) - 1))
    rest = np.array(norms[:out] + norms[out + 1 :])
    assert abs(clip.count(np.array(norms), norm) - clip.count(rest, norm)) <= clip.count_bound


def test_a_user_counts_half_to_either_side_of_the_median():
    clip = JointClip(2**14, 1.0)
    assert clip.count(np.array([0.9]), 1.0) == clip.count_bound
    assert clip.count(np.array([1.1]), 1.0) == -clip.count_bound
    for above in (math.inf, math.nan, 1e300):
        assert clip.count(np.array([above]), 1.0) == -clip.count_bound
    assert clip.count(np.zeros(0), 1.0) == 0


def test_the_last_bits_of_a_norm_move_no_count():
    """A norm is computed in a batch, and others in it may move its last bits: never by a whole count of hers."""
    clip = JointClip(2**14, 1.0)
    norms = np.linspace(0.9, 1.1, 4001)
    nudged = np.array(
        [abs(clip.count(np.array([n]), 1.0) - clip.count(np.array([n * (1 + 1e-6)]), 1.0)) for n in norms]
    )
    assert nudged.max() <= 1


def followed(quantile: float, *, drawn: int, expected: float, first: float = 30.0) -> float:
    """The norm that a simulated stream of users settles at, through the noise of a release."""
    random, noise = np.random.default_rng(0), SeededRandomness(1)
    clip = JointClip(2**12, first, quantile)
    norm, seen = clip.first_norm, []
    for _ in range(150):
        norms = random.lognormal(0.0, 0.7, drawn)
        released = clip.count(norms, norm) + int(sample(5.0 * clip.l2_bound, 1, noise)[0])
        norm = clip.after(norm, released, expected)
        seen.append(norm)
    return float(np.median(seen[-60:]))


@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.8])
def test_the_norm_follows_the_quantile(quantile: float):
    truth = np.quantile(np.random.default_rng(9).lognormal(0.0, 0.7, 100_000), quantile)
    assert followed(quantile, drawn=1000, expected=1000.0) == pytest.approx(truth, rel=0.12)


def test_users_who_give_nothing_do_not_pull_the_norm():
    truth = np.quantile(np.random.default_rng(9).lognormal(0.0, 0.7, 100_000), 0.8)
    assert followed(0.8, drawn=1000, expected=2000.0, first=4.0) == pytest.approx(truth, rel=0.15)


def test_one_round_moves_the_norm_by_no_more_than_its_rate():
    clip = JointClip(2**10, 1.0, 0.3, 0.2)
    for released in (-1e12, 1e12):
        moved = clip.after(1.0, released, 1.0)
        assert 0.0 < abs(math.log(moved)) <= 0.2 * 0.7 + 1e-12
        assert clip.is_reachable(moved, 1)
    assert clip.after(MAX_CLIP_NORM, -1e12, 1.0) == MAX_CLIP_NORM
    assert clip.after(MIN_CLIP_NORM, 1e12, 1.0) == MIN_CLIP_NORM


def test_every_norm_that_a_server_can_arrive_at_is_accepted():
    random = np.random.default_rng(3)
    for first in (MIN_CLIP_NORM, 1e-3, 1.0, MAX_CLIP_NORM):
        clip = JointClip(2**10, first, 0.9, 1.0)
        norm = first
        for step in range(200):
            assert clip.is_reachable(norm, step)
            norm = clip.after(norm, random.choice([-1e9, 1e9, 3.0]), 5.0)


@pytest.mark.parametrize(
    "norm",
    [None, 1, "1.0", True, math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-7, 1e7, 1e300, 1.3, 0.7, [1.0]],
)
def test_silly_norms_are_out_of_reach_at_the_first_step(norm: Any):
    assert not JointClip(2**10, 1.0).is_reachable(norm, 1)


@pytest.mark.parametrize(
    "bad",
    [
        {"l2_bound": 1},
        *({"first_norm": v} for v in (0.0, math.nan, math.inf, 1e-7, 1e7)),
        *({"target_quantile": v} for v in (0.0, 1.0, math.nan)),
        *({"rate": v} for v in (0.0, 1.1, math.nan)),
    ],
)
def test_refusals(bad: dict[str, Any]):
    with pytest.raises(InputError):
        JointClip(**{"l2_bound": 100, "first_norm": 1.0, **bad})


@pytest.mark.parametrize("bound", [2, 15, 16, 1000, 2**14])
def test_gradients_and_count_are_joined_under_the_whole_bound(bound: int):
    clip = JointClip(bound, 3.0)
    gradients = BoundedSum(np.array([1, -1]), clip.gradient_bound, clip.unit(3.0), 4)
    joined = clip.joined(gradients, -7, 0.25)
    assert joined.values.tolist() == [1, -1, -7]
    assert (joined.l2_bound, joined.unit, joined.users) == (bound, 0.25, 4)
    # What the parts give by themselves is no more.
    counted = BoundedSum(np.array([0]), clip.count_bound, 0.25, 4)
    assert concatenate([replace(gradients, unit=0.25), counted]).l2_bound <= bound
    with pytest.raises(InputError, match="room for a count"):
        clip.joined(replace(gradients, l2_bound=clip.gradient_bound + 1), 0, 0.25)
