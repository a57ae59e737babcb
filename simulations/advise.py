"""``fedtower advise``: a scenario proposed from public facts and this machine, with what it would take and cost.

The facts are the numbers of users, items and clients, the budget, and quantiles of the users' history lengths. They are given
as options, read from an earlier run's released statistics, or counted in one's *own* log; nobody else's raw log is asked. Every
choice is a rule with its reason printed, none is tuned on the data. Step times are predicted from a short calibration on
generated users (``simulations.advise_machine``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from privacy.errors import InputError
from recsys_models.data.dataset import Dataset
from recsys_models.negatives import FULL_SOFTMAX_ITEMS
from server.budget_plan import expected_quality, plan_statement, read_measured
from server.plan import has_gradient_rounds, head_items, statistics_method
from server.report import read_report
from server.scenario import Scenario, override
from simulations.advise_machine import Machine, StepModel

_SHORT_HISTORIES = 5
_FEW_USERS_A_CLIENT = 100
_WINDOWS = (10, 20, 50, 100, 200)
_LONGEST_PRIVATE_WINDOW = 50


@dataclass(frozen=True)
class PublicFacts:
    """What a proposal may depend on.

    Attributes:
        users, items, clients: how many; users over all clients.
        epsilon: the budget, or None for a run without privacy.
        delta: at which it is stated.
        median_length, long_length: events a user, at the 50th and the 90th percentile; None where not known.
        source: where they are from, in words.
    """

    users: int
    items: int
    clients: int = 5
    epsilon: float | None = 8.0
    delta: float = 1e-5
    median_length: int | None = None
    long_length: int | None = None
    source: str = "options"

    def __post_init__(self) -> None:
        for name, least in (("users", 1), ("items", 2), ("clients", 3)):
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)}: at least {least} are needed")
        if self.users < self.clients:
            raise InputError(
                f"{self.users} users over {self.clients} clients: give every client at least one"
            )

    @property
    def users_a_client(self) -> int:
        """Of an even division."""
        return max(1, self.users // self.clients)


def facts_of_log(dataset: Dataset) -> dict[str, Any]:
    """Facts counted in one's own log: exact, so they are for its owner's eyes."""
    lengths = np.diff(dataset.sequences.offsets)
    return {
        "users": dataset.sequences.n_users,
        "items": dataset.catalogue.n_items,
        "median_length": int(np.quantile(lengths, 0.5)),
        "long_length": int(np.quantile(lengths, 0.9)),
        "source": f"own log {dataset.name}: exact, not released",
    }


def facts_of_run(run: Path) -> dict[str, Any]:
    """Facts that an earlier run released: enrolled users, items, and lengths from the users of its activity groups.

    Raises:
        InputError: the report names no users or items.
    """
    report = read_report(run)
    found: dict[str, Any] = {name: report.get(name) for name in ("users", "items", "clients")}
    if not found["users"] or not found["items"]:
        raise InputError(
            f"{run} says neither how many users nor how many items it had: give --users and --items"
        )
    found |= _lengths(report) | {"source": f"released by the run {run}"}
    return found


def _lengths(report: Mapping[str, Any]) -> dict[str, int | None]:
    """Quantiles as far as groups tell: the upper end of the group in which that share of the users is reached."""
    detail, scenario = report.get("detail") or {}, report.get("scenario") or {}
    bounds = (scenario.get("evaluation") or {}).get("group_bounds") or []
    counts = [group.get("users") for group in detail.get("groups") or []]
    if len(counts) != len(bounds) + 1 or any(count is None for count in counts):
        return {"median_length": None, "long_length": None}
    shares = np.cumsum(np.maximum(counts, 0.0)) / max(float(np.sum(np.maximum(counts, 0.0))), 1e-9)
    ends = [*(bound - 1 for bound in bounds), 2 * bounds[-1]]
    # Groups count training events; validation and test item come on top.
    reached = [ends[min(int(np.searchsorted(shares, q)), len(ends) - 1)] + 2 for q in (0.5, 0.9)]
    return {"median_length": reached[0], "long_length": reached[1]}


@dataclass(frozen=True)
class Choice:
    """One proposed setting and why."""

    setting: str
    value: Any
    reason: str


def choose(facts: PublicFacts, machine: Machine, *, size: str | None = None) -> list[Choice]:
    """The rules, in the order in which they are read.

    Args:
        facts: public.
        machine: of a client.
        size: instead of the rule's, after its step time turned out too long.
    """
    private = facts.epsilon is not None
    size = size or largest_size(facts, machine)
    choices = [
        Choice("privacy.mode", "on" if private else "off", "as asked"),
        *_budget(facts),
        _recipe(facts),
        _encoder(facts, machine),
        Choice("model.size", size, _why_size(facts, machine, size)),
        _window(facts),
    ]
    scenario = scenario_of(facts, choices)
    head = head_items(scenario, facts.users, facts.items)
    if has_gradient_rounds(scenario, facts.users):
        choices.append(_loss(private, head))
    method = statistics_method(scenario, facts.users, facts.items)
    why = "K = users / 6 · √(ε / 8), at most 4,000" if private else "all items, at most 4,000"
    choices.append(Choice("statistics.head", head, why))
    tower = (
        "from the head's transitions" if method == "matrix" else "of all items: their matrix would not fit"
    )
    choices.append(Choice("statistics.method", method, f"tower {tower}"))
    return choices


def scenario_of(facts: PublicFacts, choices: Sequence[Choice]) -> Scenario:
    """The scenario these choices make."""
    changes = {choice.setting: choice.value for choice in choices}
    changes |= {"simulation.clients": facts.clients, "privacy.delta": facts.delta}
    return override(Scenario(), changes)


def largest_size(facts: PublicFacts, machine: Machine) -> str:
    """The largest size worth its time: S under noise, M without, L where there is a GPU as well."""
    if facts.epsilon is not None or facts.users_a_client < _FEW_USERS_A_CLIENT:
        return "S"
    return "L" if machine.gpu is not None else "M"


def smaller(size: str) -> str | None:
    """The next smaller size, if there is one."""
    return {"L": "M", "M": "S"}.get(size)


def _budget(facts: PublicFacts) -> list[Choice]:
    return [] if facts.epsilon is None else [Choice("privacy.epsilon", facts.epsilon, "as asked")]


def _recipe(facts: PublicFacts) -> Choice:
    measured = read_measured()
    expected = expected_quality(measured, facts.users, facts.epsilon)
    where = "without privacy" if facts.epsilon is None else f"at ε = {expected['epsilon']:g}"
    reason = f"best of {', '.join(expected['recipes'])} with {expected['users']:,} users {where} (fedtower budget plan)"
    return Choice("recipe", expected["recommended"], reason)


def _encoder(facts: PublicFacts, machine: Machine) -> Choice:
    if facts.median_length is not None and facts.median_length < _SHORT_HISTORIES:
        reason = f"half of the users have fewer than {_SHORT_HISTORIES} events: their order says little"
        return Choice("encoder", "mean-pool", reason)
    if facts.users_a_client < _FEW_USERS_A_CLIENT:
        reason = f"{facts.users_a_client} users a client: too few for more parameters"
        return Choice("encoder", "mean-pool", reason)
    if facts.epsilon is None and machine.gpu is not None:
        return Choice("encoder", "gated-attention", "no noise and a GPU: the strongest in print")
    return Choice(
        "encoder", "attention", "order matters, and one block is enough where noise or a CPU bounds it"
    )


def _why_size(facts: PublicFacts, machine: Machine, size: str) -> str:
    if size != largest_size(facts, machine):
        return "the largest that fits into the time"
    if facts.epsilon is not None:
        return "fewest parameters: noise grows with their number"
    return {"S": "few users a client", "M": "no noise", "L": "no noise, and a GPU"}[size]


def _window(facts: PublicFacts) -> Choice:
    longest = _WINDOWS[-1] if facts.epsilon is None else _LONGEST_PRIVATE_WINDOW
    if facts.long_length is None:
        return Choice("model.max_length", 50, "history lengths are not known")
    fitting = [w for w in _WINDOWS if w <= longest]
    length = next((w for w in fitting if w >= facts.long_length), fitting[-1])
    return Choice("model.max_length", length, f"nine of ten users have at most {facts.long_length:,} events")


def _loss(private: bool, head: int) -> Choice:
    if private:
        return Choice("gradients.loss", "sampled-softmax", "under noise a user should move few rows")
    if head <= FULL_SOFTMAX_ITEMS:
        return Choice("gradients.loss", "softmax", f"all {head:,} items fit: no sampling to correct for")
    return Choice("gradients.loss", "sampled-softmax", f"{head:,} items are too many to score for every user")


def advise(
    facts: PublicFacts, machine: Machine, *, minutes: float = 10.0, calibrate: bool = True
) -> dict[str, Any]:
    """Propose a scenario.

    Args:
        facts: public.
        machine: of a client, this one.
        minutes: that a client's fit may take; a size that takes longer is left for the next smaller.
        calibrate: False proposes without step times.

    Returns:
        JSON values: ``facts``, ``machine``, ``choices``, ``scenario`` (settings by dotted name), ``time`` (None without
        calibration), ``releases`` with their ε, ``epsilon``.
    """
    choices = choose(facts, machine)
    timed = None
    while calibrate:
        scenario = scenario_of(facts, choices)
        steps = StepModel.calibrated(scenario, facts.items, median_length=facts.median_length)
        timed = steps.prediction(facts.users_a_client, facts.items)
        size = smaller(scenario.model.size)
        if timed["fit_seconds"] <= 60.0 * minutes or size is None:
            break
        choices = choose(facts, machine, size=size)
    scenario = scenario_of(facts, choices)
    statement = (
        plan_statement(scenario, users=facts.users, items=facts.items, clients=facts.clients)
        if scenario.private
        else None
    )
    return {
        "facts": asdict(facts),
        "machine": asdict(machine),
        "choices": [asdict(choice) for choice in choices],
        "scenario": _document(choices, facts),
        "time": timed,
        "releases": [] if statement is None else statement["releases"],
        "epsilon": None if statement is None else statement["epsilon"],
    }


def _document(choices: Sequence[Choice], facts: PublicFacts) -> dict[str, Any]:
    """The proposed TOML's tables: what was chosen, plain values first."""
    document: dict[str, Any] = {}
    for setting, value in [*((c.setting, c.value) for c in choices), ("privacy.delta", facts.delta)]:
        *sections, name = setting.split(".")
        target = document
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = value
    return document
