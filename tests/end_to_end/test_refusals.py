"""A client's own policy binds: it refuses the server's plan, and the others go on without it if they are enough."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from client.handlers import ClientHandlers
from privacy.accounting.accountant import epsilon
from privacy.accounting.calibration import noise_multiplier_for
from privacy.accounting.events import ReleaseEvent
from privacy.errors import InputError, PolicyRefusal
from privacy.wire import federation as wire
from server.certificate import certificate
from server.federation import Federation, Unwatched
from server.run import run, session_name
from server.scenario import Scenario, override, parse_scenario
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


def forced(min_clients: int) -> Scenario:
    """Four clients that share one noise because the scenario insists."""
    changes = {"privacy.noise": "distributed", "privacy.force_distributed": True}
    return override(small(4, min_clients), changes)


def test_few_clients_share_one_noise_if_all_of_them_allow_it(tmp_path: Path) -> None:
    scenario = forced(3)
    simulation = simulation_with_strict(scenario, tmp_path, {})
    report, federation = run_on(scenario, simulation, tmp_path)
    assert report["privacy"]["noise"] == "distributed"
    assert federation.plan.honest_survivors == 2  # three survive, one of them colludes
    stated = certificate(tmp_path / "run")["trust_model"]
    outside = [e for e in federation.plan.events() if e.left_the_client]
    alone = [replace(e, noise_multiplier=e.noise_multiplier / 2**0.5) for e in outside]
    assert stated["noise"] == "distributed"
    assert stated["epsilon_of_the_sums"] == epsilon(outside, 1e-5)
    own_view = stated["epsilon_of_one_clients_uploads_if_secure_aggregation_failed"]
    assert own_view == pytest.approx(epsilon(alone, 1e-5))


def test_a_client_that_does_not_allow_it_is_left_out(tmp_path: Path) -> None:
    scenario = forced(3)
    strict: dict[str, dict[str, object]] = {"client-02": {"allow_shared_noise_of_few": False}}
    simulation = simulation_with_strict(scenario, tmp_path, strict)
    report, federation = run_on(scenario, simulation, tmp_path)
    assert {d["reason"] for d in report["dropouts"]} == {"shared-noise-of-few-forbidden"}
    assert federation.plan.cohort == ("client-01", "client-03", "client-04")
    assert federation.plan.honest_survivors == 2
    with pytest.raises(InputError, match=r"with 4 clients.*force_distributed"):
        unforced = override(scenario, {"privacy.force_distributed": False})
        run_on(unforced, simulation_with_strict(unforced, tmp_path / "two", {}), tmp_path / "two")


@pytest.mark.parametrize("noise", ["auto", "per_client"])
def test_force_without_shared_noise_is_a_contradiction(noise: str) -> None:
    with pytest.raises(InputError, match="forces nothing"):
        parse_scenario({"privacy": {"noise": noise, "force_distributed": True}}, source="test")
