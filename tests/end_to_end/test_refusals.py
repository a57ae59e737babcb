"""A client's own policy binds: it refuses the server's plan, and the others go on without it if they are enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.handlers import ClientHandlers
from privacy.accounting.calibration import noise_multiplier_for
from privacy.accounting.events import ReleaseEvent
from privacy.errors import PolicyRefusal
from privacy.wire import federation as wire
from server.federation import Federation, Unwatched
from server.run import run, session_name
from server.scenario import Scenario, parse_scenario
from simulations.loopback import Loopback
from simulations.run import Simulation, build_simulation, load_dataset


def small(clients: int, min_clients: int) -> Scenario:
    return parse_scenario(
        {
            "name": "refusals",
            "recipe": "statistics",
            "encoder": "mean-pool",
            "seed": 1,
            "fit": {"steps": 1},
            "model": {"dim": 8},
            "statistics": {"head": 20},
            "federation": {"min_clients": min_clients},
            "simulation": {"clients": clients, "users": 120, "items": 40},
        },
        source="test",
    )


def simulation_with_strict(
    scenario: Scenario, folder: Path, strict: dict[str, dict[str, object]]
) -> Simulation:
    """A simulation in which some clients changed their own policy."""
    simulation = build_simulation(scenario, load_dataset(scenario, None), folder / "clients")
    for name, changes in strict.items():
        client: ClientHandlers = simulation.clients[name]
        client.policy = client.policy.model_copy(update=changes)
    return simulation


def run_on(scenario: Scenario, simulation: Simulation, folder: Path) -> tuple[dict, Federation]:
    seen: list[Federation] = []
    report = run(
        scenario,
        Loopback(simulation.clients),
        folder / "run",
        roster=simulation.roster,
        session=session_name(scenario),
        catalogue=simulation.dataset.catalogue,
        watcher=Unwatched(),
        complete=lambda _report, federation: seen.append(federation),
    )
    return report, seen[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"max_epsilon": 4.0}, "epsilon-above-policy"),
        ({"delta": 1e-6}, "delta-above-policy"),
        ({"min_colluding": 2}, "too-few-colluders-assumed"),
        ({"min_cohort": 6}, "cohort-too-small"),
    ],
)
def test_the_federation_goes_on_without_a_client_whose_policy_is_tighter(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    scenario = small(clients=5, min_clients=4)
    simulation = simulation_with_strict(scenario, tmp_path, {"client-02": changes})
    report, federation = run_on(scenario, simulation, tmp_path)
    assert report["dropouts"] == [{"client": "client-02", "message": wire.AGREE, "reason": reason}]
    assert "client-02" not in federation.plan.cohort
    assert report["clients"] == len(simulation.clients) - 1
    assert "recall@10" in report["metrics"]
    # Nothing about the users of the client that refused was ever charged, hence read.
    assert simulation.clients["client-02"].ledger.entries() == []
    assert len(simulation.clients["client-01"].ledger.entries()) == len(federation.plan.releases)


def test_it_ends_cleanly_when_too_few_agree(tmp_path: Path) -> None:
    scenario = small(clients=4, min_clients=3)
    tight = {"max_epsilon": 4.0}
    simulation = simulation_with_strict(scenario, tmp_path, {"client-02": tight, "client-04": tight})
    with pytest.raises(PolicyRefusal, match=r"2 of 4 clients agreed to the plan, 3 are needed") as refusal:
        run_on(scenario, simulation, tmp_path)
    assert refusal.value.reason_code == "too-few-agreed"
    assert "client-02: epsilon-above-policy; client-04: epsilon-above-policy" in str(refusal.value)
    assert all(client.ledger.entries() == [] for client in simulation.clients.values())
    assert (tmp_path / "run" / "report.json").exists()


def test_a_spent_ledger_refuses_its_release_and_the_others_go_on(tmp_path: Path) -> None:
    """The plan fits the policy, but the client's users were exposed before: its own ledger says no."""
    scenario = small(clients=5, min_clients=3)
    simulation = simulation_with_strict(scenario, tmp_path, {})
    client = simulation.clients["client-03"]
    noise = noise_multiplier_for(scenario.privacy.epsilon, scenario.privacy.delta)
    client.ledger.commit(client.ledger.reserve(ReleaseEvent("earlier", noise)))
    report, _ = run_on(scenario, simulation, tmp_path)
    reasons = {(d["client"], d["reason"]) for d in report["dropouts"]}
    assert ("client-03", "budget-exceeded") in reasons
    assert {d["client"] for d in report["dropouts"]} == {"client-03"}
    assert client.ledger.epsilon_spent() <= scenario.privacy.epsilon
    assert "recall@10" in report["metrics"]
