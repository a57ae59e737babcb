from __future__ import annotations

import math

import pytest

from privacy.accounting.accountant import epsilon, gdp_mu
from privacy.accounting.calibration import gaussian_mu
from privacy.accounting.schedule import ScheduledRelease, fit_to_budget, nominal_noise_multiplier
from privacy.errors import InputError

DELTA = 1e-5

GAUSSIANS = (
    ScheduledRelease("popularity", "popularity", 0.1),
    ScheduledRelease("statistics", "statistics", 0.7),
    ScheduledRelease("metrics", "metrics", 0.2, steps=3),
)
MIXED = (
    *GAUSSIANS,
    ScheduledRelease("fit", "fit", 0.1, steps=12, sampling_probability=0.3, left_the_client=False),
)


@pytest.mark.parametrize("budget", [0.3, 2.0, 8.0])
def test_a_fitted_schedule_spends_the_budget_and_no_more(budget: float) -> None:
    spent = epsilon([r.event() for r in fit_to_budget(GAUSSIANS, budget, DELTA)], DELTA)
    assert 0.99 * budget <= spent <= budget


def test_a_fitted_schedule_with_sampled_steps_spends_the_budget_and_no_more() -> None:
    spent = epsilon([r.event() for r in fit_to_budget(MIXED, 4.0, DELTA)], DELTA)
    assert 0.99 * 4.0 <= spent <= 4.0


def test_shares_are_shares_of_squared_mu() -> None:
    fitted = fit_to_budget(GAUSSIANS, 3.0, DELTA)
    alone = [gdp_mu([release.event()]) for release in fitted]
    squared = [mu**2 for mu in alone if mu is not None]
    total = gaussian_mu(3.0, DELTA) ** 2
    assert squared == pytest.approx([0.1 * total, 0.7 * total, 0.2 * total], rel=1e-3)


def test_shares_need_not_add_up_to_one() -> None:
    tenfold = [ScheduledRelease(r.name, r.kind, 10 * r.share, steps=r.steps) for r in GAUSSIANS]
    noise = [r.noise_multiplier for r in fit_to_budget(GAUSSIANS, 3.0, DELTA)]
    assert [r.noise_multiplier for r in fit_to_budget(tenfold, 3.0, DELTA)] == pytest.approx(noise, rel=1e-6)


def test_releases_that_bring_their_noise_keep_it_and_everything_else_of_theirs() -> None:
    fixed = ScheduledRelease("statistics", "statistics", 0.7, noise_multiplier=0.25)
    fitted = fit_to_budget([GAUSSIANS[0], fixed, GAUSSIANS[2]], 2.0, DELTA)
    assert fitted[1] == fixed
    assert [r.name for r in fitted] == ["popularity", "statistics", "metrics"]
    # The fixed one is not part of the fit: the others alone spend the budget.
    assert 1.98 <= epsilon([fitted[0].event(), fitted[2].event()], DELTA) <= 2.0


def test_nothing_open_is_nothing_to_fit() -> None:
    fixed = (ScheduledRelease("a", "popularity", 0.0, noise_multiplier=3.0),)
    assert fit_to_budget(fixed, 1.0, DELTA) == fixed


def test_the_nominal_formula_inverts_the_two_expressions_for_mu() -> None:
    plain = ScheduledRelease("a", "metrics", 1.0, steps=9)
    assert nominal_noise_multiplier(plain, 0.5) == pytest.approx(math.sqrt(9) / 0.5)
    q, steps, mu = 0.2, 40, 0.7
    sampled = ScheduledRelease("b", "gradients", 1.0, steps=steps, sampling_probability=q)
    z = nominal_noise_multiplier(sampled, mu)
    assert q * math.sqrt(steps * (math.exp(1 / z**2) - 1)) == pytest.approx(mu)


def test_json_round_trip_and_event() -> None:
    for release in fit_to_budget(MIXED, 4.0, DELTA):
        assert ScheduledRelease.from_json(release.to_json()) == release
        event = release.event()
        assert (event.name, event.count, event.sampling_probability, event.left_the_client) == (
            release.name,
            release.steps,
            release.sampling_probability,
            release.left_the_client,
        )
        assert event.noise_multiplier == release.noise_multiplier


@pytest.mark.parametrize("share", [-0.1, math.nan, math.inf])
def test_shares_that_are_none_are_refused(share: float) -> None:
    with pytest.raises(InputError, match=r"share=.* of release 'a' is not a non-negative number"):
        ScheduledRelease("a", "metrics", share)


def test_refusals_name_the_release_and_the_cure() -> None:
    with pytest.raises(
        InputError, match="release 'popularity' has no noise_multiplier yet: fit the schedule"
    ):
        GAUSSIANS[0].event()
    with pytest.raises(InputError, match="no release has a share of the budget"):
        fit_to_budget([ScheduledRelease("a", "metrics", 0.0)], 1.0, DELTA)
    with pytest.raises(InputError, match="release 'b' has no share of the budget: drop it"):
        fit_to_budget([GAUSSIANS[0], ScheduledRelease("b", "metrics", 0.0)], 1.0, DELTA)
    with pytest.raises(InputError, match="unexpected fields"):
        ScheduledRelease.from_json({**GAUSSIANS[0].to_json(), "noise": 0.0})
    with pytest.raises(InputError, match="unexpected fields"):
        ScheduledRelease.from_json({"name": "a"})


@pytest.mark.parametrize(
    ("budget", "delta"), [(0.0, DELTA), (-1.0, DELTA), (math.nan, DELTA), (1.0, 0.0), (1.0, 2.0)]
)
def test_budgets_that_are_none_are_refused(budget: float, delta: float) -> None:
    with pytest.raises(InputError):
        fit_to_budget(GAUSSIANS, budget, delta)
