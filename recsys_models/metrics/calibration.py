"""Are probabilities what they say? Log-loss, the expected calibration error, and a temperature that mends both.

Probabilities are the softmax of a user's scores over the catalogue: what a recommender trained with a softmax
claims about the next item.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_models.errors import DataError
from recsys_models.metrics.ranking import seen_cells

HOTTEST = 20.0
"""Temperatures lie between its inverse and this."""

_FEWEST_USERS = 10
_MOST_NUMBERS = 20_000_000
_SEARCH_STEPS = 40
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def log_loss(scores: NDArray[np.floating], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """``-log softmax(scores)[target]`` of each user, in nats; ``log n_items`` for who knows nothing.

    Args:
        scores: [B, n_items]; minus infinity excludes an item.
        targets: [B], what came next.

    Returns:
        [B]; infinite where the target was excluded, since then it was said to be impossible.

    Raises:
        DataError: for shapes that do not fit, scores that are NaN or plus infinity, or a user of whom every
            item is excluded.
    """
    log_probability = _log_softmax(scores, targets)
    return -log_probability[np.arange(targets.size), targets]


def top_confidences(
    scores: NDArray[np.floating], targets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The probability each user's first recommendation was given, and whether it was right; for
    :func:`reliability`.

    Of several items with the highest score, the first counts. Arguments and errors as for :func:`log_loss`.
    """
    log_probability = _log_softmax(scores, targets)
    first = np.argmax(log_probability, axis=1)
    return np.exp(log_probability[np.arange(targets.size), first]), first == targets


def next_item_probabilities(
    scores: NDArray[np.floating], seen: Sequence[NDArray[np.int64]], *, temperature: float = 1.0
) -> NDArray[np.float64]:
    """Probability of each item to be the next new one: ``softmax(scores / temperature)`` over what a user has not seen.

    Args:
        scores: [B, n_items], finite.
        seen: items of each user's history; they get 0.
        temperature: positive; above 1 evens out, below 1 sharpens.

    Returns:
        [B, n_items], rows that add up to 1; zeros for a user who has seen every item.

    Raises:
        DataError: for a temperature or scores that are not such.
    """
    if not 0.0 < temperature < math.inf:
        raise DataError(f"temperature must be positive and finite, got {temperature!r}")
    if scores.ndim != 2 or len(seen) != len(scores) or not bool(np.isfinite(scores).all()):
        raise DataError(
            f"need finite scores [B, n_items] and B histories, got {scores.shape} and {len(seen)}"
        )
    unseen = unseen_scores(scores, seen)
    highest = unseen.max(axis=1, keepdims=True, initial=-np.inf)
    weights = np.exp((unseen - np.where(np.isfinite(highest), highest, 0.0)) / temperature)
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)


def unseen_scores(scores: NDArray[np.floating], seen: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """The scores [B, n_items] with minus infinity at what each user has seen."""
    unseen = scores.astype(np.float64)
    unseen[seen_cells(seen)] = -np.inf
    return unseen


def calibration_users(n_users: int, n_items: int) -> NDArray[np.int64]:
    """Evenly spaced users to fit a temperature on, as many as their scores may take memory."""
    count = min(n_users, max(_FEWEST_USERS, _MOST_NUMBERS // n_items))
    return (
        np.unique(np.linspace(0, n_users - 1, count).astype(np.int64)) if n_users else np.zeros(0, np.int64)
    )


def fit_temperature(unseen: NDArray[np.floating], targets: NDArray[np.int64]) -> float:
    """The temperature of least log-loss (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2).

    The log-loss is convex in the inverse temperature, so a golden-section search over its logarithm finds it.

    Args:
        unseen: [B, n_items]; minus infinity excludes an item.
        targets: [B], what came next; users whose target is excluded do not count.

    Returns:
        In [1 / 20, 20]; 1 where fewer than 10 users count.
    """
    users = np.flatnonzero(unseen[np.arange(len(targets)), targets] > -np.inf)
    if users.size < _FEWEST_USERS:
        return 1.0
    shifted = unseen[users] - unseen[users].max(axis=1, keepdims=True)
    target = shifted[np.arange(users.size), targets[users]]

    def loss(log_inverse: float) -> float:
        inverse = math.exp(log_inverse)
        normaliser = np.log(np.exp(inverse * shifted).sum(axis=1))
        return float((normaliser - inverse * target).mean())

    low, high = -math.log(HOTTEST), math.log(HOTTEST)
    for _ in range(_SEARCH_STEPS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    return math.exp(-(low + high) / 2.0)


def log_loss_cap(n_items: int) -> float:
    """What a user's log-loss is cut at where it must be bounded, in nats: 16 times rarer than a uniform guess."""
    return math.log(n_items) + math.log(16.0)


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: predictions in bins of equal width by their probability.

    Bins are sums over predictions, so those of several clients add up to that of all.

    Attributes:
        counts: [bins] predictions.
        probability_sums: [bins] sums of their probabilities.
        outcome_sums: [bins] how many came true.
    """

    counts: NDArray[np.float64]
    probability_sums: NDArray[np.float64]
    outcome_sums: NDArray[np.float64]

    def __add__(self, other: Reliability) -> Reliability:
        if self.counts.shape != other.counts.shape:
            raise DataError(f"bins differ: {self.counts.size} and {other.counts.size}")
        return Reliability(
            self.counts + other.counts,
            self.probability_sums + other.probability_sums,
            self.outcome_sums + other.outcome_sums,
        )

    def expected_calibration_error(self) -> float:
        """Mean over predictions of ``|share that came true - mean probability|`` of their bin (Guo et al., "On
        Calibration of Modern Neural Networks", ICML 2017, equation 3); 0 is perfect, 1 the worst.

        Raises:
            DataError: if there is no prediction.
        """
        total = self.counts.sum()
        if not total > 0:
            raise DataError("no prediction to calibrate")
        return float(np.abs(self.outcome_sums - self.probability_sums).sum() / total)


def reliability(
    probabilities: NDArray[np.floating], outcomes: NDArray[np.bool_], *, bins: int = 15
) -> Reliability:
    """Sorts predictions into ``bins`` bins ``[0, 1/bins), ..., [1 - 1/bins, 1]``.

    Args:
        probabilities: [n] in [0, 1].
        outcomes: [n], whether it happened.
        bins: number of bins; 15 as in Guo et al.

    Raises:
        DataError: for shapes that do not fit, or what is no probability.
    """
    if bins < 1:
        raise DataError(f"bins must be at least 1, got {bins}")
    if probabilities.ndim != 1 or outcomes.shape != probabilities.shape:
        raise DataError(f"need one outcome a probability, got {probabilities.shape} and {outcomes.shape}")
    claimed = np.asarray(probabilities, dtype=np.float64)
    if not bool(np.all((claimed >= 0.0) & (claimed <= 1.0))):
        raise DataError("probabilities must lie in [0, 1] and not be NaN")
    bin_of = np.minimum((claimed * bins).astype(np.int64), bins - 1)
    sums = np.zeros((3, bins))
    np.add.at(sums.T, bin_of, np.stack([np.ones_like(claimed), claimed, outcomes], axis=1))
    return Reliability(*sums)


def _log_softmax(scores: NDArray[np.floating], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise DataError(f"scores must be [B, n_items], got shape {scores.shape}")
    users, n_items = scores.shape
    if targets.shape != (users,) or (users and not (targets.min() >= 0 and targets.max() < n_items)):
        raise DataError(f"need one target in 0..{n_items - 1} for each of {users} users")
    if not bool(np.all(scores < np.inf)):
        raise DataError("scores contain NaN or infinity; the scorer is broken")
    highest = scores.max(axis=1, keepdims=True).astype(np.float64)
    if not bool(np.all(highest > -np.inf)):
        raise DataError("every item of a user is excluded; keep at least one")
    shifted = scores - highest
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
