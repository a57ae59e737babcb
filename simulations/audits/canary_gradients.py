"""Canaries in a round of the gradient release: users whose gradient the attacker knows, since she has their logs.

The round is the clients' own code. What it computes is one vector, [encoder || item tower], with one event; the tower's
part leaves, the encoder's part moves an encoder that other users of the client may question. So there are two views:

* ``as accounted``: tower and encoder, with the shares of the noise that are guaranteed. The encoder's part is read off
  the step that the encoder made. Here the claim should be met almost exactly.
* ``as released``: the tower's sum alone with everybody's share, which is what the server holds.

A softmax over all items and no dropout, whatever the scenario says: then a gradient follows from a log without a draw, and
who knows the log knows the gradient. Everybody takes part in the one round that is attacked, so that the claim needs no
sampling.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from client.gradients import GradientTrainer
from privacy.randomness import SeededRandomness
from server.scenario import Scenario
from simulations.audits.canary_release import ClaimedRelease, claimed_release
from simulations.audits.canary_scores import Scores
from simulations.audits.engine import History

_EVENTS_OF_A_CANARY = 6
_RIDGE = 1e-6  # relative; keeps canaries with nearly one gradient apart without moving the others
_RATE = 1.0  # of the encoder's step: large, so that 32-bit weights lose nothing of the noise that is read off them


class _Coins(SeededRandomness):
    """A stream that says who takes part as the coins do, and draws everything else."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.present = np.zeros(0, dtype=np.bool_)

    def restart(self, seed: bytes) -> None:
        """Begin another stream."""
        super().__init__(seed)

    def bernoulli(self, probability: float, n: int) -> NDArray[np.bool_]:
        """Who takes part in the round."""
        if probability != 1.0 or self.present.size != n:
            raise ValueError(f"a round with probability {probability} over {n} users is not the attacked one")
        return self.present


@dataclass(frozen=True)
class _Vector:
    encoder: NDArray[np.float64]
    tower: NDArray[np.float64]


class _Client:
    """One client whose round can be run again and again from the same encoder.

    Args:
        release: under audit.
        base: users whom the attacker knows; always there.
        logs: of all canaries.
        canaries: which of them are this client's.
    """

    def __init__(
        self, release: ClaimedRelease, base: list[History], logs: list[History], canaries: NDArray[np.int64]
    ) -> None:
        engine = release.engine
        model = engine.model()
        self.canaries = canaries
        self._base = np.arange(len(base))
        self._coins = _Coins(engine.seed)
        self._encoder = model.recommender.encoder
        self._start = copy.deepcopy(self._encoder.state_dict())
        self._terms = release.terms
        self._trainer = GradientTrainer(
            model,
            lambda: [*base, *(logs[k] for k in canaries)],
            engine.public,
            engine.settings,
            users=1,  # expected in the round: the encoder then moves by the sum itself
            randomness=self._coins,
        )
        self._known = self.row(self._base)

    def row(self, users: NDArray[np.int64]) -> _Vector:
        """What these users add to a round, without noise, in grid steps."""
        values = self._trainer.joint_sum(users, self._terms).values.astype(np.float64)
        split = self._trainer.encoder_parameters
        return _Vector(values[:split], values[split:])

    def step(self, coin: NDArray[np.bool_], seed: bytes) -> _Vector:
        """One round with the canaries whose coin says so: both parts with noise, less the base users, in grid steps."""
        self._coins.restart(seed)
        self._coins.present = np.concatenate([self._base >= 0, coin[self.canaries]])
        before = _flat(self._encoder)
        tower = self._trainer.step(self._terms)
        moved = (before - _flat(self._encoder)) / (_RATE * self._trainer.round_clip(self._terms).unit)
        self._encoder.load_state_dict(self._start)
        return _Vector(moved - self._known.encoder, tower - self._known.tower)


@dataclass(frozen=True)
class GradientCanaries:
    """Clients with canaries, and what each canary adds.

    Attributes:
        release: under audit.
        clients: by view; the canaries are dealt out among them.
        rows: ``[canaries, encoder]`` and ``[canaries, tower]`` in grid steps, the same at every client.
    """

    release: ClaimedRelease
    clients: dict[str, list[_Client]]
    rows: _Vector

    @property
    def count(self) -> int:
        """How many canaries there are."""
        return len(self.rows.tower)

    def attack(self, coin: NDArray[np.bool_], view: str, repetition: int) -> Scores:
        """One round at every client; the base users are known and subtracted."""
        sees_encoders = view == "as accounted"
        tower = np.zeros(self.release.terms.length)
        products = np.zeros(self.count)
        gram = self.rows.tower @ self.rows.tower.T
        noise = self.release.noise(view, repetition)
        for number, client in enumerate(self.clients[view]):
            seen = client.step(coin, noise.derive(str(number)).random_bytes(32))
            tower += seen.tower
            if sees_encoders:
                own = self.rows.encoder[client.canaries]
                products[client.canaries] += own @ seen.encoder
                gram[np.ix_(client.canaries, client.canaries)] += own @ own.T
        products += self.rows.tower @ tower
        squares = np.diag(gram)
        planted = coin.astype(np.float64)
        known = planted + (products - gram @ planted) / squares
        ridge = _RIDGE * float(squares.mean()) * np.eye(self.count)
        blind = np.linalg.solve(gram + ridge, products).astype(np.float64)
        return Scores(known, blind)


def plant_in_gradients(
    scenario: Scenario, *, epsilon: float, canaries: int, items: int, seed: int
) -> GradientCanaries:
    """A gradient round that claims epsilon on its own, with canaries in it.

    Args:
        scenario: the configuration; its encoder, clip norm (fixed or adaptive), clients and noise placement are used.
        epsilon: claimed.
        canaries: how many.
        items: of the catalogue.
        seed: of canaries and noise.
    """
    release = claimed_release(
        scenario,
        "gradients",
        epsilon=epsilon,
        items=items,
        seed=seed,
        changes={
            "model.dropout": 0.0,
            "gradients.loss": "softmax",
            "gradients.rounds": 1,
            "gradients.sampling_probability": 1.0,
            "gradients.client_learning_rate": _RATE,
        },
    )
    engine = release.engine
    random = np.random.default_rng(seed)
    logs = [random.integers(0, engine.n_items, _EVENTS_OF_A_CANARY) for _ in range(canaries)]
    everybody = _Client(release, [], logs, np.arange(canaries))
    rows = [everybody.row(np.array([k])) for k in range(canaries)]
    return GradientCanaries(
        release,
        {
            view: [
                _Client(release, engine.histories[k::count], logs, np.arange(canaries)[k::count])
                for k in range(count)
            ]
            for view, count in release.carriers.items()
        },
        _Vector(np.stack([row.encoder for row in rows]), np.stack([row.tower for row in rows])),
    )


def _flat(encoder: torch.nn.Module) -> NDArray[np.float64]:
    return torch.cat([p.detach().double().reshape(-1) for p in encoder.parameters()]).cpu().numpy()
