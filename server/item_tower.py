"""The server's half of releases 1 to 3: from sums to published arrays. Post-processing of noised sums, so it costs nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from privacy.mechanisms.joint_clip import JointClip
from privacy.release_terms import ReleaseTerms
from privacy.wire.federation import Arrays
from recsys_models.item_towers.factorisation import (
    denoise_transitions,
    tower_from_gram,
    tower_from_transitions,
)
from recsys_models.release_shapes import statistics_layout
from recsys_models.retrieval.transitions import PRIOR_TOTAL, SmoothTransitions, TransitionReadings, from_head
from recsys_models.statistics import split_statistics

Float = NDArray[np.float64]

SCORE_NORM = 3.0
"""Mean norm of item vectors: dot products of order 9, which a softmax can tell apart."""


def popularity_arrays(total: Float, head: int) -> Arrays:
    """Popularity, and the ``head`` most popular items, from the released histogram."""
    order = np.argsort(-total, kind="stable")[:head]
    return {"popularity": total.astype(np.float32), "head": np.sort(order).astype(np.int64)}


def statistics_arrays(
    total: Float, noise_sd: float, head: NDArray[np.int64], n_items: int, settings: Any
) -> Arrays:
    """Item tower and both transition readings from the released statistics; no tower where a subspace gives it.

    The tower is made of the Gram part where the plan gives it a share, else of the transitions themselves.

    Args:
        total: ``[layout.length]`` the sum as released.
        noise_sd: standard deviation of the noise in each cell, as executed.
        head: catalogue indices of the head items.
        n_items: size of the catalogue.
        settings: the plan's settings.
    """
    layout = statistics_layout(len(head), settings, private=noise_sd > 0.0)
    gram, transitions = split_statistics(total, layout)
    dim = int(settings["dim"])
    transition_sd = noise_sd / max(layout.transition_weight, 1e-12)
    prior_total = 0.0 if layout.normalised else PRIOR_TOTAL
    denoised = denoise_transitions(transitions, transition_sd, prior_total=prior_total)
    factors = (whole_tower(part, head, n_items) for part in (denoised.left, denoised.right))
    readings = TransitionReadings(from_head(denoised.sparse, head, n_items), SmoothTransitions(*factors))
    arrays: Arrays = readings.to_arrays()
    if settings["subspace_rank"]:
        return arrays
    if layout.gram_length:
        gram_sd = noise_sd / layout.gram_weight / float(np.sqrt(2.0))
        rows = tower_from_gram(gram, gram_sd, dim, score_norm=SCORE_NORM)
    else:
        rows = tower_from_transitions(transitions, transition_sd, dim, score_norm=SCORE_NORM)
    return {**arrays, "item_tower": whole_tower(rows, head, n_items)}


def whole_tower(rows: Float, head: NDArray[np.int64], n_items: int) -> NDArray[np.float32]:
    """Rows of the head items in a tower of the whole catalogue; other items have no vector yet (zeros)."""
    tower = np.zeros((n_items, rows.shape[1]), dtype=np.float32)
    tower[head] = rows
    return tower


def tower_sha256(tower: NDArray[np.float32]) -> str:
    """Hex hash of an item tower: shape and little-endian float32 data."""
    return hashlib.sha256(repr(tower.shape).encode() + tower.astype("<f4").tobytes()).hexdigest()


def random_tower(head: NDArray[np.int64], n_items: int, dim: int, seed: int) -> NDArray[np.float32]:
    """A random start for training without statistics: independent of all data, so any seed may be public."""
    rows = np.random.default_rng(seed).normal(size=(len(head), dim))
    return whole_tower(rows * (SCORE_NORM / np.sqrt(dim)), head, n_items)


class RoundClips:
    """The clip norm of each gradient round: fixed, or moved by the count that each round's sum ends with.

    Args:
        terms: of the release.
        gradients: the plan's settings of that name.
        expected_users: public, positive.
    """

    def __init__(self, terms: ReleaseTerms, gradients: Mapping[str, Any], expected_users: float) -> None:
        self._joint = JointClip.agreed(terms.l2_bound, gradients)
        self._unit = terms.unit
        self._expected_users = expected_users
        self._norm = float(gradients["l2_clip_norm"])
        self._path: list[float] = []

    @property
    def parameters(self) -> dict[str, Any]:
        """What a round's task says besides its step."""
        return {} if self._joint is None else {"l2_clip_norm": self._norm}

    @property
    def path(self) -> list[float]:
        """Norms of the rounds so far, where they move."""
        return list(self._path)

    def gradient(self, released: NDArray[np.int64]) -> Float:
        """The sum of clipped gradients that a round released, flat, in their own units; moves the norm.

        Args:
            released: the secure sum, in grid steps.
        """
        if self._joint is None:
            return np.multiply(released, self._unit, dtype=np.float64)
        self._path.append(self._norm)
        gradient = np.multiply(released[:-1], self._joint.unit(self._norm), dtype=np.float64)
        self._norm = self._joint.after(self._norm, float(released[-1]), self._expected_users)
        return gradient


@dataclass
class TowerOptimizer:
    """The server optimiser on rows: FedAvg (plain step) or FedAdam (Reddi et al. 2021, Algorithm 2).

    Attributes:
        kind: "fedavg" or "fedadam".
        learning_rate: of a step on the mean gradient per expected user.
        beta1, beta2, tau: FedAdam's, with the paper's defaults.
    """

    kind: Literal["fedavg", "fedadam"]
    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    _mean: Float | None = None
    _square: Float | None = None

    def step(self, rows: Float, gradient: Float) -> Float:
        """Move rows ``[K, d]`` against the mean gradient of the same shape."""
        if self.kind == "fedavg":
            return rows - self.learning_rate * gradient
        if self._mean is None or self._square is None:
            self._mean, self._square = np.zeros_like(rows), np.zeros_like(rows)
        self._mean = self.beta1 * self._mean + (1.0 - self.beta1) * gradient
        self._square = self.beta2 * self._square + (1.0 - self.beta2) * gradient**2
        return rows - self.learning_rate * self._mean / (np.sqrt(self._square) + self.tau)
