"""How much noise a budget asks for: the accountant, solved for the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from privacy.accounting.accountant import central_limit_mu, gdp_mu
from privacy.accounting.accountant import epsilon as epsilon_of
from privacy.accounting.analytic_gaussian import check_delta, check_epsilon, gaussian_mu
from privacy.accounting.events import ReleaseEvent
from privacy.errors import InputError

__all__ = ["gaussian_mu", "noise_multiplier_for", "scale_to_budget"]

_TOLERANCE = 1e-4  # relative, of the noise
_MARGIN = 1.0 - 1e-6  # of the budget, so that the last bit of a recomputed multiplier cannot tip it over


def noise_multiplier_for(
    epsilon: float, delta: float, *, sampling_probability: float = 1.0, steps: int = 1
) -> float:
    """Returns the noise multiplier with which ``steps`` releases cost at most ``epsilon``.

    Args:
        epsilon: budget, positive.
        delta: budget, in (0, 1).
        sampling_probability: of each user in each step (Poisson), in (0, 1].
        steps: number of releases.

    Guarantees:
        The accountant confirms the budget for the returned value; 0.02 % less noise would exceed it.

    Raises:
        InputError: a value is out of its range.
    """
    unit = ReleaseEvent("calibration", 1.0, sampling_probability=sampling_probability, count=steps)
    return scale_to_budget([unit], epsilon, delta)


def scale_to_budget(events_at_unit_scale: Sequence[ReleaseEvent], epsilon: float, delta: float) -> float:
    """Returns the smallest factor on all noise multipliers with which the events cost at most the budget.

    Args:
        events_at_unit_scale: the schedule; the proportions between its multipliers stay.
        epsilon: budget for all of them together, positive.
        delta: budget, in (0, 1).

    Guarantees:
        As ``noise_multiplier_for``.

    Raises:
        InputError: the budget is not one, there is no event, or one has no noise to scale.
    """
    check_epsilon(epsilon)
    check_delta(delta)
    if not events_at_unit_scale:
        raise InputError("no releases to fit to the budget: give at least one")
    for event in events_at_unit_scale:
        if event.noise_multiplier == 0.0:
            raise InputError(
                f"release {event.name!r} has noise_multiplier=0, and no factor makes noise of nothing"
            )
    search = _Search(events_at_unit_scale, epsilon * _MARGIN, delta)
    guess = search.guess(gaussian_mu(epsilon * _MARGIN, delta))
    if gdp_mu(events_at_unit_scale) is None:
        return search.smallest(guess)
    while (
        search.excess(guess) > 0.0
    ):  # the guess is exact, but the accountant's word counts, and it rounds up
        guess *= 1.0 + 1e-6
    return guess


class _Search:
    """Looks for the factor at which ln(epsilon / budget) changes sign; each look costs one PLD."""

    def __init__(self, events: Sequence[ReleaseEvent], budget: float, delta: float) -> None:
        self._events, self._budget, self._delta = events, budget, delta

    def excess(self, factor: float) -> float:
        """Returns ln(epsilon / budget) at this factor, within -30..30."""
        ratio = epsilon_of(self._scaled(factor), self._delta) / self._budget
        return math.log(min(max(ratio, 1e-13), 1e13))

    def guess(self, mu: float) -> float:
        """Returns the factor that leaves about this mu: exact without sampling, cheap always."""
        low, high = -70.0, 70.0
        while high - low > 1e-9:
            middle = (low + high) / 2
            too_little_noise = central_limit_mu(self._scaled(math.exp(middle))) > mu
            low, high = (middle, high) if too_little_noise else (low, middle)
        return math.exp(high)

    def smallest(self, around: float) -> float:
        """Brackets the root from a first guess, then closes in by the Illinois rule, in logarithms."""
        low, f_low, high, f_high = self._bracket(math.log(around))
        last_moved = ""
        while high - low > _TOLERANCE:
            middle = high - f_high * (high - low) / (f_high - f_low)
            # Half a tolerance inside, so that both ends move and the bracket shrinks below the tolerance.
            middle = min(max(middle, low + _TOLERANCE / 2), high - _TOLERANCE / 2)
            f_middle = self.excess(math.exp(middle))
            if f_middle > 0.0:
                low, f_low = middle, f_middle
                f_high /= 2 if last_moved == "low" else 1  # an end that stays twice loses half its weight
                last_moved = "low"
            else:
                high, f_high = middle, f_middle
                f_low /= 2 if last_moved == "high" else 1
                last_moved = "high"
        return math.exp(high)

    def _scaled(self, factor: float) -> list[ReleaseEvent]:
        return [replace(e, noise_multiplier=e.noise_multiplier * factor) for e in self._events]

    def _bracket(self, guess: float) -> tuple[float, float, float, float]:
        """Walks from the guess until the budget is exceeded at the left end and kept at the right one."""
        f_guess = self.excess(math.exp(guess))
        sign = 1.0 if f_guess > 0.0 else -1.0
        here, f_here, step = guess, f_guess, max(_TOLERANCE, min(abs(f_guess), 1.0))
        while True:
            there = here + sign * step
            f_there = self.excess(math.exp(there))
            if (f_there > 0.0) != (f_here > 0.0):
                return (here, f_here, there, f_there) if sign > 0 else (there, f_there, here, f_here)
            here, f_here, step = there, f_there, 2 * step
