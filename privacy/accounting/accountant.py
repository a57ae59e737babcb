"""What a list of releases costs: epsilon, computed twice.

First opinion: privacy loss distributions (Koskela, Jälkö, Honkela 2020; connect-the-dots discretisation of
Doroshenko et al., "Connect the Dots", PETS 2022, which never understates), by Google's ``dp_accounting``.
Unsampled Gaussians are first merged into one, exactly, by adding mu^2.

Second opinion: the closed formula where nothing was sampled, otherwise a Rényi bound, which can only be
larger. The central limit approximation ("GDP accountant") is not offered: it understates by up to a third at
small noise.

Everything is user-level, for adding or removing one user. ``dp_accounting`` takes a second to import and is
loaded on the first question.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from privacy.accounting.analytic_gaussian import check_delta, gaussian_delta, gaussian_epsilon
from privacy.accounting.events import ReleaseEvent
from privacy.errors import InputError, LedgerError

_AGREEMENT = 0.02  # relative difference at which two correct accountants would have surprised us
_NO_PRIVACY_MU = 1000.0  # epsilon beyond 5e5: not worth a distribution, and called infinite


@dataclass(frozen=True)
class _Profile:
    """What matters of a list of events: their order and names do not.

    Attributes:
        mu: of all unsampled Gaussians together.
        sampled: (sampling probability, noise multiplier, count), sorted.
    """

    mu: float
    sampled: tuple[tuple[float, float, int], ...]

    @property
    def reach(self) -> float:
        """An upper bound on the mu of the whole, as if nothing had been sampled."""
        return math.hypot(self.mu, *(_mu(noise, count) for _, noise, count in self.sampled))

    @property
    def central_limit_mu(self) -> float:
        """A rough mu for grids and first guesses, never for a claim (Dong, Roth, Su 2022, Theorem 5.1)."""
        steps = (q * math.sqrt(n * math.expm1(min(_mu(z, 1) ** 2, 100.0))) for q, z, n in self.sampled)
        return math.hypot(self.mu, *steps)


def epsilon(events: Sequence[ReleaseEvent], target_delta: float) -> float:
    """Returns the epsilon of all the events together at ``target_delta``.

    ==============================  ==============================================
    events                          epsilon
    ==============================  ==============================================
    none                            0
    one without noise               inf
    so little noise that mu > 1000  inf (the true value exceeds 10^5)
    any others                      an upper bound, less than 0.1 % above the truth
    ==============================  ==============================================

    Raises:
        InputError: ``target_delta`` is not in (0, 1).
    """
    check_delta(target_delta)
    return _pld_epsilon(_profile(events), target_delta)


def delta(events: Sequence[ReleaseEvent], epsilon: float) -> float:
    """Returns the delta of all the events together at ``epsilon``; no events cost 0.

    Raises:
        InputError: ``epsilon`` is NaN or negative.
    """
    if not epsilon >= 0.0:
        raise InputError(f"epsilon={epsilon} must be non-negative")
    profile = _profile(events)
    if not profile.sampled:
        return gaussian_delta(profile.mu, epsilon)
    if profile.reach > _NO_PRIVACY_MU:
        return 1.0
    return float(_pld(profile).get_delta_for_epsilon(epsilon))


def gdp_mu(events: Sequence[ReleaseEvent]) -> float | None:
    """Returns the mu of Gaussian differential privacy; None, for want of an exact one, if any was sampled."""
    profile = _profile(events)
    return None if profile.sampled else profile.mu


def central_limit_mu(events: Sequence[ReleaseEvent]) -> float:
    """Returns a rough mu, exact only without sampling: for a first guess, never a figure to state."""
    return _profile(events).central_limit_mu


def epsilon_second_opinion(events: Sequence[ReleaseEvent], target_delta: float) -> float:
    """Returns epsilon by another method: exact without sampling, an upper bound (Rényi) with it.

    Raises:
        InputError: ``target_delta`` is not in (0, 1).
    """
    check_delta(target_delta)
    profile = _profile(events)
    if not profile.sampled:
        return gaussian_epsilon(profile.mu, target_delta)
    return _rdp_epsilon(profile, target_delta)


def cross_check(events: Sequence[ReleaseEvent], target_delta: float) -> float:
    """Returns ``epsilon(events, target_delta)`` if two accountants agree on it.

    Raises:
        LedgerError: PLD exceeds the second opinion by more than 2 %, or falls by that much below the cost of
            what was not sampled (which is all of it, or a part).
        InputError: ``target_delta`` is not in (0, 1).
    """
    first = epsilon(events, target_delta)
    second = epsilon_second_opinion(events, target_delta)
    profile = _profile(events)
    least = gaussian_epsilon(profile.mu, target_delta)
    if first == math.inf and profile.reach > _NO_PRIVACY_MU:
        return first
    slack = 1e-4  # absolute: near epsilon 0 a grid cannot agree to 2 %
    if not least * (1 - _AGREEMENT) - slack <= first <= second * (1 + _AGREEMENT) + slack:
        raise LedgerError(
            f"two accountants disagree at delta {target_delta:g}: epsilon {first:.6g} by PLD, {second:.6g} "
            f"by another, at least {least:.6g} for what was not sampled; release nothing on such a figure"
        )
    return first


def _mu(noise_multiplier: float, count: int) -> float:
    return math.sqrt(count) / noise_multiplier if noise_multiplier > 0.0 else math.inf


def _profile(events: Sequence[ReleaseEvent]) -> _Profile:
    sampled: Counter[tuple[float, float]] = Counter()
    mus: list[float] = []
    for event in events:
        if event.sampling_probability < 1.0:
            sampled[event.sampling_probability, event.noise_multiplier] += event.count
        else:
            mus.append(_mu(event.noise_multiplier, event.count))
    return _Profile(math.hypot(*sorted(mus)), tuple(sorted((q, z, n) for (q, z), n in sampled.items())))


@lru_cache(maxsize=4096)
def _pld_epsilon(profile: _Profile, target_delta: float) -> float:
    if profile.reach == 0.0:
        return 0.0
    if profile.reach > _NO_PRIVACY_MU:
        return math.inf
    return float(_pld(profile).get_epsilon_for_delta(target_delta))


def _pld(profile: _Profile) -> Any:
    """Composes the privacy loss distribution of the whole profile."""
    from dp_accounting.pld import privacy_loss_distribution  # pyright: ignore[reportMissingTypeStubs]

    grid = _loss_grid(profile)
    parts: list[Any] = []
    if profile.mu > 0.0:
        parts.append(
            privacy_loss_distribution.from_gaussian_mechanism(
                1 / profile.mu, value_discretization_interval=grid
            )
        )
    for probability, noise, count in profile.sampled:
        one = privacy_loss_distribution.from_gaussian_mechanism(
            noise, sampling_prob=probability, value_discretization_interval=grid
        )
        parts.append(one.self_compose(count))
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.compose(part)
    return whole


def _loss_grid(profile: _Profile) -> float:
    """Chooses the grid of privacy losses: 1e-3 for losses of about 1, finer for smaller, coarser for larger
    ones.

    One Gaussian on a grid of 1e-3 mu is off by 1e-7. Sampled steps add up their errors, to below 0.1 %.
    """
    if not profile.sampled:
        return 1e-3 * max(profile.mu, 1e-3)
    largest_step_mu = max(profile.mu, *(1 / z for _, z, _ in profile.sampled))
    return 1e-3 * min(1.0, max(0.3, profile.central_limit_mu)) * max(1.0, largest_step_mu / 10.0)


@lru_cache(maxsize=4096)
def _rdp_epsilon(profile: _Profile, target_delta: float) -> float:
    from dp_accounting import (  # pyright: ignore[reportMissingTypeStubs]
        GaussianDpEvent,
        PoissonSampledDpEvent,
    )
    from dp_accounting.rdp import rdp_privacy_accountant  # pyright: ignore[reportMissingTypeStubs]

    if profile.reach > _NO_PRIVACY_MU:
        return math.inf
    # Whole orders have an exact finite sum; the series for fractional ones does not always converge.
    accountant = rdp_privacy_accountant.RdpAccountant(
        orders=[*range(2, 64), 80, 96, 128, 192, 256, 512, 1024]
    )
    if profile.mu > 0.0:
        accountant.compose(GaussianDpEvent(1 / profile.mu))
    for probability, noise, count in profile.sampled:
        accountant.compose(PoissonSampledDpEvent(probability, GaussianDpEvent(noise)), count)
    return float(accountant.get_epsilon(target_delta))
