"""How far one user can move each release of the configured engine, against the bound its noise was made for.

Deterministic and exact: the released integers over neighbouring logs, subtracted. It proves nothing for users it does
not try, but a broken bound has shown on the users tried here every time (Tramer et al. 2022, "Debugging
Differential Privacy": an audit needs the worst input, not a typical one).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import SensitivityViolation
from privacy.release_terms import ReleaseTerms
from server.scenario import Scenario, override
from simulations.audits.engine import Engine, History, build_engine
from simulations.audits.neighbours import (
    FitNeighbours,
    GradientNeighbours,
    counted_effect,
    numeric_effect,
)

ROUNDING = 1e-3
"""Allowance, relative to the bound, for releases that start from 32-bit gradients: a batch of another width rounds the
last bits of everybody's gradient differently. The runtime guard has the same one. Counted releases have none."""

_COUNTED = ("popularity", "statistics", "statistics-subspace", "comparison", "metrics", "metrics-detail")


def run(
    scenario: Scenario, *, seed: int = 0, random_users: int = 4, losses: Sequence[str] = ()
) -> dict[str, Any]:
    """Audit every release of the scenario's plan, gradient rounds included that its recipe has for more users only.

    Args:
        scenario: the configuration.
        seed: of population, public state and random users.
        random_users: users drawn at random, beside the adversarial ones.
        losses: of gradient rounds, to be audited beside the scenario's own.

    Returns:
        ``releases``: per release the bound in grid steps, the worst user and what she moved, as a multiple of the bound;
        for gradients also the worst distance from plain autograd. ``findings``: every excess. ``ok``: none.
    """
    engine = build_engine(override(scenario, {"gradients.min_users": 0}), seed=seed)
    audited = {**adversarial_users(engine), **_random_users(engine, random_users)}
    rows: list[dict[str, Any]] = []
    findings: list[str] = []
    for kind in dict.fromkeys(release.kind for release in engine.plan.releases):
        release = next(r for r in engine.plan.releases if r.kind == kind)
        try:
            rows.append(audit_release(engine, engine.terms(release.name), audited))
            if kind == "gradients":
                for loss in losses:
                    other = with_loss(engine, loss)
                    row = audit_release(other, other.terms(release.name), audited)
                    rows.append(row | {"release": f"{release.name}, {loss}"})
        except SensitivityViolation as refusal:
            findings.append(f"{release.name}: the engine itself refuses: {refusal}")
    findings += [finding for row in rows for finding in row.pop("findings")]
    return {"releases": rows, "users_tried": len(audited), "findings": findings, "ok": not findings}


def with_loss(engine: Engine, loss: str) -> Engine:
    """The same engine, its gradient rounds with another loss."""
    settings = engine.plan.settings
    gradients = {**settings["gradients"], "loss": loss}
    return replace(engine, plan=replace(engine.plan, settings={**settings, "gradients": gradients}))


def adversarial_users(engine: Engine) -> dict[str, History]:
    """Logs that have broken bounds elsewhere, by what is strange about them."""
    items = np.arange(engine.n_items, dtype=np.int64)
    head = engine.public.head
    other = engine.histories[0]
    swapped = other.copy()
    swapped[[-1, -3]] = swapped[[-3, -1]]
    return {
        "one item 500 times": np.repeat(head[:1], 500),
        "two items in turn": np.tile(head[:2], 200),
        "every item": items,
        "every item, thrice": np.tile(items, 3),
        "5,000 events": np.resize(np.roll(items, 7), 5000),
        "three events": head[:3],
        "two events": head[:2],
        "one event": head[:1],
        "no event": items[:0],
        "another user's log": other,
        "another user's positives swapped": swapped,
        "another user's log reversed": other[::-1].copy(),
        "only items nobody else has": np.argsort(engine.public.popularity, kind="stable")[:12].astype(
            np.int64
        ),
    }


def audit_release(engine: Engine, terms: ReleaseTerms, audited: dict[str, History]) -> dict[str, Any]:
    """One release against all users."""
    kind = terms.release.kind
    gap = None
    if kind in _COUNTED:
        effect = counted_effect(engine, terms)
        moved = {name: effect(user) for name, user in audited.items()}
    elif kind == "gradients":
        usable = _usable(audited, engine.public.head_position, cut=2)
        neighbours = GradientNeighbours(engine, terms, list(usable.values()))
        plain = {name: neighbours.effect(k) for k, name in enumerate(usable)}
        neighbours.close()
        moved = {name: each.effect for name, each in plain.items()}
        gap = max(_distance(each.effect, each.steps, terms.l2_bound) for each in plain.values())
    else:
        usable = _usable(audited, None, cut=1)
        fit = FitNeighbours(engine, terms, list(usable.values()))
        moved = {name: fit.effect(k) for k, name in enumerate(usable)}
    moved |= _numeric(terms)
    return _judged(terms, moved, gap)


def _judged(terms: ReleaseTerms, moved: dict[str, NDArray[np.int64]], gap: float | None) -> dict[str, Any]:
    worst = max(moved, key=lambda name: _norm(moved[name]))
    ratio = _norm(moved[worst]) / terms.l2_bound
    allowed = 1.0 if terms.release.kind in _COUNTED else 1.0 + ROUNDING
    findings: list[str] = []
    name = terms.release.name
    if not ratio <= allowed:
        findings.append(f"{name}: {worst!r} moves it by {ratio:.4f} of its bound (at most {allowed:g})")
    if gap is not None and not gap <= ROUNDING:
        findings.append(
            f"{name}: the engine is {gap:.2%} of the bound off plain autograd (at most {ROUNDING:.1%})"
        )
    return {
        "release": name,
        "kind": terms.release.kind,
        "l2_bound": terms.l2_bound,
        "worst_user": worst,
        "of_bound": ratio,
        "off_autograd": gap,
        "findings": findings,
    }


def _norm(moved: NDArray[np.int64]) -> float:
    return math.sqrt(sum(value * value for value in moved[np.flatnonzero(moved)].tolist()))


def _distance(effect: NDArray[np.int64], steps: NDArray[np.float64], bound: int) -> float:
    """Distance beyond what truncating each entry by less than one grid step explains, relative to the bound."""
    beyond = np.maximum(np.abs(effect - steps) - 1.0, 0.0)
    return float(np.linalg.norm(beyond)) / bound


def _numeric(terms: ReleaseTerms) -> dict[str, NDArray[np.int64]]:
    effect = numeric_effect(terms)
    some = np.arange(min(terms.length, 50))
    rows = {
        "not a number": np.full(some.size, np.nan),
        "infinite": np.full(some.size, np.inf),
        "1e300 everywhere": np.full(some.size, 1e300),
        "1e-300 everywhere": np.full(some.size, 1e-300),
        "one grid step above the bound": np.append(
            np.zeros(some.size - 1), terms.l2_clip_norm + 1.4 * terms.unit
        ),
        "a thousand times the clip norm": terms.l2_clip_norm * 1e3 * (-1.0) ** some,
    }
    return {name: effect(some, values) for name, values in rows.items()}


def _usable(
    audited: dict[str, History], position: NDArray[np.int64] | None, *, cut: int
) -> dict[str, History]:
    """Training logs that still have a next item after their last ``cut`` events; the others never enter a batch."""
    training = {name: history[: max(len(history) - cut, 0)] for name, history in audited.items()}
    return {
        name: history
        for name, history in training.items()
        if len(history if position is None else history[position[history] >= 0]) >= 2
    }


def _random_users(engine: Engine, count: int) -> dict[str, History]:
    random = np.random.default_rng(engine.seed + 1)
    return {
        f"random user {k + 1}": random.integers(0, engine.n_items, int(random.integers(3, 120)))
        for k in range(count)
    }


def format_table(result: dict[str, Any]) -> str:
    """The releases as text, then what was found."""
    lines = [f"{'release':<26} {'bound':>8} {'worst user moves':>17} {'off autograd':>13}  worst user"]
    for row in result["releases"]:
        gap = "" if row["off_autograd"] is None else f"{row['off_autograd']:.1e}"
        lines.append(
            f"{row['release']:<26} {row['l2_bound']:>8} {row['of_bound']:>16.4f}x {gap:>13}  {row['worst_user']}"
        )
    lines += [f"FOUND {finding}" for finding in result["findings"]]
    verdict = "no user exceeds a bound" if result["ok"] else f"{len(result['findings'])} bounds broken"
    lines.append(
        f"{result['users_tried']} users tried on {len(result['releases'])} kinds of release: {verdict}"
    )
    return "\n".join(lines)
