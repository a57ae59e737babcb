"""What one user changes in each release: the same code over two logs that differ by her, with equal random draws.

Noise, negatives and positions are drawn from one stream that starts anew on both sides, and the audited user comes
last, so the draws of everybody else are equal and cancel in the difference. What remains is an integer vector.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from client.detail_evaluation import detail_contributions, user_detail
from client.encoder_fit import EncoderFit
from client.evaluation import (
    comparison_contributions,
    metric_contributions,
    preset_ranks,
    rank_targets,
)
from client.gradients import GradientTrainer
from client.statistics import popularity_contributions, statistics_contributions, subspace_sum
from privacy.bounded import BoundedSum, UserContributions
from privacy.randomness import SeededRandomness
from privacy.release_terms import ReleaseTerms
from privacy.rounded_once import reach_before_rounding
from recsys_models.release_shapes import detail_layout, trained_rows
from simulations.audits.engine import Engine, History, Rewindable

Integers = NDArray[np.int64]
Effect = Callable[[History], Integers]


@dataclass(frozen=True)
class PlainGradient:
    """One user's own gradient by plain autograd, beside what the engine adds for her.

    Attributes:
        effect: the engine's, integers.
        steps: autograd's, clipped, in grid steps.
    """

    effect: Integers
    steps: NDArray[np.float64]


def counted_effect(engine: Engine, terms: ReleaseTerms) -> Effect:
    """One user's effect on popularity, statistics, the comparison or metrics, noise included on both sides."""
    kind = terms.release.kind
    model = engine.model()

    def released(histories: list[History]) -> Integers:
        log = engine.log(histories)
        if kind == "statistics-subspace":
            return terms.add_share(subspace_sum(log, engine.public, terms), SeededRandomness(engine.seed))
        contributions: UserContributions
        if kind == "popularity":
            contributions = popularity_contributions(log, engine.n_items)
        elif kind == "statistics":
            contributions = statistics_contributions(log, engine.public, engine.settings, engine.plan.private)
        elif kind == "comparison":
            contributions = comparison_contributions(preset_ranks(model, log, engine.public, "validation"))
        elif kind == "metrics-detail":
            diversity = engine.settings["evaluation"]["diversity"]
            detail = user_detail(model, log, engine.public, "test", diversity=diversity)
            layout = detail_layout(engine.n_items, engine.plan.settings, engine.plan.private)
            contributions = detail_contributions(detail, layout)
        else:
            contributions = metric_contributions(rank_targets(model, log, engine.public, "test"))
        return terms.protect(contributions, SeededRandomness(engine.seed))

    without = released(engine.histories)
    return lambda user: released([*engine.histories, user]) - without


def numeric_effect(terms: ReleaseTerms) -> Callable[[NDArray[np.int64], NDArray[np.float64]], Integers]:
    """The effect of a row that no history makes: not a number, infinite, huge, tiny."""
    length = terms.length

    def released(indices: NDArray[np.int64], values: NDArray[np.float64]) -> Integers:
        ordinary = np.full(min(length, 8), terms.l2_clip_norm / 4)
        everything = UserContributions(
            np.concatenate([np.arange(ordinary.size), indices]),
            np.concatenate([ordinary, values]),
            np.array([0, ordinary.size, ordinary.size + indices.size]),
            length,
        )
        return terms.protect(everything, SeededRandomness(0))

    nothing = released(np.zeros(0, np.int64), np.zeros(0))
    return lambda indices, values: released(indices, values) - nothing


class GradientNeighbours:
    """One user's effect on a round of joint gradients, and the same from autograd.

    Args:
        engine: under audit.
        terms: of the gradient release.
        audited: the users to be added one at a time.
    """

    def __init__(self, engine: Engine, terms: ReleaseTerms, audited: list[History]) -> None:
        self._terms = terms
        self._public = engine.public
        trained = engine.settings["gradients"]
        self._width: int = trained["content_width"]
        self._trains_rows = trained_rows(trained["item_tower"], 1) > 0
        self._ordinary = np.arange(len(engine.histories))
        self._randomness = Rewindable(engine.seed)
        model = engine.model()
        self._plain = copy.deepcopy(model.recommender.encoder)
        self._trainer = GradientTrainer(
            model,
            lambda: [*engine.histories, *audited],
            engine.public,
            engine.settings,
            users=len(engine.histories),
            randomness=self._randomness,
        )
        self._without = self._sum(self._ordinary)

    def effect(self, position: int) -> PlainGradient:
        """Of the audited user at this position."""
        users = np.append(self._ordinary, len(self._ordinary) + position)
        changed = self._sum(users).values - self._without.values
        return PlainGradient(changed, self._autograd(users))

    def close(self) -> None:
        """Take the hooks off."""
        self._trainer.close()

    def _sum(self, users: NDArray[np.int64]) -> BoundedSum:
        self._randomness.rewind()
        return self._trainer.joint_sum(users, self._terms)

    def _autograd(self, users: NDArray[np.int64]) -> NDArray[np.float64]:
        self._randomness.rewind()
        batch = self._trainer.batch(users).select(torch.tensor([len(users) - 1]))
        table = torch.from_numpy(self._public.item_tower[self._public.head]).requires_grad_(True)
        filled = (batch.item_ids >= 0).unsqueeze(-1)
        vectors = table[batch.item_ids.clamp(min=0)] * filled
        moved: list[torch.Tensor] = [p for p in self._plain.parameters() if p.requires_grad]
        if self._width:
            change = torch.zeros(table.shape[1], self._width, requires_grad=True)
            content = torch.from_numpy(self._public.content[self._public.head])
            vectors = vectors + (content @ change.T)[batch.item_ids.clamp(min=0)] * filled
            moved.append(change)
        if self._trains_rows:
            moved.append(table)
        loss = batch(self._plain, vectors).sum()
        gradients = torch.autograd.grad(loss, moved, allow_unused=True, materialize_grads=True)
        flat = torch.cat([gradient.double().reshape(-1) for gradient in gradients]).numpy()
        norm = float(np.linalg.norm(flat))
        clip = self._trainer.round_clip(self._terms)
        reach = clip.norm
        if self._trainer.method == "ghost":
            reach = reach_before_rounding(clip.l2_bound, clip.unit, self._trainer.layer_parameters)
        clipped = flat * min(1.0, reach / max(norm, 1e-300)) / clip.unit
        return clipped if clip.joint is None else np.append(clipped, float(clip.count(np.array([norm]))))


class FitNeighbours:
    """One user's effect on a step of the encoder's fit."""

    def __init__(self, engine: Engine, terms: ReleaseTerms, audited: list[History]) -> None:
        self._terms = terms
        self._ordinary = np.arange(len(engine.histories))
        self._randomness = Rewindable(engine.seed)
        model = engine.model()
        self._fit = EncoderFit(
            model,
            lambda: [*engine.histories, *audited],
            engine.public,
            engine.settings,
            users=len(engine.histories),
            randomness=self._randomness,
        )
        self._module = self._fit.wrapped()
        self._without = self._sum(self._ordinary)

    def effect(self, position: int) -> Integers:
        """Of the audited user at this position."""
        return self._sum(np.append(self._ordinary, len(self._ordinary) + position)) - self._without

    def _sum(self, users: NDArray[np.int64]) -> Integers:
        self._randomness.rewind()
        return self._fit.clipped_sum(self._module, users, self._terms).values
