"""Known answers, identities and inequalities that every correct accountant obeys."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from privacy.accounting import accountant
from privacy.accounting.accountant import cross_check, delta, epsilon, epsilon_second_opinion, gdp_mu
from privacy.accounting.analytic_gaussian import gaussian_epsilon
from privacy.accounting.events import ReleaseEvent
from privacy.errors import InputError, LedgerError


def event(noise: float, q: float = 1.0, count: int = 1) -> ReleaseEvent:
    return ReleaseEvent("x", noise, sampling_probability=q, count=count)


class TestKnownAnswers:
    # Google's PLD on a ten times finer grid, agreeing with Opacus' PRV to 0.02; Poisson, add/remove.
    @pytest.mark.parametrize(
        ("users", "batch", "steps", "noise", "target_delta", "expected"),
        [
            (500, 64, 200, 1.0, 1e-4, 11.3857),
            (6040, 512, 300, 1.0, 1e-5, 10.3122),
            (6040, 512, 300, 0.7, 1e-5, 21.7199),
            (138_000, 1000, 1000, 1.0, 1e-6, 1.5150),
            (138_000, 1000, 1000, 0.6, 1e-6, 6.7666),
        ],
    )
    def test_poisson_sampled(
        self, users: int, batch: int, steps: int, noise: float, target_delta: float, expected: float
    ) -> None:
        cost = epsilon([event(noise, batch / users, steps)], target_delta)
        assert expected * (1 - 1e-4) <= cost <= expected * (1 + 1e-3)

    @pytest.mark.parametrize("noise", [50.0, 5.0, 1.0, 0.3, 0.05])
    @pytest.mark.parametrize("target_delta", [1e-9, 1e-5])
    def test_unsampled_equals_the_closed_formula(self, noise: float, target_delta: float) -> None:
        exact = gaussian_epsilon(1 / noise, target_delta)
        assert exact * (1 - 1e-9) <= epsilon([event(noise)], target_delta) <= exact * (1 + 1e-4)

    def test_three_deployments_and_a_year_of_retraining(self) -> None:
        """Gaussians calibrated to eps 8 and 1 at delta 1e-6 compose to 15.6 for three, 9.1 for 52 weeks."""
        from privacy.accounting.calibration import gaussian_mu

        assert epsilon([event(1 / gaussian_mu(8.0, 1e-6), count=3)], 1e-6) == pytest.approx(15.6, abs=0.05)
        assert epsilon([event(1 / gaussian_mu(1.0, 1e-6), count=52)], 1e-6) == pytest.approx(9.1, abs=0.05)


class TestIdentities:
    @pytest.mark.parametrize("q", [1.0, 0.1])
    def test_six_ways_to_release_six_times(self, q: float) -> None:
        once = event(2.0, q)
        ways = [
            [once] * 6,
            [event(2.0, q, 6)],
            [event(2.0, q, 2)] * 3,
            [event(2.0, q, 1), event(2.0, q, 5)],
        ]
        assert len({round(epsilon(way, 1e-6), 12) for way in ways}) == 1

    def test_order_and_names_do_not_matter(self) -> None:
        mixed = [event(2.0, 0.1, 3), event(1.5), ReleaseEvent("other", 1.0, sampling_probability=0.2)]
        assert epsilon(mixed, 1e-6) == epsilon(mixed[::-1], 1e-6)

    def test_gaussians_compose_by_pythagoras(self) -> None:
        assert epsilon([event(1 / 3.0), event(1 / 4.0)], 1e-6) == pytest.approx(
            epsilon([event(1 / 5.0)], 1e-6), rel=1e-9
        )
        assert gdp_mu([event(1 / 3.0), event(1 / 4.0)]) == pytest.approx(5.0)

    def test_sampling_everybody_is_no_sampling(self) -> None:
        """A probability just below 1 goes through another path of the accountant and must cost the same."""
        assert epsilon([event(1.0, 1 - 1e-9)], 1e-6) == pytest.approx(epsilon([event(1.0)], 1e-6), rel=1e-4)

    def test_delta_and_epsilon_are_inverse(self) -> None:
        for events in ([event(1.0)], [event(1.0, 0.1, 20)], [event(1.0, 0.1, 20), event(3.0)]):
            assert delta(events, epsilon(events, 1e-5)) == pytest.approx(1e-5, rel=1e-2)


class TestMonotone:
    base = (1.0, 0.1, 50)

    @pytest.mark.parametrize("more", [(0.9, 0.1, 50), (1.0, 0.12, 50), (1.0, 0.1, 60)])
    def test_less_noise_more_sampling_more_steps_cost_more(self, more: tuple[float, float, int]) -> None:
        assert epsilon([event(*more)], 1e-5) > epsilon([event(*self.base)], 1e-5)

    def test_every_further_release_and_a_smaller_delta_cost_more(self) -> None:
        assert epsilon([event(*self.base), event(20.0)], 1e-5) > epsilon([event(*self.base)], 1e-5)
        assert epsilon([event(*self.base)], 1e-7) > epsilon([event(*self.base)], 1e-5)


class TestEdges:
    def test_nothing_costs_nothing(self) -> None:
        assert epsilon([], 1e-5) == 0.0 and delta([], 0.0) == 0.0 and gdp_mu([]) == 0.0
        assert cross_check([], 1e-5) == 0.0

    @pytest.mark.parametrize("q", [1.0, 0.5])
    def test_no_noise_costs_everything(self, q: float) -> None:
        events = [event(5.0), event(0.0, q)]
        assert epsilon(events, 1e-5) == math.inf and delta(events, 10.0) == 1.0
        assert cross_check(events, 1e-5) == math.inf

    def test_next_to_no_noise_is_called_infinite(self) -> None:
        assert epsilon([event(1e-4, 0.01)], 1e-5) == math.inf
        assert epsilon([event(5e-324)], 1e-5) == math.inf

    def test_overwhelming_noise_costs_nothing(self) -> None:
        assert epsilon([event(1e12)], 1e-5) == 0.0

    def test_sampled_events_have_no_mu(self) -> None:
        assert gdp_mu([event(1.0), event(1.0, 0.5)]) is None

    @pytest.mark.parametrize("target_delta", [0.0, 1.0, -1.0, math.nan])
    def test_refuses_other_deltas(self, target_delta: float) -> None:
        for call in (epsilon, epsilon_second_opinion, cross_check):
            with pytest.raises(InputError, match="delta="):
                call([event(1.0)], target_delta)

    def test_refuses_a_negative_epsilon(self) -> None:
        with pytest.raises(InputError, match="non-negative"):
            delta([event(1.0)], math.nan)


class TestCrossCheck:
    @pytest.mark.parametrize(
        "events",
        [
            [event(1.0)],
            [event(30.0)],
            [event(0.1, count=3)],
            [event(1.0, 0.1, 100)],
            [event(0.6, 0.01, 1000)],
            [event(2.0), event(1.0, 0.05, 300)],
            [event(100.0, 0.001, 5)],
        ],
    )
    def test_agrees_on_honest_figures(self, events: list[ReleaseEvent]) -> None:
        assert cross_check(events, 1e-5) == epsilon(events, 1e-5)

    @pytest.mark.parametrize("q", [1.0, 0.1])
    @pytest.mark.parametrize("factor", [0.5, 2.0])
    def test_notices_a_wrong_accountant(
        self, monkeypatch: pytest.MonkeyPatch, q: float, factor: float
    ) -> None:
        events = [event(1.0), event(1.0, q, 3)]
        wrong = epsilon(events, 1e-5) * factor
        monkeypatch.setattr(accountant, "_pld_epsilon", lambda profile, target_delta: wrong)
        with pytest.raises(LedgerError, match="two accountants disagree"):
            cross_check(events, 1e-5)

    def test_second_opinion_is_an_upper_bound_when_sampled(self) -> None:
        for events in ([event(1.0, 0.1, 100)], [event(0.6, 0.01, 1000)], [event(2.0), event(1.0, 0.05, 300)]):
            assert 1.0 < epsilon_second_opinion(events, 1e-5) / epsilon(events, 1e-5) < 1.5


def test_importing_does_not_load_the_heavy_library() -> None:
    code = (
        "import sys; from privacy.accounting import accountant, calibration, events, ledger;"
        "print([m for m in ('dp_accounting', 'scipy', 'torch') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
