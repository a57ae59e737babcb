"""Rows of the quality table that are fitted centrally on pooled logs: baselines, and private baselines.

Finished rows are kept in a folder under a digest of everything that decides them, and not fitted again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.accountant import epsilon as epsilon_of
from privacy.accounting.analytic_gaussian import gaussian_mu
from privacy.accounting.events import ReleaseEvent
from recsys_models.baselines import (
    DPALS,
    EASE,
    DpalsSettings,
    ImplicitALS,
    ItemKNN,
    Popularity,
    RandomRanking,
    RootTransitionCounts,
    TransitionCounts,
)
from recsys_models.baselines.dpals import Noise, newest_items_matrix, noisy_popularity
from recsys_models.evaluation import Scorer
from server.report import write_aside
from simulations.protocols import Protocol

Row = dict[str, Any]
Say = Callable[[str], None]

# Dense item-item baselines need items x items floats, several times over.
_MOST_ITEMS_DENSE = 6000
DELTA = 1e-5
DP_POPULARITY = "popularity (central, DP)"
"""The row that no private recommender may fall below."""
DRAWS = 3
"""Noise draws whose mean a private row shows; tuning uses a draw of its own."""
_TUNING_DRAW = 0
_REVISION = 2
"""Part of every kept row's name: raise it when a row of unchanged settings is computed differently."""
DPALS_SHARES = {"counts": 0.10, "gram": 0.05, "matrices": 0.40, "vectors": 0.45}
"""Of mu squared; all but the counts divided by the number of steps."""
_HEADS = {"head": (100, 200, 400, 800, 1600), "item_l2": (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)}
DPALS_GRID: tuple[dict[str, tuple[Any, ...]], ...] = (
    _HEADS,
    {"dim": (4, 8, 16, 32), "steps": (1, 2, 3)},
    {"decay": (1.0, 0.95, 0.9, 0.8)},
    {"most_items": (20, 50, 100, 200)},
    {"unobserved_weight": (0.03, 0.1, 0.3, 1.0)},
    {"user_l2": (0.03, 0.1, 0.3)},
    _HEADS,
)
"""Tuned group by group, in this order, by validation NDCG@10; the first group, on which most depends, once more."""
IALS_GRID = ((0.3, 0.01), (0.03, 0.003))
"""Weight of absence and l2; which of them is right depends on how many interactions a user has."""


def baseline_rows(protocol: Protocol, folder: Path, say: Say) -> list[Row]:
    """Every baseline without noise."""
    return [
        kept_row(
            folder,
            protocol,
            {"method": name, **settings},
            lambda n=name, b=build: plain_row(n, b(), protocol),
            say,
        )
        for name, settings, build in _baselines(protocol)
    ]


def _baselines(protocol: Protocol) -> list[tuple[str, Row, Callable[[], Scorer]]]:
    """Name, settings that may come to differ, and how it is fitted."""
    train = protocol.train
    found: list[tuple[str, Callable[[], Scorer]]] = [
        ("random", lambda: RandomRanking(train.catalogue.n_items)),
        ("popularity", lambda: Popularity(train)),
    ]
    if train.catalogue.n_items <= _MOST_ITEMS_DENSE:
        found += [
            ("item-kNN, recency", lambda: ItemKNN(train)),
            ("EASE", lambda: EASE(train)),
            ("EASE, recency", lambda: EASE(train, decay=0.9)),
            ("transition counts", lambda: TransitionCounts(train)),
        ]
    found.append(("transition counts, roots", lambda: RootTransitionCounts(train)))
    return [(name, {}, build) for name, build in found] + [
        ("iALS", {"grid": IALS_GRID}, lambda: _ials(protocol))
    ]


def _ials(protocol: Protocol) -> Scorer:
    """That of the grid which the validation likes best; the first where there is no validation."""
    fitted = (
        ImplicitALS(protocol.train, dim=64, unobserved_weight=weight, l2=l2) for weight, l2 in IALS_GRID
    )
    return max(fitted, key=protocol.validation) if protocol.has_validation else next(fitted)


def plain_method(name: str) -> str:
    """What the row of a scorer fitted without noise is called."""
    return f"{name} (central, no privacy)"


def plain_row(name: str, scorer: Scorer, protocol: Protocol) -> Row:
    """The row of a scorer fitted without noise."""
    return {
        "method": plain_method(name),
        "epsilon": None,
        "seeds": 1,
        **protocol.judge(scorer),
        "spread": None,
    }


def private_rows(protocol: Protocol, epsilons: Sequence[float], folder: Path, say: Say) -> list[Row]:
    """DP popularity and DPALS at each finite budget, central, user-level add/remove, delta 1e-5.

    Tuning by validation is not charged, which favours them.
    """
    rows: list[Row] = []
    for epsilon in epsilons:
        if math.isinf(epsilon):
            continue
        key: Row = {"method": "popularity", "epsilon": epsilon, "draws": DRAWS}
        rows.append(kept_row(folder, protocol, key, lambda e=epsilon: _private_popularity(protocol, e), say))
        if protocol.has_validation and protocol.train.catalogue.n_items <= _MOST_ITEMS_DENSE:
            key = {"method": "DPALS", "epsilon": epsilon, "grid": DPALS_GRID, "shares": DPALS_SHARES}
            rows.append(kept_row(folder, protocol, key, lambda e=epsilon: _dpals(protocol, e, say), say))
    return rows


def noise_of(epsilon: float, shares: dict[str, float], steps: int, draw: int) -> tuple[Noise, float]:
    """Gaussian noise for named sums of L2 sensitivity 1, and the epsilon that our accountant gives all of them together.

    Args:
        epsilon: budget at :data:`DELTA`.
        shares: of mu squared, of each kind; they sum to 1.
        steps: releases of each kind but ``"counts"``, which is released once.
        draw: seed; a simulation's, no protection.
    """
    # A hair less, so that rounding in the search for mu never spends more than the budget.
    mu = gaussian_mu(epsilon, DELTA) * (1.0 - 1e-6)
    times = {kind: 1 if kind == "counts" else steps for kind in shares}
    scale = {kind: math.sqrt(times[kind] / share) / mu for kind, share in shares.items()}
    events = [ReleaseEvent(name=kind, noise_multiplier=scale[kind], count=times[kind]) for kind in shares]
    generator = np.random.default_rng(draw)

    def noise(kind: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return generator.normal(0.0, scale[kind], shape)

    return noise, epsilon_of(events, DELTA)


def _private_popularity(protocol: Protocol, epsilon: float) -> Row:
    weights = newest_items_matrix(protocol.train, protocol.train.catalogue.n_items)
    figures: list[dict[str, float]] = []
    spent = 0.0
    for draw in range(1, DRAWS + 1):
        noise, spent = noise_of(epsilon, {"counts": 1.0}, 1, draw)
        counts = noisy_popularity(weights, noise)
        figures.append(protocol.judge(lambda histories, c=counts: np.tile(c, (len(histories), 1))))
    return _private_row(DP_POPULARITY, epsilon, spent, figures)


def _dpals(protocol: Protocol, epsilon: float, say: Say) -> Row:
    def fitted(settings: DpalsSettings, draw: int) -> tuple[DPALS, float]:
        noise, spent = noise_of(epsilon, DPALS_SHARES, settings.steps, draw)
        return DPALS(protocol.train, settings, noise), spent

    chosen = DpalsSettings(decay=0.9, unobserved_weight=0.3)
    best = -1.0
    for group in DPALS_GRID:
        for candidate in _variants(chosen, group):
            figure = protocol.validation(fitted(candidate, _TUNING_DRAW)[0])
            if figure > best:
                best, chosen = figure, candidate
    say(f"DPALS epsilon {epsilon:g}: validation NDCG@10 {best:.4f} with {chosen}")
    figures: list[dict[str, float]] = []
    spent = 0.0
    for draw in range(1, DRAWS + 1):
        model, spent = fitted(chosen, draw)
        figures.append(protocol.judge(model))
    row = _private_row("DPALS (central, DP)", epsilon, spent, figures)
    return {**row, "settings": asdict(chosen)}


def _variants(settings: DpalsSettings, group: dict[str, tuple[Any, ...]]) -> list[DpalsSettings]:
    """All combinations of a group's values."""
    found = [settings]
    for name, values in group.items():
        found = [replace(one, **{name: value}) for one in found for value in values]
    return found


def _private_row(method: str, epsilon: float, spent: float, figures: list[dict[str, float]]) -> Row:
    first = next(iter(figures[0]))
    of_first = [one[first] for one in figures]
    return {
        "method": method,
        "epsilon": float(epsilon),
        "epsilon_spent": spent,
        "seeds": len(figures),
        **{name: float(np.mean([one[name] for one in figures])) for name in figures[0]},
        "spread": max(of_first) - min(of_first),
    }


def kept_row(folder: Path, protocol: Protocol, key: Row, build: Callable[[], Row], say: Say) -> Row:
    """The row of this key: read if it was finished before, else built and kept.

    Args:
        folder: where rows are kept.
        protocol: data set and split.
        key: ``method``, and all else that decides the figures.
        build: computes the row.
        say: one line after it was built.
    """
    whole = {"revision": _REVISION, "protocol": protocol.name, "checksum": protocol.checksum, **key}
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"central-{protocol.name}-{str(key['method']).replace(' ', '-')}-{digest}.json"
    if path.exists():
        row: Row = json.loads(path.read_text(encoding="utf-8"))
        return row
    row = build()
    say(f"{row['method']}: {protocol.metrics[0]} {row[protocol.metrics[0]]:.4f}")
    folder.mkdir(parents=True, exist_ok=True)
    write_aside(path, json.dumps(row, indent=1) + "\n")
    return row
