from __future__ import annotations

import math

import numpy as np
import pytest

from privacy.accounting.accountant import gdp_mu
from privacy.accounting.events import ReleaseEvent
from privacy.errors import InputError
from privacy.mechanisms.adaptive_clip import AdaptiveClip, gradient_noise_multiplier
from privacy.randomness import SeededRandomness


@pytest.mark.parametrize("target", [0.3, 0.5, 0.8])
def test_the_norm_finds_the_quantile_through_the_noise(target: float):
    random, noise = np.random.default_rng(0), SeededRandomness(1)
    clip = AdaptiveClip(100.0, expected_users=500, target_quantile=target)
    seen = []
    for _ in range(150):
        norms = random.lognormal(0.0, 0.7, 500)
        clip = clip.after(clip.release(norms, 20.0, noise))
        seen.append(clip.l2_clip_norm)
    truth = np.quantile(np.random.default_rng(9).lognormal(0.0, 0.7, 100_000), target)
    assert np.median(seen[-50:]) == pytest.approx(truth, rel=0.1)


def test_one_user_moves_the_count_by_exactly_its_bound():
    clip = AdaptiveClip(1.0, expected_users=10)
    norms = np.array([0.5, 2.0, math.nan, math.inf, 0.0])
    for left_out in range(norms.size):
        change = clip.count(norms).values - clip.count(np.delete(norms, left_out)).values
        assert abs(int(change[0])) == clip.count(norms).l2_bound
    assert clip.count(norms).values[0] * clip.count(norms).unit == -0.5
    assert clip.count(np.zeros(0)).values.tolist() == [0]


def test_the_count_is_charged():
    released = AdaptiveClip(1.0, expected_users=10).release(np.ones(10), 3.0, SeededRandomness(0))
    assert released.event.name == "adaptive-clip"
    assert released.event.noise_multiplier == 3.0


def test_gradients_and_count_cost_what_the_joint_release_costs():
    count, joint = 8.0, 1.1
    events = [ReleaseEvent("gradients", noise_multiplier=gradient_noise_multiplier(joint, count))]
    events.append(ReleaseEvent("adaptive-clip", noise_multiplier=count))
    assert gdp_mu(events) == pytest.approx(1.0 / joint)
    for wrong in ((2.0, 1.0), (1.0, 1.0), (math.nan, 2.0), (1.0, math.nan)):
        with pytest.raises(InputError, match="would cost everything"):
            gradient_noise_multiplier(*wrong)


def test_an_empty_or_absurd_round_moves_the_norm_by_little():
    clip = AdaptiveClip(1.0, expected_users=1.0)
    moved = clip.after(clip.release(np.zeros(0), 1000.0 / 1024, SeededRandomness(0))).l2_clip_norm
    assert math.exp(-0.1) <= moved <= math.exp(0.1)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_refusals(bad: float):
    for field in ("l2_clip_norm", "expected_users", "rate"):
        with pytest.raises(InputError, match=field):
            AdaptiveClip(**{"l2_clip_norm": 1.0, "expected_users": 10.0, field: bad})
    with pytest.raises(InputError, match="target_quantile"):
        AdaptiveClip(1.0, 10.0, target_quantile=bad)
