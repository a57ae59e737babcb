"""The subspace rounds in a whole federation: the tower of a catalogue whose Gram matrix nobody could send."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from privacy.errors import ProtocolError
from privacy.wire.federation import RELEASE, OpenRound, Task
from recsys_models.item_towers.subspace import start_basis
from simulations.audits.sensitivity import run as audit_sensitivity
from tests.tiny_federation import small_federation, small_scenario

SUBSPACE = {"statistics.method": "subspace", "statistics.subspace_rank": 12}


def test_twenty_thousand_items_give_a_tower_of_all_that_were_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"privacy.mode": "off", "simulation.items": 20_000, "statistics.head": 20}
    small = small_federation(tmp_path, monkeypatch, SUBSPACE | changes)
    outcome = small.federation.run()
    assert [name for name in small.sums if name.startswith("statistics-subspace")] == [
        f"statistics-subspace/{step}" for step in range(3)
    ]
    assert small.sums["statistics-subspace/0"].values.size == 20_000 * 12
    histories = [h for client in small.clients.values() for h in client.log.training]
    rows = np.zeros((len(histories), 20_000))
    for user, history in enumerate(histories):
        rows[user, np.unique(history)] = 1.0 / np.sqrt(len(np.unique(history)))
    exact = np.linalg.svd(rows, full_matrices=False)[2][:2]
    tower = outcome.arrays["item_tower"].astype(np.float64)
    found = np.linalg.qr(tower)[0]
    assert np.linalg.svd(exact @ found)[1].min() > 0.9  # three rounds; the gaps of 60 users are small
    chosen = rows.any(axis=0)
    assert not tower[~chosen].any()
    assert tower[chosen].any(axis=1).mean() > 0.99  # far beyond the head of 20


def test_under_noise_every_step_is_charged_once_and_the_audit_finds_no_excess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch, SUBSPACE)
    small.federation.run()
    events = {entry.event.name: entry.event for entry in small.federation.ledger.entries()}
    assert events["statistics-subspace"].count == 3
    assert events["statistics-subspace"].detail["cells"] == 40 * 12
    assert small.federation.ledger.epsilon_spent() <= 8.0
    audited = audit_sensitivity(small_scenario(SUBSPACE))
    row = next(r for r in audited["releases"] if r["release"] == "statistics-subspace")
    assert audited["ok"], audited["findings"]
    assert 0.9 < row["of_bound"] <= 1.0


def test_a_basis_that_stretches_is_refused_by_everybody_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stretched(kind: str, _client: str, request: bytes) -> bytes:
        if kind != RELEASE:
            return request
        asked = OpenRound.decode(request)
        if "basis" not in asked.task.arrays:
            return request
        arrays = {**asked.task.arrays, "basis": 3.0 * start_basis(np.ones(40), 12, 0)}
        return OpenRound(asked.header, Task(asked.task.name, asked.task.parameters, arrays)).encode()

    small = small_federation(tmp_path, monkeypatch, SUBSPACE, tamper=stretched)
    with pytest.raises(ProtocolError):
        small.federation.run()
    refusals = {
        m.client: m.answer.refusal for m in small.wire.messages if m.kind == RELEASE and m.answer.refusal
    }
    assert refusals == dict.fromkeys(small.clients, "protocol-violated")
