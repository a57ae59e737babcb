"""From a scenario and public facts to the plan that clients agree to.

Public facts are the number of items, the number of clients, their enrolled (rounded) numbers of users, epsilon and delta.
Nothing here is tuned on the data: every default is a formula in these facts, so choosing them costs no budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from privacy.accounting.calibration import gaussian_mu
from privacy.accounting.plan import FederationPlan, choose_noise
from privacy.accounting.schedule import ScheduledRelease, fit_to_budget
from privacy.errors import InputError
from privacy.wire.federation import most_behind
from recsys_models.metrics.detail import DetailLayout
from recsys_models.negatives import FULL_SOFTMAX_ITEMS
from recsys_models.release_shapes import content_width
from recsys_models.retrieval.presets import first_preset
from server.scenario import Scenario

DENSE_LIMIT = 4000
"""Most head items of a dense matrix: 24 million cells of Gram and transitions, 200 MB in 64-bit words."""

_DETAIL_FROM_USERS = 5000
_REFERENCE_RECALL = 0.15


def make_plan(
    scenario: Scenario,
    *,
    session: str,
    users_of: Mapping[str, int],
    n_items: int,
    catalogue_sha256: str,
    popularity_is_known: bool = False,
) -> FederationPlan:
    """The plan of one federation.

    Args:
        scenario: what is asked for.
        session: hex.
        users_of: enrolled number of users by client id.
        n_items: size of the catalogue.
        catalogue_sha256: hex.
        popularity_is_known: a resumed run has popularity and head items of the run before it, and releases neither.

    Raises:
        InputError: the scenario cannot be planned for these clients.
    """
    if len(users_of) < scenario.federation.min_clients:
        raise InputError(
            f"{len(users_of)} clients enrolled; federation.min_clients = {scenario.federation.min_clients}: start more "
            "clients (secure aggregation protects nobody among fewer than 3)"
        )
    users = sum(users_of.values())
    releases = _releases(scenario, users, n_items, popularity_is_known)
    _check_map(scenario, users)
    if scenario.private:
        _check_fixed_noise(scenario, releases)
        fixed = scenario.privacy.noise_multipliers
        releases = tuple(replace(r, noise_multiplier=fixed.get(r.name)) for r in releases)
        releases = fit_to_budget(releases, scenario.privacy.epsilon, scenario.privacy.delta)
    else:
        releases = tuple(replace(r, noise_multiplier=0.0, sampling_probability=1.0) for r in releases)
    noise, colluding = choose_noise(scenario.privacy.noise, len(users_of), scenario.privacy.colluding)
    return FederationPlan(
        session=session,
        cohort=tuple(sorted(users_of)),
        releases=releases,
        epsilon=scenario.privacy.epsilon,
        target_delta=scenario.privacy.delta,
        private=scenario.private,
        noise=noise,
        colluding=colluding,
        protect_within_client=scenario.privacy.protect_within_client,
        catalogue_sha256=catalogue_sha256,
        max_users=most_behind(max(users_of.values())),
        settings=_settings(scenario, users, n_items),
    )


def _releases(
    scenario: Scenario, users: int, n_items: int, popularity_is_known: bool
) -> tuple[ScheduledRelease, ...]:
    shares = scenario.shares
    with_statistics = scenario.recipe in ("statistics", "hybrid")
    with_gradients = has_gradient_rounds(scenario, users)
    fit_is_charged = scenario.private and scenario.privacy.protect_within_client and fit_steps(scenario) > 0
    releases: list[ScheduledRelease] = []
    if not popularity_is_known:
        releases.append(ScheduledRelease("popularity", "popularity", popularity_share(scenario, users)))
    if with_statistics:
        releases += _statistics_releases(scenario, users, n_items)
        releases.append(ScheduledRelease("metrics-statistics", "comparison", shares.metrics * 0.35))
    if with_gradients:
        # Without statistics the gradients do their work too.
        share = shares.gradients + (0.0 if with_statistics else shares.statistics)
        releases.append(
            ScheduledRelease(
                "gradients",
                "gradients",
                share,
                steps=gradient_rounds(scenario),
                local_steps=scenario.gradients.local_steps,
                sampling_probability=scenario.gradients.sampling_probability,
            )
        )
        releases.append(ScheduledRelease("metrics-gradients", "comparison", shares.metrics * 0.15))
    if fit_is_charged:
        releases.append(
            ScheduledRelease(
                "fit",
                "fit",
                shares.fit,
                steps=fit_steps(scenario),
                sampling_probability=scenario.fit.sampling_probability,
                left_the_client=False,
            )
        )
    releases.append(ScheduledRelease("metrics-final", "metrics", shares.metrics * 0.5))
    if _detail_is_on(scenario, users, sum(release.share for release in releases)):
        releases.append(ScheduledRelease("metrics-detail", "metrics-detail", shares.metrics_detail))
    return tuple(releases)


def has_gradient_rounds(scenario: Scenario, users: int) -> bool:
    """Whether so many enrolled users make gradient rounds under this scenario."""
    if scenario.recipe == "hybrid":
        return users >= scenario.gradients.min_users
    return scenario.recipe == "gradients"


def notices(scenario: Scenario, users: int) -> list[str]:
    """What was asked for and is not used, a line each, with the cure; none where everything counts.

    Args:
        scenario: what was asked for.
        users: enrolled.
    """
    asked = scenario.gradients.asked
    if not asked or has_gradient_rounds(scenario, users):
        return []
    return [
        f"Not used: {asked}. recipe = 'hybrid' has gradient rounds from gradients.min_users = "
        f"{scenario.gradients.min_users:,} users on, here {users:,} are enrolled; gradients.min_users = 0 or recipe = "
        "'gradients' makes them."
    ]


def popularity_share(scenario: Scenario, users: int) -> float:
    """Share of mu^2 for the popularity release: 0.08, more where n mu is below 1,100, never above 0.4.

    Popularity picks the head, and is the fallback of everything. On MovieLens-100K at epsilon = 1 (n mu = 250) recall@10 before
    any fit rises from 0.089 to 0.100 with 0.2 and to 0.101 with 0.4; at epsilon = 4 it stays at 0.133 with 0.2, and at 8 it
    falls from 0.145 to 0.140 (prototype, five or six noise draws).
    """
    if scenario.shares.popularity is not None:
        return scenario.shares.popularity
    return min(0.4, 0.08 * max(1.0, 1100.0 / (users * _mu(scenario))))


def _statistics_releases(scenario: Scenario, users: int, n_items: int) -> list[ScheduledRelease]:
    method = statistics_method(scenario, users, n_items)
    share, gram_share = scenario.shares.statistics, _gram_share(scenario, method)
    if method == "matrix":
        return [ScheduledRelease("statistics", "statistics", share)]
    releases: list[ScheduledRelease] = []
    if gram_share < 1.0:
        releases.append(ScheduledRelease("statistics", "statistics", share * (1.0 - gram_share)))
    if gram_share > 0.0:
        releases.append(
            ScheduledRelease(
                "statistics-subspace",
                "statistics-subspace",
                share * gram_share,
                steps=scenario.statistics.subspace_rounds,
            )
        )
    return releases


def _detail_is_on(scenario: Scenario, users: int, other_shares: float) -> bool:
    if scenario.evaluation.detail == "auto":
        return not scenario.private or users >= detail_from_users(scenario, other_shares)
    return scenario.evaluation.detail == "on"


def detail_from_users(scenario: Scenario, other_shares: float) -> float:
    """Enrolled users from which the noise of the detailed metrics says no less than the sampling of users does.

    Recall@10 of a group of n / G users is a sum of three cells over that number: its noise has the half-width
    1.96 sqrt(3) z S G / n (S the L2 bound, z the noise multiplier), its sampling 1.96 sqrt(p (1 - p) G / n). They are
    equal at n = 3 G z^2 S^2 / (p (1 - p)); with p = 0.15 this is about 5,000 at epsilon = 8 and 190,000 at epsilon = 1.
    Never below 5,000.

    Args:
        scenario: its budget, shares and groups.
        other_shares: of mu^2, together, of the plan's other releases.
    """
    share = scenario.shares.metrics_detail
    if share == 0.0:
        return math.inf
    mu = gaussian_mu(scenario.privacy.epsilon, scenario.privacy.delta)
    squared_multiplier = (other_shares + share) / share / mu**2
    # The bound is the same for every catalogue; only its grid is needed.
    layout = DetailLayout(1, scenario.evaluation.group_bounds, 2.0**-10)
    variance = _REFERENCE_RECALL * (1.0 - _REFERENCE_RECALL)
    equal = 3.0 * layout.n_groups * squared_multiplier * layout.l2_bound**2 / variance
    return max(float(_DETAIL_FROM_USERS), equal)


def gradient_rounds(scenario: Scenario) -> int:
    """Rounds of the gradient release: few beside statistics, many where they do all the work."""
    if scenario.gradients.rounds is not None:
        return scenario.gradients.rounds
    return 10 if scenario.recipe == "hybrid" else 40


def fit_steps(scenario: Scenario) -> int:
    """Noisy steps of the encoder's local fit."""
    return 20 if scenario.fit.steps is None else scenario.fit.steps


def head_items(scenario: Scenario, users: int, n_items: int) -> int:
    """How many popular items the statistics cover.

    The K by K noise grows with K and its signal with the number of users and with epsilon, so K grows like the users and,
    slowly, with epsilon: K = n / 6 at epsilon = 8 (measured on generated logs, ``docs/evaluation.md``).
    """
    wanted = _wanted_head(scenario, users, n_items)
    return min(wanted, DENSE_LIMIT) if scenario.statistics.head is None else wanted


def statistics_method(scenario: Scenario, users: int, n_items: int) -> Literal["matrix", "subspace"]:
    """How the item tower is found: by the subspace where more items deserve one than a dense matrix can hold.

    Without noise that is a catalogue above ``DENSE_LIMIT``; with it, besides, so many users that the noise would allow a head
    above it (24,000 at epsilon = 8).
    """
    if scenario.statistics.method != "auto":
        return scenario.statistics.method
    return "subspace" if _wanted_head(scenario, users, n_items) > DENSE_LIMIT else "matrix"


def _gram_share(scenario: Scenario, method: Literal["matrix", "subspace"]) -> float:
    """Transitions give the tower as well, where they cover its items; the subspace is there for the items they do not."""
    if scenario.statistics.gram_share is not None:
        return scenario.statistics.gram_share
    return 0.0 if method == "matrix" else 0.5


def _wanted_head(scenario: Scenario, users: int, n_items: int) -> int:
    """The head that noise allows, or that was asked for, whatever it costs to send."""
    if scenario.statistics.head is not None:
        return min(scenario.statistics.head, n_items)
    if not scenario.private:
        return n_items
    wanted = users / 6 * math.sqrt(scenario.privacy.epsilon / 8.0)
    return max(2, min(n_items, max(50, round(wanted))))


def _settings(scenario: Scenario, users: int, n_items: int) -> dict[str, object]:
    private, size = scenario.private, scenario.encoder_size
    head = head_items(scenario, users, n_items)
    if scenario.gradients.loss == "softmax" and head > FULL_SOFTMAX_ITEMS:
        raise InputError(
            f"gradients.loss = 'softmax' over {head:,} items: every user's gradient then has a row for each of them, and more "
            f"than {FULL_SOFTMAX_ITEMS:,} do not fit; use 'sampled-softmax' or a smaller statistics.head"
        )
    is_subspace = statistics_method(scenario, users, n_items) == "subspace"
    rank = scenario.statistics.subspace_rank or size.dim + 8
    return {
        "encoder": scenario.encoder,
        "dim": size.dim,
        "max_length": scenario.model.max_length,
        "blocks": size.blocks,
        "heads": size.heads,
        "dropout": size.dropout,
        "reranker": scenario.model.reranker,
        "rating_scale": None if scenario.model.rating_scale is None else list(scenario.model.rating_scale),
        "head": head,
        # The Gram part then has releases of its own.
        "gram_share": 0.0 if is_subspace else _gram_share(scenario, "matrix"),
        "subspace_rank": min(rank, n_items) if is_subspace else 0,
        "orders": scenario.statistics.orders,
        "decay": scenario.statistics.decay,
        "users": users,
        "blend": first_preset(users, _mu(scenario)),
        "per_user_gradients": scenario.privacy.per_user_gradients,
        "gradients": {
            "loss": scenario.gradients.loss,
            "calibration": scenario.gradients.calibration,
            "negatives": scenario.gradients.negatives,
            # Off means off: a bound far above any gradient, kept only because integers need one.
            "l2_clip_norm": scenario.gradients.l2_clip_norm if private else 1024.0,
            # Without noise there is nothing to trade a clip norm against, and a count would be exact.
            "adaptive_clip": scenario.gradients.adaptive_clip and private,
            "target_quantile": scenario.gradients.target_quantile,
            "clip_rate": scenario.gradients.clip_rate,
            "sampling_probability": scenario.gradients.sampling_probability if private else 1.0,
            "client_learning_rate": scenario.gradients.client_learning_rate,
            "local_learning_rate": scenario.gradients.local_learning_rate,
            "item_tower": scenario.model.item_tower,
            "content_width": 0 if scenario.model.item_tower == "ids" else content_width(n_items),
        },
        "fit": {
            "steps": fit_steps(scenario),
            "l2_clip_norm": scenario.fit.l2_clip_norm,
            "learning_rate": scenario.fit.learning_rate or _fit_learning_rate(scenario),
            "epochs": scenario.fit.epochs,
            "batch_users": 64,
            "dropout": scenario.fit.dropout,
            "own_items": scenario.fit.own_items,
        },
        "evaluation": {
            "group_bounds": list(scenario.evaluation.group_bounds),
            "min_group_users": scenario.evaluation.min_group_users,
            "diversity": scenario.evaluation.diversity,
        },
    }


def _mu(scenario: Scenario) -> float:
    if not scenario.private:
        return math.inf
    return gaussian_mu(scenario.privacy.epsilon, scenario.privacy.delta)


def _fit_learning_rate(scenario: Scenario) -> float:
    """SGD under noise, Adam without: their steps are of different kinds, and so are their rates."""
    return 0.25 if scenario.private and scenario.privacy.protect_within_client else 0.002


def _check_map(scenario: Scenario, users: int) -> None:
    if scenario.model.item_tower == "ids" or has_gradient_rounds(scenario, users):
        return
    raise InputError(
        f"model.item_tower = {scenario.model.item_tower!r} is trained by gradient rounds, and recipe = 'hybrid' has them from "
        f"gradients.min_users = {scenario.gradients.min_users:,} users on, here {users:,}: use recipe = 'gradients', "
        "gradients.min_users = 0, or model.item_tower = 'ids'"
    )


def _check_fixed_noise(scenario: Scenario, releases: tuple[ScheduledRelease, ...]) -> None:
    unknown = set(scenario.privacy.noise_multipliers) - {r.name for r in releases}
    if unknown:
        raise InputError(
            f"privacy.noise_multipliers names {sorted(unknown)}; the releases of this plan are "
            f"{[r.name for r in releases]}"
        )
