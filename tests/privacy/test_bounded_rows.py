from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.bounded import UserContributions, clip_and_sum
from privacy.bounded_rows import Block, LongRowSum
from privacy.errors import InputError

LENGTH = 40
HEAD = slice(0, 30)


def _users(seed: int, count: int, scale: float) -> list[list[Block]]:
    random = np.random.default_rng(seed)
    return [
        [
            (HEAD, random.normal(size=30) * scale),
            (np.sort(random.choice(10, 4, replace=False)) + 30, random.normal(size=4) * scale),
        ]
        for _ in range(count)
    ]


def _as_rows(users: list[list[Block]]) -> UserContributions:
    where = [np.concatenate([np.arange(30), np.asarray(user[1][0])]) for user in users]
    values = [np.concatenate([user[0][1], user[1][1]]) for user in users]
    offsets = np.concatenate([[0], np.cumsum([w.size for w in where])])
    return UserContributions(np.concatenate(where), np.concatenate(values), offsets, LENGTH)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 10.0])
def test_the_same_integers_as_clip_and_sum(scale: float):
    users = _users(1, 7, scale)
    long = LongRowSum(LENGTH, l2_clip_norm=1.0, unit=2.0**-12)
    for user in users:
        long.add(user)
    total, reference = long.total(), clip_and_sum(_as_rows(users), l2_clip_norm=1.0, unit=2.0**-12)
    assert np.array_equal(total.values, reference.values)
    assert (total.l2_bound, total.unit, total.users) == (reference.l2_bound, reference.unit, 7)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30),
    clip=st.floats(1e-3, 1e3),
    steps=st.integers(1, 2**30),
)
def test_one_user_never_exceeds_the_bound_in_exact_integers(values: list[float], clip: float, steps: int):
    unit = clip / steps
    long = LongRowSum(len(values), l2_clip_norm=clip, unit=unit)
    long.add([(slice(0, len(values)), np.array(values))])
    total = long.total()
    assert sum(v * v for v in total.values.tolist()) <= total.l2_bound**2
    assert total.l2_bound == math.floor(clip / unit)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200])
def test_a_user_with_a_broken_value_adds_nothing_and_disturbs_nobody(bad: float):
    sound = LongRowSum(4, l2_clip_norm=1.0, unit=0.01)
    sound.add([(slice(0, 4), np.full(4, 0.1))])
    with_broken = LongRowSum(4, l2_clip_norm=1.0, unit=0.01)
    with_broken.add([(slice(0, 4), np.array([0.1, bad, 0.1, 0.1]))])
    with_broken.add([(slice(0, 4), np.full(4, 0.1))])
    assert np.array_equal(sound.total().values, with_broken.total().values)


def test_clipping_keeps_the_direction_and_reaches_the_bound():
    long = LongRowSum(3, l2_clip_norm=1.0, unit=2.0**-20)
    long.add([(slice(0, 3), np.array([30.0, 40.0, 0.0]))])
    assert long.total().values.tolist() == pytest.approx([0.6 * 2**20, 0.8 * 2**20, 0], abs=1.5)


def test_refusals():
    with pytest.raises(InputError, match="width"):
        LongRowSum(0, l2_clip_norm=1.0, unit=0.1)
    with pytest.raises(InputError, match="l2_clip_norm=nan"):
        LongRowSum(3, l2_clip_norm=math.nan, unit=0.1)
