"""Read one user's history off a gradient upload: what the attack gets from each stage of the protection.

The attack of "Federated recommenders" practice (PFedRec's upload, and every sparse embedding update): the rows of the
item tower that moved most are the user's items. It is given the number of items to find, which is more than a server
knows. The client has one user here, so that nobody else's data hides hers before secure aggregation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.gradients import GradientTrainer
from privacy.bounded import UserContributions
from privacy.randomness import SeededRandomness
from privacy.secagg import Section, VectorSchema
from privacy.secagg.messages import Upload
from recsys_models.release_shapes import trained_rows
from server.scenario import Scenario, override
from simulations.attacks.upload_inversion import hits
from simulations.audits.engine import Engine, build_engine
from simulations.secagg_cohort import Cohort

WORKS_ABOVE = 0.5
NOTHING_BELOW = 0.1
"""Share found beyond what the popularity guess finds; the attack is averaged over users, so chance stays below this."""

_CLIENTS = 5


def run(scenario: Scenario, *, users: int = 20, seed: int = 0) -> dict[str, Any]:
    """Attack one gradient step of each of several users.

    Args:
        scenario: the configuration; its model, clip norm, negatives and noise are used.
        users: victims, each at a client of her own, one after the other.
        seed: of everything drawn.

    Returns:
        ``stages``: the share of the history found at each stage, beside the guess of the most popular items.
        ``findings``, ``ok``: the attack works on the unprotected update and gets nothing from what is sent.
    """
    engine = build_engine(override(scenario, {"gradients.min_users": 0, "recipe": "gradients"}), seed=seed)
    found: dict[str, list[float]] = {}
    for victim in range(min(users, len(engine.histories))):
        for stage, share in _attack(engine, victim).items():
            found.setdefault(stage, []).append(share)
    stages = {stage: float(np.mean(shares)) for stage, shares in found.items()}
    guess = stages["popularity guess"]
    findings = [
        f"{stage}: {stages[stage]:.2f} of a history found, the popularity guess finds {guess:.2f}"
        for stage in ("masked upload", "own upload, mask broken", "noised sum")
        if stages[stage] > guess + NOTHING_BELOW
    ]
    if not stages["unprotected update"] > WORKS_ABOVE:
        findings.append(
            f"the attack finds only {stages['unprotected update']:.2f} without protection: it shows nothing"
        )
    return {
        "stages": stages,
        "victims": len(found["popularity guess"]),
        "findings": findings,
        "ok": not findings,
    }


def _attack(engine: Engine, victim: int) -> dict[str, float]:
    position = engine.public.head_position
    # One real step: the victim's update alone, then the neighbours' that secure aggregation adds.
    updates = [_update(engine, (victim + k) % len(engine.histories)) for k in range(_CLIENTS)]
    terms = engine.terms("gradients")
    if terms.private:
        noised = [u + _noise(engine, victim * _CLIENTS + k) for k, u in enumerate(updates)]
    else:
        noised = updates
    # With an adaptive clip norm a count comes after the cells of the tower.
    log = engine.log([engine.histories[victim]])
    owned = position[log.training[0]]
    truth = np.unique(owned[owned >= 0])
    popular = np.argsort(-engine.public.popularity[engine.public.head], kind="stable")[: len(truth)]
    return {
        "popularity guess": float(np.isin(truth, popular).mean()),
        "unprotected update": hits(_by_item(engine, updates[0]), truth),
        "sum of 5 clients, no noise": hits(_by_item(engine, np.sum(updates, axis=0)), truth),
        "own upload, mask broken": hits(_by_item(engine, noised[0]), truth),
        "noised sum": hits(_by_item(engine, np.sum(noised, axis=0)), truth),
        "masked upload": hits(_by_item(engine, _masked(noised[0], victim)), truth),
    }


def _by_item(engine: Engine, cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """What an update says about each head item, ``[K, d]``: its row, or, without rows, what the map moves its content by."""
    head, dim = engine.public.head, int(engine.plan.settings["dim"])
    trained = engine.settings["gradients"]
    width: int = trained["content_width"]
    rows = trained_rows(trained["item_tower"], len(head))
    if rows:
        return cells[dim * width :][: rows * dim].reshape(rows, dim).astype(np.float64)
    return engine.public.content[head] @ cells[: dim * width].reshape(dim, width).T.astype(np.float64)


def _update(engine: Engine, user: int) -> NDArray[np.int64]:
    """The tower part of one user's clipped gradient."""
    terms = engine.terms("gradients")
    trainer = GradientTrainer(
        engine.model(),
        lambda: engine.log([engine.histories[user]]).training,
        engine.public,
        engine.settings,
        users=1,
        randomness=SeededRandomness(engine.seed + user),
    )
    total = trainer.joint_sum(np.array([0]), terms)
    split = trainer.encoder_parameters
    trainer.close()
    return total.values[split:]


def _noise(engine: Engine, number: int) -> NDArray[np.int64]:
    """One client's share, drawn as the client draws it: by protecting nothing."""
    terms = engine.terms("gradients")
    nobody = UserContributions.from_dense(np.zeros((0, terms.length)))
    return terms.protect(nobody, SeededRandomness(engine.seed + 1000 + number))


def _masked(values: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """The words that leave the client."""
    bound = int(np.abs(values).max()) + 1
    cohort = Cohort(3, VectorSchema([Section("sum", values.size, 32, bound)], 3), seed=number)
    cohort.exchange_keys()
    header = cohort.header(1)
    message = cohort.clients[cohort.names[0]].upload(header, cohort.schema, {"sum": values}, is_noised=True)
    return np.frombuffer(Upload.decode(message).body, dtype="<i4").astype(np.int64)


def format_table(result: dict[str, Any]) -> str:
    """The stages as text."""
    lines = [f"{'share of a history found':>24}  at"]
    lines += [f"{share:>24.2f}  {stage}" for stage, share in result["stages"].items()]
    lines += [f"FOUND {finding}" for finding in result["findings"]]
    lines.append(
        f"{result['victims']} victims: " + ("nothing beyond popularity" if result["ok"] else "see above")
    )
    return "\n".join(lines)
