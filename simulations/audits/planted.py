"""Do the audits notice? Six faults planted into the running engine, and as many clean runs as one likes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

import client.encoder_fit
import client.model
import privacy.release_terms
import privacy.secagg.masks
from client.gradients import GradientTrainer
from client.handlers import ClientHandlers
from privacy.accounting.events import ReleaseEvent
from privacy.bounded import BoundedSum, NoisedSum, UserContributions, clip_and_sum
from privacy.randomness import RandomSource, SeededRandomness
from privacy.release_terms import ReleaseTerms
from privacy.secagg.client_round import ClientRound
from privacy.secagg.epoch import ClientEpoch, RoundKeys
from privacy.secagg.secret import Secret
from privacy.user_gradients import UserGradients
from privacy.user_gradients import engine as gradient_engine
from privacy.user_gradients.ghost_gradients import GhostGradients
from recsys_models.encoders.base import UserEncoder
from recsys_models.encoders.registry import build_encoder
from server.scenario import Scenario, override
from simulations.audits import canary, sensitivity, uploads
from simulations.audits.engine import replaced

Fault = Callable[[], AbstractContextManager[None]]


def noise_off() -> AbstractContextManager[None]:
    """Every release goes out as it is, with the event of a noised one."""

    def no_noise(total: BoundedSum, sigma: float, *_: Any, name: str, **__: Any) -> NoisedSum:
        return NoisedSum(
            total.values, total.unit, ReleaseEvent(name, noise_multiplier=sigma / total.l2_bound)
        )

    return replaced((privacy.release_terms, "noise_share", no_noise))


def clip_at(factor: float) -> AbstractContextManager[None]:
    """Users are clipped to a multiple of the norm that the noise was made for."""
    sum_of_gradients = UserGradients.clip_and_sum

    def loose(c: UserContributions, *, l2_clip_norm: float, unit: float) -> BoundedSum:
        total = clip_and_sum(c, l2_clip_norm=l2_clip_norm * factor, unit=unit)
        return replace(total, l2_bound=math.floor(l2_clip_norm / unit))

    def loose_gradients(self: UserGradients, n_items: int, *, l2_clip_norm: float, unit: float) -> BoundedSum:
        total = sum_of_gradients(self, n_items, l2_clip_norm=l2_clip_norm * factor, unit=unit)
        return replace(total, l2_bound=math.floor(l2_clip_norm / unit))

    ghost_factors = GhostGradients.clip_factors

    def loose_factors(self: GhostGradients, reach: float) -> Tensor:
        return ghost_factors(self, reach * factor)

    return replaced(
        (privacy.release_terms, "clip_and_sum", loose),
        (UserGradients, "clip_and_sum", loose_gradients),
        (GhostGradients, "clip_factors", loose_factors),
    )


def functional_weights() -> AbstractContextManager[None]:
    """The encoder uses a layer's weight behind the layer's back, and every run-time check is off."""

    def build(*names: Any, **options: Any) -> UserEncoder:
        return _behind_its_back(build_encoder(*names, **options))

    return replaced(
        (client.model, "build_encoder", build),
        (GradientTrainer, "_guard", lambda _self: None),
        (client.encoder_fit, "check_engine", lambda *_, **__: None),
        (gradient_engine, "_HOOK_TOLERANCE", math.inf),
    )


def _behind_its_back(encoder: UserEncoder) -> UserEncoder:
    class Tied(type(encoder)):
        """The same encoder, its output turned by the weight of one of its layers."""

        def forward(self, items_BLD: Tensor, mask_BL: Tensor, times_BL: Tensor | None = None) -> Tensor:
            layers = (m for m in self.modules() if isinstance(m, nn.Linear))
            square = next(m for m in layers if m.in_features == m.out_features)
            return super().forward(items_BLD, mask_BL, times_BL) @ square.weight.T

    encoder.__class__ = Tied
    return encoder


def metrics_uncharged() -> AbstractContextManager[None]:
    """Recall is taken for a statistic about the model, not about users."""
    charged = ClientHandlers._charged

    def careless(
        self: ClientHandlers, terms: ReleaseTerms, compute: Callable[[], NDArray[np.int64]]
    ) -> NDArray[np.int64]:
        return compute() if terms.release.kind == "metrics" else charged(self, terms, compute)

    return replaced((ClientHandlers, "_charged", careless))


def mask_reuse() -> AbstractContextManager[None]:
    """Keys that forget the round, and a random source that starts again: every round has the first one's masks."""
    first: dict[tuple[int, str], bytes] = {}
    round_keys, upload = ClientEpoch.round_keys, ClientRound.upload

    def same_keys(self: ClientEpoch, number: int, label: bytes, peers: Sequence[str]) -> dict[str, RoundKeys]:
        keys = round_keys(self, number, label, peers)
        return {
            peer: replace(key, seed=Secret(first.setdefault((id(self), peer), key.seed.expose())))
            for peer, key in keys.items()
        }

    def same_randomness(self: ClientRound, vector: Any, _randomness: RandomSource) -> bytes:
        return upload(self, vector, SeededRandomness(0))

    return replaced(
        (ClientEpoch, "round_keys", same_keys),
        (ClientRound, "upload", same_randomness),
        (privacy.secagg.masks, "mask_key", lambda seed, _label: Secret(seed.expose())),
    )


FAULTS: dict[str, Fault] = {
    "noise off": noise_off,
    "clip x 1.3": lambda: clip_at(1.3),
    "clip off": lambda: clip_at(1e4),
    "tied weights used functionally": functional_weights,
    "metrics uncharged": metrics_uncharged,
    "mask reuse": mask_reuse,
}


def run(scenario: Scenario, *, clean_runs: int = 20, seed: int = 0) -> dict[str, Any]:
    """Plant every fault once, and run the audits on the sound engine.

    Args:
        scenario: the configuration; gradients are switched on, so that every fault has a place.
        clean_runs: runs without a fault, each with its own seed.
        seed: of the first one.

    Returns:
        ``planted``: per fault which audits flagged it, and a finding. ``flagged``, ``false_alarms`` with their findings.
        ``ok``: everything flagged, no false alarm.
    """
    under_audit = override(scenario, {"gradients.min_users": 0, "privacy.mode": "on"})
    rows: list[dict[str, Any]] = []
    for name, fault in FAULTS.items():
        with fault():
            found = _audit(under_audit, seed)
        first = next((findings[0] for findings in found.values() if findings), "")
        rows.append(
            {"fault": name, "flagged_by": [a for a, findings in found.items() if findings], "finding": first}
        )
    alarms: list[str] = []
    for number in range(clean_runs):
        found = _audit(under_audit, seed + number)
        alarms += [f"seed {seed + number}, {audit}: {f[0]}" for audit, f in found.items() if f]
    flagged = sum(bool(row["flagged_by"]) for row in rows)
    return {
        "planted": rows,
        "flagged": flagged,
        "clean_runs": clean_runs,
        "false_alarms": alarms,
        "ok": flagged == len(rows) and not alarms,
    }


def _audit(scenario: Scenario, seed: int) -> dict[str, list[str]]:
    """The audits that look at the engine itself, small."""
    return {
        "sensitivity": sensitivity.run(scenario, seed=seed)["findings"],
        "uploads": uploads.run(scenario, seed=seed)["findings"],
        "canary": canary.run(scenario, canaries=400, releases=4, items=200, seed=seed)["findings"],
        "canary of gradients": canary.run(
            scenario, release="gradients", epsilons=(8.0,), canaries=200, releases=4, items=60, seed=seed
        )["findings"],
    }


def format_table(result: dict[str, Any]) -> str:
    """What was planted and who noticed; flagged/planted and the false alarms last."""
    lines = [f"{'planted':<32} flagged by"]
    for row in result["planted"]:
        lines.append(f"{row['fault']:<32} {', '.join(row['flagged_by']) or 'NOBODY'}")
        if row["finding"]:
            lines.append(f"{'':<32}   {row['finding']}")
    lines += [f"FALSE ALARM {alarm}" for alarm in result["false_alarms"]]
    lines.append(
        f"flagged {result['flagged']}/{len(result['planted'])} planted faults, "
        f"{len(result['false_alarms'])} false alarms in {result['clean_runs']} clean runs"
    )
    return "\n".join(lines)
