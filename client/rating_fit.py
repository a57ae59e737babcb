"""Ratings predicted beside the ranking, by a model of this client's own on frozen item vectors. Nothing of it is sent.

Mean and item deviations are of this client's ratings, a user's deviation is of hers alone, and a head adds what vectors
know. All without noise: for a client whose encoder is not protected from its own users either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.randomness import RandomSource
from recsys_models.data.sequences import Sequences
from recsys_models.ratings import RatingBiases, RatingHead, mean_squared_error

_POSITIONS = 50
_STEPS = 200
_LOOK_EVERY = 10
_LEARNING_RATE = 0.01
_WEIGHT_DECAY = 0.1
_FEWEST_TO_HOLD_OUT = 10


@dataclass(frozen=True)
class Rated:
    """What one user rated, oldest first.

    Attributes:
        items: catalogue indices.
        values: ratings, none of them NaN.
    """

    items: NDArray[np.int64]
    values: NDArray[np.float64]


def rated_users(sequences: Sequences, scale: tuple[float, float]) -> list[Rated]:
    """Every user's ratings, cut to the public scale; events without a rating are left out."""
    if sequences.values is None:
        return []
    users: list[Rated] = []
    for user in range(sequences.n_users):
        values = sequences.values[sequences.offsets[user] : sequences.offsets[user + 1]]
        there = np.isfinite(values)
        users.append(Rated(sequences.of(user)[there], np.clip(values[there], *scale)))
    return users


class RatingModel:
    """Predicts what a user of this client would rate an item.

    A user's vector is the sum of her rated items' vectors, each weighted by how much better she rated it than mean, item and
    she herself would have it: agreement with it is an item-based neighbourhood model in the tower's space.

    Args:
        dim: width of item vectors.
        scale: lowest and highest rating, public.
        biases: of this client's ratings.
    """

    def __init__(self, dim: int, scale: tuple[float, float], biases: RatingBiases) -> None:
        self.biases = biases
        self.head = RatingHead(dim, low=scale[0], high=scale[1])

    @torch.no_grad()
    def predict(
        self, rated: Rated, items: NDArray[np.int64], tower: NDArray[np.floating], *, by_bias: bool = False
    ) -> NDArray[np.float64]:
        """Ratings of these items by a user of this client.

        Args:
            rated: her ratings so far; none gives the items' means.
            items: to be rated.
            tower: item vectors ``[n_items, d]``, as published.
            by_bias: mean, item and user deviation alone, without what vectors add: the baseline.
        """
        vectors = _of_unit_size(tower)
        deviation, profile = self._after(rated, vectors)
        start = self.biases.mean + deviation[-1] + self.biases.items[items]
        start = np.clip(start, self.head.low, self.head.high)
        if by_bias:
            return start
        users = np.broadcast_to(profile[-1], (len(items), profile.shape[1]))
        return self.head(*_tensors(users, vectors[items], start)).double().numpy()

    def fit(self, users: list[Rated], tower: NDArray[np.floating], *, randomness: RandomSource) -> None:
        """AdamW steps on the squared error of each rating given what the user rated before it.

        A fifth of the users is held out; the head of the best look is kept, the untrained one if none was better.
        """
        users = [user for user in users if len(user.items) >= 2]
        if len(users) < _FEWEST_TO_HOLD_OUT:
            return
        vectors = _of_unit_size(tower)
        order = np.argsort(randomness.uniform(len(users)))
        held_out, training = (
            self._examples([users[u] for u in part], vectors) for part in np.split(order, [len(order) // 5])
        )
        optimizer = torch.optim.AdamW(self.head.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
        best, kept = self._error(held_out), _copy(self.head)
        for step in range(1, _STEPS + 1):
            optimizer.zero_grad()
            self._loss(training).backward()
            optimizer.step()
            if step % _LOOK_EVERY == 0 and (reached := self._error(held_out)) < best:
                best, kept = reached, _copy(self.head)
        self.head.load_state_dict(kept)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything, by name; :meth:`of_state` reads it."""
        biases = {
            "mean": np.array([self.biases.mean]),
            "sums": self.biases.sums,
            "counts": self.biases.counts,
        }
        scale = {"scale": np.array([self.head.low, self.head.high])}
        arrays = {name: torch.from_numpy(array) for name, array in (biases | scale).items()}
        return arrays | _copy(self.head)

    @staticmethod
    def of_state(state: dict[str, torch.Tensor]) -> RatingModel:
        """What :meth:`state` gave."""
        mean, sums, counts, scale = (state.pop(name).numpy() for name in ("mean", "sums", "counts", "scale"))
        dim = state["linear.weight"].shape[1] // 2
        model = RatingModel(
            dim, (float(scale[0]), float(scale[1])), RatingBiases(float(mean[0]), sums, counts)
        )
        model.head.load_state_dict(state)
        return model

    def _after(
        self, rated: Rated, vectors: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Her deviation and vector after none, one, two, ... of her ratings: [n + 1] and [n + 1, d]."""
        residuals = rated.values - self.biases.mean - self.biases.without(rated.items, rated.values)
        deviation = np.concatenate([[0.0], self.biases.user(residuals)])
        hers = vectors[rated.items]
        count = np.arange(len(residuals) + 1)[:, None]
        weighted = np.concatenate(
            [np.zeros((1, hers.shape[1])), np.cumsum(residuals[:, None] * hers, axis=0)]
        )
        plain = np.concatenate([np.zeros((1, hers.shape[1])), np.cumsum(hers, axis=0)])
        return deviation, (weighted - deviation[:, None] * plain) / np.sqrt(np.maximum(count, 1))

    def _examples(self, users: list[Rated], vectors: NDArray[np.float64]) -> tuple[torch.Tensor, ...]:
        """[users, vectors, starts, ratings] at each user's newest positions, padded at the end; and which are real."""
        parts: list[list[NDArray[np.float64]]] = []
        for rated in users:
            deviation, profile = self._after(rated, vectors)
            first = max(1, len(rated.items) - _POSITIONS)
            item = self.biases.without(rated.items, rated.values)[first:]
            start = self.biases.mean + deviation[first:-1] + item
            parts.append([profile[first:-1], vectors[rated.items[first:]], start, rated.values[first:]])
        width = max(len(part[3]) for part in parts)
        padded = [np.stack([_padded(part[k], width) for part in parts]) for k in range(4)]
        valid = np.stack([np.arange(width) < len(part[3]) for part in parts])
        return (*_tensors(*padded), torch.from_numpy(valid))

    def _loss(self, examples: tuple[torch.Tensor, ...]) -> torch.Tensor:
        users, items, start, rating, valid = examples
        return mean_squared_error(self.head(users, items, start), rating, valid_BL=valid).mean()

    @torch.no_grad()
    def _error(self, examples: tuple[torch.Tensor, ...]) -> float:
        return float(self._loss(examples))


def fitted_rating_model(
    sequences: Sequences, tower: NDArray[np.floating], scale: tuple[float, float], *, randomness: RandomSource
) -> RatingModel | None:
    """Biases and head from these users' ratings; None where there is no rating."""
    users = rated_users(sequences, scale)
    if not any(len(user.items) for user in users):
        return None
    items = np.concatenate([user.items for user in users])
    values = np.concatenate([user.values for user in users])
    model = RatingModel(tower.shape[1], scale, RatingBiases.of(items, values, len(tower)))
    model.fit(users, tower, randomness=randomness)
    return model


def _of_unit_size(tower: NDArray[np.floating]) -> NDArray[np.float64]:
    vectors = np.asarray(tower, dtype=np.float64)
    size = float(np.sqrt(np.mean(vectors**2)))
    return vectors / size if size > 0.0 else vectors


def _padded(array: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    return np.pad(array, [(0, width - len(array))] + [(0, 0)] * (array.ndim - 1))


def _tensors(*arrays: NDArray[np.float64]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)) for array in arrays)


def _copy(head: RatingHead) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in head.state_dict().items()}
