"""A federation whose clients take four private steps between two rounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from privacy.errors import InputError, PolicyRefusal
from privacy.wire import federation as wire
from privacy.wire.federation import Task
from tests.tiny_federation import small_federation

LOCAL = {
    "recipe": "gradients",
    "gradients.local_steps": 4,
    "gradients.server_optimizer": "fedavg",
    "simulation.clients": 4,
}


def test_every_local_step_is_in_every_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A fixed noise, because fitting sampled steps to a budget takes seconds.
    fixed = {"popularity": 4.0, "gradients": 10.0, "metrics-gradients": 4.0, "metrics-final": 4.0}
    small = small_federation(tmp_path, monkeypatch, LOCAL | {"privacy.noise_multipliers": fixed})
    arrays = small.federation.run().arrays
    assert np.isfinite(arrays["item_tower"]).all()
    plan = small.federation.plan
    assert plan.noise == "per_client"
    planned = {event.name: event for event in plan.events()}
    assert planned["gradients"].count == 8  # two rounds of four steps
    assert planned["gradients"].sampling_probability == 0.5
    for ledger in (small.federation.ledger, *(client.ledger for client in small.clients.values())):
        entered = {entry.event.name: entry.event for entry in ledger.entries()}
        assert entered.keys() == planned.keys()
        for name, event in entered.items():
            assert (event.count, event.noise_multiplier, event.sampling_probability) == (
                planned[name].count,
                planned[name].noise_multiplier,
                planned[name].sampling_probability,
            )
    assert small.federation.ledger.epsilon_spent() <= plan.epsilon


def test_without_privacy_any_number_of_clients_may_take_local_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch, LOCAL | {"privacy.mode": "off", "simulation.clients": 5})
    small.federation.run()
    summed = np.sum(list(small.uploads["gradients/0"].values()), axis=0)
    assert np.array_equal(small.sums["gradients/0"].values, summed)


def test_clients_do_not_agree_to_local_steps_under_shared_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="cannot share one distributed noise"):
        small_federation(tmp_path, monkeypatch, LOCAL | {"simulation.clients": 5}).federation.run()

    def lie(kind: str, _client: str, request: bytes) -> bytes:
        if kind != wire.AGREE:
            return request
        task = Task.decode(request)
        return replace(task, parameters={**task.parameters, "noise": "distributed"}).encode()

    forged = small_federation(
        tmp_path / "forged", monkeypatch, LOCAL | {"gradients.sampling_probability": 1.0}, tamper=lie
    )
    with pytest.raises(PolicyRefusal, match="input-unusable"):
        forged.federation.run()
