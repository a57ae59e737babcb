"""Are probabilities what they say? Log-loss, the expected calibration error, and what mends both: a temperature and a share
for chance.

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
_MOST_NUMBERS = 4_000_000
_SEARCH_STEPS = 24
_SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True)
class Calibration:
    """How scores become probabilities: ``(1 - chance) softmax(scores / temperature) + chance / n`` over n unseen items.

    A softmax alone must call every item that a user might choose for no visible reason improbable in the same breath as it
    sharpens the head of the list: its log-loss is then rather of a temperature too high for the list. The share for chance
    pays for those.

    Attributes:
        temperature: positive; above 1 evens out, below 1 sharpens.
        chance: in [0, 1).

    Raises:
        DataError: the numbers are not such.
    """

    temperature: float = 1.0
    chance: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < math.inf:
            raise DataError(f"temperature must be positive and finite, got {self.temperature!r}")
        if not 0.0 <= self.chance < 1.0:
            raise DataError(f"chance must be at least 0 and below 1, got {self.chance!r}")


AS_THEY_ARE = Calibration()
"""The plain softmax."""


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
    scores: NDArray[np.floating], seen: Sequence[NDArray[np.int64]], calibration: Calibration = AS_THEY_ARE
) -> NDArray[np.float64]:
    """Probability of each item to be the next new one, over what a user has not seen; see :class:`Calibration`.

    Args:
        scores: [B, n_items], finite.
        seen: items of each user's history; they get 0.
        calibration: of these scores.

    Returns:
        [B, n_items], rows that add up to 1; zeros for a user who has seen every item.

    Raises:
        DataError: for scores that are not such.
    """
    if scores.ndim != 2 or len(seen) != len(scores) or not bool(np.isfinite(scores).all()):
        raise DataError(
            f"need finite scores [B, n_items] and B histories, got {scores.shape} and {len(seen)}"
        )
    unseen = unseen_scores(scores, seen)
    highest = unseen.max(axis=1, keepdims=True, initial=-np.inf)
    weights = np.exp((unseen - np.where(np.isfinite(highest), highest, 0.0)) / calibration.temperature)
    chosen = weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    is_new = np.isfinite(unseen)
    anything = is_new / np.maximum(is_new.sum(axis=1, keepdims=True), 1)
    return (1.0 - calibration.chance) * chosen + calibration.chance * anything


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


def fit_calibration(unseen: NDArray[np.floating], targets: NDArray[np.int64]) -> Calibration:
    """The temperature (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2) and the share for chance
    of least log-loss.

    For each share of a grid a golden-section search over the logarithm of the inverse temperature.

    Args:
        unseen: [B, n_items]; minus infinity excludes an item.
        targets: [B], what came next; users whose target is excluded do not count.

    Returns:
        A temperature in [1 / 20, 20]; the plain softmax where fewer than 10 users count.
    """
    users = np.flatnonzero(unseen[np.arange(len(targets)), targets] > -np.inf)
    if users.size < _FEWEST_USERS:
        return AS_THEY_ARE
    shifted = unseen[users] - unseen[users].max(axis=1, keepdims=True)
    target = shifted[np.arange(users.size), targets[users]].astype(np.float64)
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
