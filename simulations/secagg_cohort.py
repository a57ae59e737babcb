"""Clients of secure aggregation and their server in one process: for demos, benchmarks, attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.randomness import RandomSource, SeededRandomness
from privacy.secagg import (
    Identity,
    Roster,
    RoundHeader,
    SecaggClient,
    SecaggPolicy,
    SecaggServer,
    Suite,
    VectorSchema,
)

SESSION = b"simulation"
Values = Mapping[str, NDArray[np.int64]]
ClientFactory = Callable[..., SecaggClient]


class Cohort:
    """n enrolled clients with their keys exchanged, and an honest server.

    Args:
        n: number of clients.
        schema: what one vector holds.
        seed: of all randomness; the keys are therefore simulated.
        policy: of every client; the default one with room for n clients if None.
        make_client: ``SecaggClient`` or a subclass that misbehaves.
    """

    def __init__(
        self,
        n: int,
        schema: VectorSchema,
        *,
        seed: int = 0,
        policy: SecaggPolicy | None = None,
        make_client: ClientFactory = SecaggClient,
    ) -> None:
        self.names = tuple(f"client-{k:03d}" for k in range(n))
        self.schema = schema
        self.policy = policy or SecaggPolicy(max_cohort=max(n, 50), suite=Suite.X25519_MLKEM768)
        randomness: RandomSource = SeededRandomness(seed)
        self.identities = {
            name: Identity.generate(randomness.derive("identity", name)) for name in self.names
        }
        self.roster = Roster({name: identity.public_bytes() for name, identity in self.identities.items()})
        self.clients = {
            name: make_client(
                *(name, self.identities[name], self.roster, self.policy, randomness.derive("client", name))
            )
            for name in self.names
        }
        self.server = SecaggServer(self.roster, suite=self.policy.suite)
        self.reveals: list[bytes] = []  # what clients revealed in the latest round

    def exchange_keys(self, epoch: int = 1) -> None:
        """Begin an epoch with everybody."""
        self.server.begin_epoch(SESSION, epoch, self.names)
        for name, client in self.clients.items():
            self.server.add_key(name, client.advertise(SESSION, epoch, self.names))
        directory = self.server.key_directory()
        for name, client in self.clients.items():
            self.server.add_confirmations(name, client.accept_keys(directory))
        for name, message in self.server.confirmations().items():
            self.clients[name].accept_confirmations(message)

    def header(self, number: int, *, task: str = "gradients", model_hash: bytes | None = None) -> RoundHeader:
        """The header of a round; by default every round is about a model of its own."""
        return self.server.make_header(
            *(number, task, self.schema),
            task_hash=bytes(32),
            model_hash=model_hash or number.to_bytes(32, "little"),
            catalogue_hash=bytes(32),
        )

    def run_round(
        self,
        header: RoundHeader,
        values: Mapping[str, Values],
        *,
        silent_upload: Iterable[str] = (),
        silent_agree: Iterable[str] = (),
        silent_reveal: Iterable[str] = (),
        **options: Any,
    ) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
        """One round in which some clients fall silent before a step; ``options`` go to ``upload``.

        Raises:
            ProtocolError, PolicyRefusal: the round failed; no sum exists.
        """
        self.reveals = []
        self.server.open_round(header, self.schema)
        for name in header.cohort:
            if name not in set(silent_upload):
                message = self.clients[name].upload(header, self.schema, values[name], **options)
                self.server.add_upload(name, message)
        for name, message in self.server.survivors().items():
            if name not in set(silent_agree):
                self.server.add_signature(name, self.clients[name].sign_survivors(message))
        for name, message in self.server.reveal_requests().items():
            if name not in set(silent_reveal):
                revealed = self.clients[name].reveal(message)
                self.reveals.append(revealed)
                self.server.add_reveal(name, revealed)
        return self.server.result()
