"""A federation whose gradient rounds carry the count that moves their clip norm."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from privacy.accounting.accountant import epsilon
from privacy.secagg.labels import RoundHeader
from privacy.wire import federation as wire
from privacy.wire.federation import OpenRound
from server.certificate import certificate
from server.federation import Unwatched
from simulations.audits import inversion, sensitivity
from simulations.run import simulate
from tests.tiny_federation import small_federation, small_scenario

ADAPTIVE: dict[str, Any] = {
    "recipe": "gradients",
    "gradients.adaptive_clip": True,
    "gradients.rounds": 3,
    "gradients.sampling_probability": 1.0,
    "gradients.l2_clip_norm": 5.0,
}
LIAR_TO = "client-01"


def test_the_norm_moves_and_the_cost_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_federation(tmp_path / "adaptive", monkeypatch, ADAPTIVE)
    path = small.federation.run().clip_norms
    assert path[0] == 5.0
    assert len(set(path)) == 3
    assert small.federation.exchange.dropouts == []
    # 20 head items of 8 numbers, and the count.
    assert small.uploads["gradients/0"][LIAR_TO].shape == (20 * 8 + 1,)
    fixed = small_federation(tmp_path / "fixed", monkeypatch, ADAPTIVE | {"gradients.adaptive_clip": False})
    fixed.federation.run()
    (event,) = [e.event for e in small.federation.ledger.entries() if e.event.name == "gradients"]
    (other,) = [e.event for e in fixed.federation.ledger.entries() if e.event.name == "gradients"]
    assert replace(event, detail={}) == replace(other, detail={})
    assert epsilon([event], 1e-5) == epsilon([other], 1e-5)
    assert event.detail["clipping"] == "adaptive"
    assert event.detail["target_quantile"] == 0.5
    assert event.detail["l2_clip_norm"] == 1.0
    assert "clipping" not in other.detail
    for client in small.clients.values():
        (own,) = [e.event for e in client.ledger.entries() if e.event.name == "gradients"]
        assert own.detail == event.detail


def test_the_same_seed_gives_the_same_bytes_and_the_report_shows_the_path(tmp_path: Path) -> None:
    reports = []
    for name in ("one", "two"):
        simulate(small_scenario(ADAPTIVE), tmp_path / name, Unwatched())
        reports.append(json.loads((tmp_path / name / "report.json").read_text()))
    assert reports[0]["item_tower_sha256"] == reports[1]["item_tower_sha256"]
    assert reports[0]["clip_norms"] == reports[1]["clip_norms"]
    towers = [(tmp_path / name / "item_tower.safetensors").read_bytes() for name in ("one", "two")]
    assert towers[0] == towers[1]
    certified = {r["name"]: r.get("clipping") for r in certificate(tmp_path / "one")["releases"]}
    assert (certified["gradients"], certified["popularity"]) == ("adaptive", None)
    shown = (tmp_path / "one" / "report.md").read_text()
    assert "Clip norm of the gradient rounds" in shown
    assert "0.5 quantile" in shown


def test_without_privacy_nobody_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_federation(tmp_path, monkeypatch, ADAPTIVE | {"privacy.mode": "off"})
    assert small.federation.run().clip_norms == []
    assert small.uploads["gradients/0"][LIAR_TO].shape == (20 * 8,)


@pytest.mark.parametrize("norm", [1e9, 1e-9, 50.0, 5, None])
def test_a_norm_that_no_release_leads_to_is_refused_before_anything_is_charged(
    norm: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tamper(kind: str, client: str, request: bytes) -> bytes:
        if (kind, client) != (wire.RELEASE, LIAR_TO) or OpenRound.decode(request).task.name != "gradients":
            return request
        asked = OpenRound.decode(request)
        task = replace(asked.task, parameters={**asked.task.parameters, "l2_clip_norm": norm})
        # An honest label for the lie: what remains is the client's own idea of a norm.
        header = replace(
            RoundHeader.decode(asked.header), task_hash=task.bound_to(small.federation.plan.sha256)
        )
        return OpenRound(header.encode(), task).encode()

    small = small_federation(tmp_path, monkeypatch, ADAPTIVE, tamper=tamper)
    small.federation.run()
    refused = [m.answer.refusal for m in small.wire.answers(wire.RELEASE, LIAR_TO) if m.answer.refusal]
    assert refused == ["clip-norm-out-of-range"] * 3
    assert "gradients" not in [e.event.name for e in small.clients[LIAR_TO].ledger.entries()]


def test_the_audits_pass_with_it_on() -> None:
    scenario = small_scenario(
        {**ADAPTIVE, "model.max_length": 12, "gradients.min_users": 0, "gradients.l2_clip_norm": 0.5}
    )
    result = sensitivity.run(scenario, seed=1, random_users=2)
    assert result["ok"], result["findings"]
    (row,) = [row for row in result["releases"] if row["kind"] == "gradients"]
    assert 0.9 < row["of_bound"] <= 1.0 + sensitivity.ROUNDING
    assert inversion.run(scenario, users=1, seed=1)["stages"]["noised sum"] <= 1.0
