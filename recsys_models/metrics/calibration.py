"""Are probabilities what they say? Log-loss, the expected calibration error, and what mends both: a temperature, a share for
chance, and how sure of its list a user's softmax may be.

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

LIST_LENGTH = 10
"""Of the lists whose confidence is calibrated and reported."""

_STEEPEST = 20.0
_BISECTIONS = 14
_SURE = 1e-6


@dataclass(frozen=True)
class Calibration:
    """How scores become probabilities: ``(1 - chance) softmax(scores / temperature) + chance / n`` over n unseen items.

    A softmax alone must call every item that a user might choose for no visible reason improbable in the same breath as it
    sharpens the head of the list: its log-loss is then rather of a temperature too high for the list. The share for chance
    pays for those.

    One temperature for all leaves those users' lists too sure whose scores happen to be steep. So where ``slope`` and ``shift``
    are given, each user's temperature is the one at which her ten best items hold ``sigmoid(slope logit(m) + shift)`` instead
    of m (the scaling of Platt, "Probabilistic Outputs for Support Vector Machines", 1999, of the confidence in a list). Within
    a user the order of the items stays.

    Attributes:
        temperature: positive; above 1 evens out, below 1 sharpens.
        chance: in [0, 1).
        slope: in [0, 20]; below 1, users differ less in how sure their lists are than their scores say.
        shift: in nats; below 0, all lists are less sure.

    Raises:
        DataError: the numbers are not such.
    """

    temperature: float = 1.0
    chance: float = 0.0
    slope: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < math.inf:
            raise DataError(f"temperature must be positive and finite, got {self.temperature!r}")
        if not 0.0 <= self.chance < 1.0:
            raise DataError(f"chance must be at least 0 and below 1, got {self.chance!r}")
        if not (0.0 <= self.slope <= _STEEPEST and -_STEEPEST <= self.shift <= _STEEPEST):
            raise DataError(
                f"slope and shift must be at most {_STEEPEST}, got {self.slope!r} and {self.shift!r}"
            )


AS_THEY_ARE = Calibration()
"""The plain softmax."""


def calibration_of_recall(recall: float) -> Calibration:
    """Every user's ten best items hold her next one with this probability, whatever her scores say of it.

    For clients that may fit nothing of their own: recall@10 as it was released costs nothing further, and a softmax of blended
    scores has no scale of its own. Who is easier to recommend to than others it does not say.

    Args:
        recall: recall@10, in (0, 1).
    """
    return Calibration(slope=0.0, shift=float(logit(np.array(recall))))


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
    return calibrated(unseen_scores(scores, seen), calibration)


def calibrated(unseen: NDArray[np.floating], calibration: Calibration) -> NDArray[np.float64]:
    """Probabilities [B, n_items] of scores with minus infinity at what each user has seen; see :class:`Calibration`."""
    highest = unseen.max(axis=1, keepdims=True, initial=-np.inf)
    shifted = (unseen - np.where(np.isfinite(highest), highest, 0.0)).astype(np.float64)
    temperatures = _temperatures(shifted, calibration)
    weights = np.exp(shifted / temperatures[:, None])
    chosen = weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    is_new = np.isfinite(shifted)
    anything = is_new / np.maximum(is_new.sum(axis=1, keepdims=True), 1)
    return (1.0 - calibration.chance) * chosen + calibration.chance * anything


def list_confidences(unseen: NDArray[np.floating], calibration: Calibration) -> NDArray[np.float64]:
    """How likely each user's ten best items are said to hold her next one, [B]."""
    width = min(LIST_LENGTH, unseen.shape[1])
    # The best by score are the best by probability.
    return np.partition(calibrated(unseen, calibration), unseen.shape[1] - width, axis=1)[:, -width:].sum(
        axis=1
    )


def logit(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """``log(p / (1 - p))``, of what is within a millionth of 0 or 1 that of the millionth."""
    inside = np.clip(probability, _SURE, 1.0 - _SURE)
    return np.log(inside) - np.log1p(-inside)


def _temperatures(shifted: NDArray[np.float64], calibration: Calibration) -> NDArray[np.float64]:
    """Each user's, [B]; ``shifted`` are her scores less the highest."""
    same = np.full(len(shifted), calibration.temperature)
    if (calibration.slope, calibration.shift) == (1.0, 0.0):
        return same
    items = np.isfinite(shifted).sum(axis=1)
    # Of ten items or fewer the list is all there is, whatever its temperature.
    can = items > LIST_LENGTH
    rows, items = shifted[can], items[can]
    if not len(rows):
        return same
    best = np.partition(rows, rows.shape[1] - LIST_LENGTH, axis=1)[:, -LIST_LENGTH:]

    def confidence(temperature: NDArray[np.float64]) -> NDArray[np.float64]:
        listed, all_of_them = (np.exp(part / temperature[:, None]).sum(axis=1) for part in (best, rows))
        return (1.0 - calibration.chance) * listed / all_of_them + calibration.chance * LIST_LENGTH / items

    wanted = calibration.slope * logit(confidence(same[can])) + calibration.shift
    # The confidence falls as the temperature rises, so halving finds it; out of reach it ends at the hottest or the coldest.
    low, high = np.full(len(rows), -math.log(HOTTEST)), np.full(len(rows), math.log(HOTTEST))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        too_sure = logit(confidence(calibration.temperature * np.exp(middle))) > wanted
        low, high = np.where(too_sure, middle, low), np.where(too_sure, high, middle)
    same[can] *= np.exp((low + high) / 2.0)
    return same


def unseen_scores(scores: NDArray[np.floating], seen: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """The scores [B, n_items] with minus infinity at what each user has seen."""
    unseen = scores.astype(np.float64)
    unseen[seen_cells(seen)] = -np.inf
    return unseen


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
