"""A fit without noise in a private run: what may still be released, and that gradient rounds stay noised."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from client import handlers
from client.handlers import ClientHandlers
from client.model import ClientModel
from privacy.bounded import BoundedSum
from privacy.mechanisms.discrete_gaussian import add_noise
from privacy.wire import federation as wire
from privacy.wire.federation import Answer, OpenRound, Task
from recsys_models.retrieval.transitions import SparseTransitions, count_transitions
from server.federation import Unwatched
from server.scenario import parse_scenario
from simulations.run import simulate
from tests.tiny_federation import small_federation

DOCUMENT = {
    "recipe": "gradients",
    "encoder": "mean-pool",
    "seed": 3,
    "model": {"dim": 4, "max_length": 8},
    "gradients": {"rounds": 2, "negatives": 4},
    "fit": {"steps": 2},
    "privacy": {"protect_within_client": False},
    "simulation": {"clients": 3, "users": 30, "items": 40},
}


def test_the_final_metrics_are_released_before_the_fit(tmp_path: Path):
    report = simulate(parse_scenario(DOCUMENT, source="test"), tmp_path / "run", Unwatched())
    order = [phase for phase in report["seconds"] if phase in ("fit", "metrics")]
    assert order == ["metrics", "fit"]
    protected = {**DOCUMENT, "privacy": {"protect_within_client": True}}
    report = simulate(parse_scenario(protected, source="test"), tmp_path / "protected", Unwatched())
    assert [phase for phase in report["seconds"] if phase in ("fit", "metrics")] == ["fit", "metrics"]


def test_a_client_answers_no_release_after_a_fit_without_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    headers: list[bytes] = []
    refusals: list[str] = []
    release, publish = ClientHandlers._release, ClientHandlers._publish

    def noting(self: ClientHandlers, payload: bytes) -> bytes:
        headers.append(OpenRound.decode(payload).header)
        return release(self, payload)

    def asking_again(self: ClientHandlers, payload: bytes) -> bytes:
        if Task.decode(payload).parameters.get("final"):
            task = Task("metrics-final", {"step": 0, "stage": "test"})
            again = OpenRound(header=headers[-1], task=task)
            refusals.append(Answer.decode(self.answer(wire.EVALUATE, again.encode())).refusal)
        return publish(self, payload)

    monkeypatch.setattr(ClientHandlers, "_release", noting)
    monkeypatch.setattr(ClientHandlers, "_publish", asking_again)
    simulate(parse_scenario(DOCUMENT, source="test"), tmp_path, Unwatched())
    assert refusals == ["encoder-not-private"] * 3


def test_gradient_rounds_noise_the_encoder_whatever_the_fit_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    noised: list[str] = []

    def noting(total: BoundedSum, sigma: float, *rest: Any, name: str, **options: Any):
        noised.append(name)
        return add_noise(total, sigma, *rest, name=name, **options)

    monkeypatch.setattr("client.gradients.add_noise", noting)
    simulate(parse_scenario(DOCUMENT, source="test"), tmp_path, Unwatched())
    assert noised == ["gradients/encoder"] * (3 * 2)


@pytest.mark.parametrize(("protects", "mode"), [(True, "on"), (False, "on"), (True, "off")])
def test_a_client_knows_something_of_its_own_only_where_its_users_are_not_protected(
    protects: bool, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    changes = {
        "fit.steps": 1,
        "fit.epochs": 2,
        "fit.sampling_probability": 1.0,
        "privacy.protect_within_client": protects,
        "privacy.mode": mode,
    }
    small = small_federation(tmp_path, monkeypatch, changes)
    calls: list[str] = []
    monkeypatch.setattr("client.handlers.calibrate", lambda model, *_: calls.append(_counted(model)))
    small.federation.run()
    is_protected = protects and mode == "on"
    assert [entry.event.name for entry in small.federation.ledger.entries()].count("fit") == is_protected
    stored = [load_file(path) for path in tmp_path.glob("**/encoder.safetensors")]
    assert len(stored) == len(small.clients)
    for client, weights in zip(small.clients.values(), stored, strict=True):
        own = {name for name in weights if name.startswith("own.")}
        if is_protected:
            assert client.model.own_transitions is None
            assert client.model.own_items is None
            assert not own
        else:
            # The validation item is counted in the end; when the temperature was fitted, it was not.
            wanted = count_transitions(client.log.seen("test"), 40, orders=5, decay=0.7)
            assert _counted(client.model) == hash_of(wanted)
            assert hash_of(count_transitions(client.log.training, 40, orders=5, decay=0.7)) in calls
            assert hash_of(wanted) not in calls
            assert {"own.transition_starts", "own.transition_items", "own.transition_weights"} <= own
    assert len(calls) == (0 if is_protected else len(small.clients))


def hash_of(transitions: SparseTransitions) -> str:
    parts = (transitions.starts, transitions.items, transitions.weights)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def _counted(model: ClientModel) -> str:
    assert model.own_transitions is not None
    return hash_of(model.own_transitions)


@pytest.mark.parametrize("protects", [True, False])
def test_a_temperature_is_fitted_only_where_the_encoder_is_without_noise(
    protects: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A temperature of all users moves each one's row of the metrics: fitted without noise, it must not come before them."""
    order: list[str] = []

    def noted(name: str, act: Any) -> Any:
        return lambda *args, **options: (order.append(name), act(*args, **options))[1]

    for name in ("calibrate", "user_detail", "metric_contributions"):
        monkeypatch.setattr(handlers, name, noted(name, getattr(handlers, name)))
    changes = {"privacy": {"protect_within_client": protects}, "evaluation": {"detail": "on"}}
    simulate(parse_scenario(DOCUMENT | changes, source="test"), tmp_path, Unwatched())
    assert ("calibrate" in order) is not protects
    assert "user_detail" in order
    if not protects:
        assert min(i for i, name in enumerate(order) if name == "calibrate") > max(
            i for i, name in enumerate(order) if name != "calibrate"
        )
