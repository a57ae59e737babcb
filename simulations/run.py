"""A whole federation in one process: data, clients, run, and what only a simulation can know (exact figures, lists)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client.behaviour_log import BehaviourLog, Stage
from client.config import build_client
from client.evaluation import Ranks
from client.handlers import ClientHandlers
from client.policy import ClientPolicy
from client.recommend import recommend
from privacy.randomness import SeededRandomness
from privacy.secagg.keys import Identity, Roster
from recsys_models.data.adapters import load
from recsys_models.data.dataset import Dataset
from recsys_models.data.schema import LogColumns
from recsys_models.data.sequences import Sequences
from recsys_models.data.splits import LeaveLastOut, leave_last_out, split_at, time_of_quantile
from recsys_models.errors import DataError
from recsys_models.metrics.intervals import mean_estimate
from recsys_models.metrics.ranking import mean_metrics, target_ranks
from server.federation import Federation, Watcher
from server.ledger_statement import open_ledger
from server.resume import first_of_chain, remember_number
from server.run import require_empty, run, session_name
from server.scenario import Scenario
from simulations.loopback import Fault, Loopback, no_faults
from simulations.population import attribute_of, divide
from simulations.synthetic import synthetic_log

Report = dict[str, Any]
_LISTS = 3
_LIST_LENGTH = 5


@dataclass(frozen=True)
class Simulation:
    """A population of clients, ready to be asked.

    Attributes:
        dataset: everybody's data; only a simulation has such a thing.
        clients: handlers by client id.
        roster: their identities.
    """

    dataset: Dataset
    clients: dict[str, ClientHandlers]
    roster: Roster


def load_dataset(
    scenario: Scenario, data: Path | Dataset | None, columns: LogColumns | None = None
) -> Dataset:
    """The data set of a simulation: as given, at a path, or the built-in log; ``columns`` name a log's own."""
    if isinstance(data, Dataset):
        return data
    path = data or (Path(scenario.simulation.data) if scenario.simulation.data else None)
    if path is not None:
        return load(path, columns=columns)
    return synthetic_log(scenario.simulation.users, scenario.simulation.items, seed=scenario.seed or 0)


def client_names(count: int) -> list[str]:
    """Names that sort in order: client-01, client-02, ..."""
    width = max(2, len(str(count)))
    return [f"client-{i:0{width}d}" for i in range(1, count + 1)]


def divide_users(scenario: Scenario, dataset: Dataset) -> list[np.ndarray]:
    """User indices of each client."""
    simulation = scenario.simulation
    attribute = None
    if simulation.split == "attribute":
        attribute = attribute_of(dataset.user_attributes, simulation.attribute or "")
    return divide(
        dataset.sequences,
        simulation.clients,
        simulation.split,
        seed=scenario.seed or 0,
        alpha=simulation.alpha,
        attribute=attribute,
    )


def simulated_policy(scenario: Scenario) -> ClientPolicy:
    """What simulated clients agree to: exactly what the scenario asks; resumed, what the population's ledger allows."""
    most = scenario.privacy.epsilon
    if scenario.resume.from_run is not None and scenario.ledger.path is not None:
        most = max(most, open_ledger(Path(scenario.ledger.path)).epsilon_budget)
    return ClientPolicy(
        max_epsilon=most,
        delta=scenario.privacy.delta,
        allow_privacy_off=not scenario.private,
        allow_unprotected_encoder=not scenario.privacy.protect_within_client,
        min_colluding=0,
        min_group_users=scenario.evaluation.min_group_users,
    )


def time_cut(scenario: Scenario, dataset: Dataset) -> float | None:
    """The moment that splits everybody's log under the protocol ``time``; a fact of the benchmark, not of a client."""
    return time_of_quantile(dataset.sequences) if scenario.simulation.protocol == "time" else None


def behaviour_log(sequences: Sequences, cut: float | None) -> BehaviourLog:
    """A client's log, split at a moment if there is one."""
    return BehaviourLog(sequences, None if cut is None else split_at(sequences, cut))


def whole_split(scenario: Scenario, dataset: Dataset) -> LeaveLastOut:
    """The split of everybody's log, of which each client has its users' part."""
    cut = time_cut(scenario, dataset)
    return leave_last_out(dataset.sequences) if cut is None else split_at(dataset.sequences, cut)


def build_simulation(scenario: Scenario, dataset: Dataset, state_dir: Path) -> Simulation:
    """Divide the users and build every client as a deployment would, but on seeded randomness."""
    torch.set_num_threads(1)
    parts = divide_users(scenario, dataset)
    names = client_names(len(parts))
    randomness = {name: SeededRandomness(scenario.seed or 0).derive(name) for name in names}
    identities = {name: Identity.generate(randomness[name].derive("identity")) for name in names}
    if scenario.resume.number > 1:
        # The same clients, but never the same noise again.
        randomness = {name: r.derive(f"run {scenario.resume.number}") for name, r in randomness.items()}
    roster = Roster({name: identity.public_bytes() for name, identity in identities.items()})
    cut = time_cut(scenario, dataset)
    clients = {
        name: build_client(
            name,
            behaviour_log(dataset.sequences.subset(users), cut),
            identity=identities[name],
            roster=roster,
            policy=simulated_policy(scenario),
            randomness=randomness[name],
            state_dir=state_dir / name,
            device=scenario.device,
        )
        for name, users in zip(names, parts, strict=True)
    }
    return Simulation(dataset, clients, roster)


def simulate(
    scenario: Scenario,
    out: Path,
    watcher: Watcher,
    *,
    data: Path | Dataset | None = None,
    columns: LogColumns | None = None,
    fault: Fault = no_faults,
) -> Report:
    """Run a scenario on this machine and write its run folder.

    Args:
        scenario: what to run; without a seed it is run with seed 0, which the report says.
        out: run folder; must not hold a run yet.
        watcher: is told of progress.
        data: a data set, or where it lies, instead of the scenario's.
        columns: what its log calls users, items and times.
        fault: loses answers (``simulations.faults``).

    Returns:
        The report.
    """
    require_empty(out)
    if scenario.seed is None:
        scenario = scenario.model_copy(update={"seed": 0})
    dataset = load_dataset(scenario, data, columns)
    split = whole_split(scenario, dataset)
    if split.evaluated.size == 0:
        raise DataError(
            f"{dataset.name}: no user has the 3 events that training, validation and test need: check the log"
        )
    states = out
    if scenario.resume.from_run is not None:
        states = first_of_chain(scenario)
        remember_number(states, scenario.resume.number)
    simulation = build_simulation(scenario, dataset, states / "clients")
    exact: dict[str, dict[str, float]] = {}

    def look(name: str) -> None:
        stage: Stage = "test" if name == "metrics-final" else "validation"
        exact[name] = exact_quality(simulation, stage)

    def complete(report: Report, federation: Federation) -> None:
        report["data"] = dataset.summary()
        report["users"] = dataset.sequences.n_users
        report["split_checksum"] = split.checksum
        report["cleaning"] = dataset.cleaning.as_rows()
        report["simulation"] = {
            "note": "Exact figures and lists exist only in a simulation; a deployment has the released ones.",
            "exact_metrics": exact.get("metrics-final", {}),
            "exact_by_release": exact,
        }
        if federation.has_plan and federation.plan.fit_ends_measuring and "refused" not in report:
            # What clients serve once their encoders are fitted without noise; no release may tell it.
            report["simulation"]["exact_after_fit"] = exact_quality(simulation, "test")
        if "metrics-final" in exact:
            # Measured on the same users, where a deployment only has the expectation of a random order.
            report["baselines"]["random"] = measured_random(exact["metrics-final"])
        if "item_tower" in federation.outcome.arrays and "refused" not in report:
            report["lists"] = example_lists(simulation)

    return run(
        scenario,
        Loopback(simulation.clients, fault=fault),
        out,
        roster=simulation.roster,
        session=session_name(scenario),
        catalogue=dataset.catalogue,
        watcher=watcher,
        after_release=look,
        complete=complete,
    )


def exact_quality(simulation: Simulation, stage: Stage) -> dict[str, float]:
    """Plain recall and NDCG over all users, computed centrally from the same predictions: what no server can see."""
    ranks = pooled_ranks(simulation, stage)
    model, popularity = mean_metrics(ranks.model), mean_metrics(ranks.popularity)
    shuffled = mean_metrics(random_ranks(simulation, stage))
    names = {"recall@10": "hit@10", "recall@20": "hit@20", "ndcg@10": "ndcg@10"}
    return {
        **{name: model[source] for name, source in names.items()},
        **{f"popularity {name}": popularity[source] for name, source in names.items()},
        **{f"random {name}": shuffled[source] for name, source in names.items()},
        "users": float(len(ranks.model)),
    }


def measured_random(exact: dict[str, float]) -> Report:
    """The random ranker's figures with intervals, in the report's form."""
    users = exact["users"]
    table: Report = {}
    for name in ("recall@10", "recall@20", "ndcg@10"):
        estimate = mean_estimate(exact[f"random {name}"] * users, users)
        table[name] = {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": int(users)}
    return table


def pooled_ranks(simulation: Simulation, stage: Stage) -> Ranks:
    """Every client's ranks, one after the other."""
    parts = [client.ranks(stage) for client in simulation.clients.values()]
    return Ranks(np.concatenate([p.model for p in parts]), np.concatenate([p.popularity for p in parts]))


def random_ranks(simulation: Simulation, stage: Stage) -> np.ndarray:
    """Ranks that a random order gives the same targets, as a floor for the table."""
    random = np.random.default_rng(0)
    n_items = simulation.dataset.catalogue.n_items
    ranks: list[np.ndarray] = []
    for client in simulation.clients.values():
        targets, seen = client.log.targets(stage), client.log.seen(stage)
        users = np.flatnonzero(targets >= 0)
        scores = random.random((len(users), n_items))
        ranks.append(target_ranks(scores, targets[users], [seen[u] for u in users]))
    return np.concatenate(ranks)


def example_lists(simulation: Simulation) -> list[Report]:
    """One user's list from each of the first clients, with titles."""
    titles = simulation.dataset.catalogue.titles
    lists: list[Report] = []
    for client in list(simulation.clients.values())[:_LISTS]:
        user = int(np.argmax(client.log.targets("test") >= 0))
        seen = client.log.seen("test")
        history, times = seen[user], seen.times_of(user)
        ranked = recommend(client.model, client.public, history, times=times, count=_LIST_LENGTH)
        lists.append(
            {
                "user": f"{client.client_id}, a user with {len(history)} events",
                "history": [titles[i] for i in history[-5:]],
                "recommendations": [
                    {
                        "title": titles[r.item],
                        "score": round(r.score, 4),
                        "probability": round(r.probability, 4),
                    }
                    for r in ranked
                ],
            }
        )
    return lists
