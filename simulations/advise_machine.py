"""How long a client's training step takes here: a short calibration on generated users, and a straight line through it.

A step's cost grows with the users it looks at and, for each of them, with the catalogue she is scored against. Three small
workloads, each run with few and with more steps, give the three numbers; the client is a real one, asked to fit by the message
a server would send.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client.behaviour_log import BehaviourLog
from client.config import build_client
from client.handlers import ClientHandlers
from privacy.accounting.plan import FederationPlan
from privacy.errors import InputError
from privacy.randomness import SeededRandomness
from privacy.secagg.keys import Identity, Roster
from privacy.wire import federation as wire
from privacy.wire.federation import Answer, Task
from recsys_models.data.catalogue import Catalogue
from recsys_models.data.sequences import Sequences
from recsys_models.devices import resolve_device
from recsys_models.retrieval.transitions import SmoothTransitions, TransitionReadings, from_head
from server.item_tower import random_tower
from server.plan import make_plan
from server.scenario import Scenario, override
from simulations.run import simulated_policy

_TYPICAL_LENGTH = 40
_CLIENT = "calibration"
_FEW = 2
_STEPS = 8
_REPEATS = 2
_FEW_USERS, _MOST_USERS = 64, 256  # of a step that looks at everybody who is drawn
_BATCHES = 4  # times as many where a step takes a batch of 64 of them
_FEW_ITEMS, _MOST_ITEMS = 300, 4000
_CHECKED_S = 2.0


@dataclass(frozen=True)
class Machine:
    """What a proposal needs to know of a machine.

    Attributes:
        cores: this process may use.
        ram_gb: of memory; None where the system does not say.
        gpu: name, or None.
    """

    cores: int
    ram_gb: float | None
    gpu: str | None


def this_machine(device: str = "auto") -> Machine:
    """This machine, as a process here sees it."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    try:
        ram = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        ram = None
    chosen = resolve_device(device)
    return Machine(cores, ram, torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else None)


@dataclass(frozen=True)
class StepModel:
    """Seconds of one step of the encoder's fit, around a workload that was measured.

    The users are those whom a step looks at, under privacy the share that is drawn. Each adds the same; of that, a part
    grows with the catalogue.

    Attributes:
        scenario: what was calibrated.
        length: events of a generated user.
        at: users and items of the measured workload.
        measured: its seconds.
        a_user: what one user more took there.
        an_item: what one item more took there.
    """

    scenario: Scenario
    length: int
    at: tuple[int, int]
    measured: float
    a_user: float
    an_item: float

    @classmethod
    def calibrated(cls, scenario: Scenario, items: int, *, median_length: int | None = None) -> StepModel:
        """Run the three workloads, one of them with the catalogue's own size if that is not too large; takes seconds."""
        length = max(5, min(median_length or _TYPICAL_LENGTH, 4 * scenario.model.max_length))
        # Everybody is drawn, so that chance does not decide how much work a workload is.
        everybody = override(scenario, {"fit.sampling_probability": 1.0})
        batches = 1 if _is_drawn(scenario) else _BATCHES
        low, high = _FEW_USERS * batches, _MOST_USERS * batches
        some = min(max(items, 2 * _FEW_ITEMS), _MOST_ITEMS)
        few, many = (step_seconds(everybody, users, some, length) for users in (low, high))
        narrow = step_seconds(everybody, high, _FEW_ITEMS, length)
        a_user = max((many - few) / (high - low), 0.0)
        an_item = max((many - narrow) / (some - _FEW_ITEMS), 0.0)
        return cls(scenario, length, (high, some), many, a_user, an_item)

    def seconds(self, users: int, items: int) -> float:
        """Predicted seconds of a step for a client of so many users."""
        looked_at = users * (self.scenario.fit.sampling_probability if _is_drawn(self.scenario) else 1.0)
        high, some = self.at
        # Items cost per user, so their price grows with the users; the rest of a step does not know the catalogue.
        per_item = self.an_item * (
            looked_at / high if self.a_user > 0.0 and _is_drawn(self.scenario) else 1.0
        )
        seconds = self.measured + (looked_at - high) * self.a_user + (items - some) * per_item
        return max(seconds, 0.01 * self.measured)

    def prediction(self, users: int, items: int) -> dict[str, Any]:
        """Step and whole fit of one client, as JSON values."""
        steps = units_of(_plan(self.scenario, users, items))
        step = self.seconds(users, items)
        return {
            "users_a_client": users,
            "step_seconds": step,
            "steps": steps,
            "fit_seconds": step * steps,
            "median_length": self.length,
            "clock": _clock_name(self.scenario),
        }


def measured_step(scenario: Scenario, users: int, items: int, length: int, expected: float) -> float:
    """One step at full size, measured: what ``--check`` holds a prediction against.

    Args:
        scenario: as proposed.
        users: of one client.
        items: of the catalogue.
        length: events of a generated user.
        expected: seconds; only decides how many steps are measured.
    """
    steps = int(min(max(_CHECKED_S / max(expected, 1e-3), 2.0), 40.0))
    looked_at = users
    if _is_drawn(scenario):
        # As many as are drawn on average, all of them: chance is no part of the figure, nor is accounting for it.
        looked_at = max(1, round(users * scenario.fit.sampling_probability))
        scenario = override(scenario, {"fit.sampling_probability": 1.0})
    return step_seconds(scenario, looked_at, items, length, steps)


def step_seconds(scenario: Scenario, users: int, items: int, length: int, steps: int = _STEPS) -> float:
    """Seconds of one step: a fit of some steps less one of few, which cancels what is done once."""
    pairs = [
        [_fit_seconds(scenario, users, items, length, units) for units in (_FEW, _FEW + steps)]
        for _ in range(_REPEATS)
    ]
    few, more = (min(times) for times in zip(*pairs, strict=True))
    return max(more - few, 0.0) / steps


def _is_drawn(scenario: Scenario) -> bool:
    """Whether a step looks at everybody who is drawn by chance, rather than at a batch."""
    return scenario.private and scenario.privacy.protect_within_client


def units_of(plan: FederationPlan) -> int:
    """Steps of the private fit a plan asks for, or epochs of the ordinary one."""
    charged = [release.steps for release in plan.releases if release.kind == "fit"]
    return charged[0] if charged else int(plan.settings["fit"]["epochs"])


def _plan(scenario: Scenario, users: int, items: int, catalogue_sha256: str = "00" * 32) -> FederationPlan:
    return make_plan(
        scenario,
        session="5a" * 16,
        users_of={_CLIENT: users, "other-1": users, "other-2": users},
        n_items=items,
        catalogue_sha256=catalogue_sha256,
    )


def _fit_seconds(scenario: Scenario, users: int, items: int, length: int, units: int) -> float:
    # Fixed noise: fitting a budget to sampled steps takes longer than the steps.
    changes: dict[str, Any] = {
        "fit.steps": units,
        "fit.epochs": units,
        "recipe": "statistics",
        "gradients": {},
        "evaluation.detail": "off",
        "statistics.head": min(items, 50),
        "statistics.method": "matrix",
    }
    if scenario.private:
        fixed = ("popularity", "statistics", "metrics-statistics", "fit", "metrics-final")
        charged = fixed if scenario.privacy.protect_within_client else (*fixed[:3], fixed[4])
        changes["privacy.noise_multipliers"] = dict.fromkeys(charged, 100.0)
    asked = override(scenario, changes)
    log = _generated(users, items, length)
    with tempfile.TemporaryDirectory(prefix="fedtower-advise-") as folder:
        client = _client(asked, log, Path(folder))
        plan = _plan(asked, users, items, log.sequences.catalogue.sha256)
        _ask(client, wire.AGREE, Task("plan", plan.to_json()))
        task = Task("fit", arrays=_public(plan, items))
        started = _clock(asked)
        _ask(client, wire.FIT, task)
        return _clock(asked) - started


def _generated(users: int, items: int, length: int) -> BehaviourLog:
    """Users of one length with Zipf popularity: what they like is of no account to how long a step takes."""
    random = np.random.default_rng(0)
    weights = 1.0 / np.arange(1, items + 1)
    histories = random.choice(items, size=users * length, p=weights / weights.sum()).astype(np.int64)
    catalogue = Catalogue([f"item-{k}" for k in range(items)])
    offsets = np.arange(users + 1, dtype=np.int64) * length
    return BehaviourLog(Sequences([f"user-{k}" for k in range(users)], histories, offsets, catalogue))


def _public(plan: FederationPlan, items: int) -> dict[str, Any]:
    head = np.arange(min(int(plan.settings["head"]), items), dtype=np.int64)
    random = np.random.default_rng(1)
    factors = random.random((2, items, min(16, len(head)))).astype(np.float32)
    cells = from_head(random.random((len(head), len(head))), head, items)
    transitions = TransitionReadings(cells, SmoothTransitions(factors[0], factors[1]))
    return {
        "popularity": (1.0 / np.arange(1, items + 1)).astype(np.float32),
        "head": head,
        "item_tower": random_tower(np.arange(items), items, int(plan.settings["dim"]), 2),
        **transitions.to_arrays(),
    }


def _client(scenario: Scenario, log: BehaviourLog, folder: Path) -> ClientHandlers:
    randomness = SeededRandomness(0)
    identity = Identity.generate(randomness.derive("identity"))
    policy = simulated_policy(scenario).model_copy(update={"max_epsilon": 1e6})
    return build_client(
        _CLIENT,
        log,
        identity=identity,
        roster=Roster({_CLIENT: identity.public_bytes()}),
        policy=policy,
        randomness=randomness,
        state_dir=folder,
        device=scenario.device,
    )


def _ask(client: ClientHandlers, kind: str, task: Task) -> None:
    answer = Answer.decode(client.answer(kind, task.encode()))
    if answer.refusal:
        raise InputError(f"the calibration's own client refused {kind}: {answer.refusal}")


def _clock(scenario: Scenario) -> float:
    """CPU seconds of this process, which other programs do not lengthen; on a GPU, seconds on the wall."""
    if _clock_name(scenario) == "wall":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def _clock_name(scenario: Scenario) -> str:
    return "wall" if resolve_device(scenario.device).type == "cuda" else "cpu"
