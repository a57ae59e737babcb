"""The calibration of least log-loss on what users chose next."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from recsys_models.metrics.calibration import (
    AS_THEY_ARE,
    HOTTEST,
    LIST_LENGTH,
    Calibration,
    calibrated,
    list_confidences,
    logit,
)

_FEWEST_USERS = 10
_MOST_NUMBERS = 4_000_000
_SEARCH_STEPS = 24
_SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_NEWTON_STEPS = 30
_GENTLEST, _STEEPEST, _FURTHEST = 0.0, 5.0, 10.0


def calibration_users(n_users: int, n_items: int) -> NDArray[np.int64]:
    """Evenly spaced users to fit a temperature on, as many as their scores may take memory."""
    count = min(n_users, max(_FEWEST_USERS, _MOST_NUMBERS // n_items))
    return (
        np.unique(np.linspace(0, n_users - 1, count).astype(np.int64)) if n_users else np.zeros(0, np.int64)
    )


def fit_calibration(
    unseen: NDArray[np.floating], targets: NDArray[np.int64], *, otherwise: Calibration = AS_THEY_ARE
) -> Calibration:
    """Temperature and share for chance of least log-loss; then slope and shift of the lists' confidences, kept where the
    log-loss is less with them.

    The temperature is that of Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.

    Args:
        unseen: [B, n_items]; minus infinity excludes an item.
        targets: [B], what came next; users whose target is excluded or whose scores overflow do not count.
        otherwise: what stands where fewer than 10 users count.

    Returns:
        A temperature in [1 / 20, 20]; or ``otherwise``.
    """
    # A user whose scores overflow is left out: a fit that fails would tell others that somebody has such items.
    is_sound = np.all(unseen < np.inf, axis=1)
    users = np.flatnonzero(is_sound & (unseen[np.arange(len(targets)), targets] > -np.inf))
    if users.size < _FEWEST_USERS:
        return otherwise
    counted, chosen = unseen[users], targets[users]
    mixed = _temperature_and_chance(counted, chosen)
    slope, shift = _slope_and_shift(counted, chosen, mixed)
    sloped = Calibration(mixed.temperature, mixed.chance, slope, shift)
    return min((mixed, sloped), key=lambda one: _log_loss(counted, chosen, one))


def _temperature_and_chance(unseen: NDArray[np.floating], targets: NDArray[np.int64]) -> Calibration:
    """For each share of a grid a golden-section search over the logarithm of the inverse temperature."""
    shifted = unseen - unseen.max(axis=1, keepdims=True)
    target = shifted[np.arange(len(shifted)), targets].astype(np.float64)
    anything = 1.0 / np.isfinite(shifted).sum(axis=1)

    def probability(log_inverse: float) -> NDArray[np.float64]:
        inverse = math.exp(log_inverse)
        return np.exp(inverse * target) / np.exp(inverse * shifted).sum(axis=1)

    def loss(chosen: NDArray[np.float64], chance: float) -> float:
        mixed = (1.0 - chance) * chosen + chance * anything
        return float(-np.log(np.maximum(mixed, np.finfo(np.float64).tiny)).mean())

    def best_for(chance: float) -> tuple[float, float]:
        low, high = -math.log(HOTTEST), math.log(HOTTEST)
        for _ in range(_SEARCH_STEPS):
            left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
            is_left = loss(probability(left), chance) <= loss(probability(right), chance)
            low, high = (low, right) if is_left else (left, high)
        at = (low + high) / 2.0
        return loss(probability(at), chance), at

    found = {chance: best_for(chance) for chance in _SHARES}
    chance = min(found, key=lambda share: (found[share][0], share))
    return Calibration(math.exp(-found[chance][1]), chance)


def _slope_and_shift(
    unseen: NDArray[np.floating], targets: NDArray[np.int64], calibration: Calibration
) -> tuple[float, float]:
    """Logistic regression of "the list held it" on the logit of its confidence, by Newton's method.

    A normal prior of deviation 1 around no change keeps a client with few users near it, and the numbers finite where all
    lists were right or all wrong.
    """
    listed = np.argsort(-unseen, axis=1, kind="stable")[:, :LIST_LENGTH]
    is_hit = (listed == targets[:, None]).any(axis=1).astype(np.float64)
    said = np.stack([logit(list_confidences(unseen, calibration)), np.ones(len(targets))], axis=1)
    start = np.array([1.0, 0.0])
    numbers = start
    for _ in range(_NEWTON_STEPS):
        probability = 1.0 / (1.0 + np.exp(-np.clip(said @ numbers, -30.0, 30.0)))
        gradient = said.T @ (probability - is_hit) + numbers - start
        curvature = (said * (probability * (1.0 - probability))[:, None]).T @ said + np.eye(2)
        numbers = numbers - np.linalg.solve(curvature, gradient)
    slope, shift = numbers
    return float(np.clip(slope, _GENTLEST, _STEEPEST)), float(np.clip(shift, -_FURTHEST, _FURTHEST))


def _log_loss(unseen: NDArray[np.floating], targets: NDArray[np.int64], calibration: Calibration) -> float:
    probability = calibrated(unseen, calibration)[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(probability, np.finfo(np.float64).tiny)).mean())
