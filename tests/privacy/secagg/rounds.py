"""A whole federation in one process, with a hook wherever a test may want to lie or fall silent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from privacy.randomness import SeededRandomness
from privacy.secagg import (
    ClientMemory,
    Identity,
    Roster,
    RoundHeader,
    SecaggClient,
    SecaggPolicy,
    SecaggServer,
    Section,
    Suite,
    VectorSchema,
)

SESSION = b"test-session"
HASH = {
    name: bytes([code]) * 32 for code, name in enumerate(("task_hash", "model_hash", "catalogue_hash"), 1)
}
SMALL = (Section("gradient", 5, 32, 1000), Section("metrics", 3, 64, 10**9), Section("counts", 3, 16, 300))


def client_names(n: int) -> tuple[str, ...]:
    return tuple(f"silo-{k:02d}" for k in range(n))


class Federation:
    """n clients and a server that finished a key exchange."""

    def __init__(
        self,
        n: int = 4,
        *,
        suite: Suite = Suite.X25519,
        seed: int = 0,
        policy: SecaggPolicy | None = None,
        schema: VectorSchema | None = None,
        keys_exchanged: bool = True,
        memories: Mapping[str, ClientMemory] | None = None,
    ) -> None:
        self.names = client_names(n)
        self.randomness = SeededRandomness(seed)
        self.policy = policy or SecaggPolicy(suite=suite)
        self.schema = schema or VectorSchema(SMALL, max_clients=max(n, 3))
        self.identities = {name: Identity.generate(self.randomness.derive("id", name)) for name in self.names}
        self.roster = Roster({name: identity.public_bytes() for name, identity in self.identities.items()})
        self.clients = {
            name: SecaggClient(
                *(
                    name,
                    self.identities[name],
                    self.roster,
                    self.policy,
                    self.randomness.derive("client", name),
                ),
                memory=(memories or {}).get(name),
            )
            for name in self.names
        }
        self.server = SecaggServer(self.roster, suite=self.policy.suite)
        self.epoch = 0
        if keys_exchanged:
            self.exchange_keys()

    def exchange_keys(
        self, *, silent_keys: Iterable[str] = (), silent_confirmations: Iterable[str] = ()
    ) -> None:
        self.epoch += 1
        self.server.begin_epoch(SESSION, self.epoch, self.names)
        heard = [name for name in self.names if name not in set(silent_keys)]
        for name in heard:
            self.server.add_key(name, self.clients[name].advertise(SESSION, self.epoch, self.names))
        directory = self.server.key_directory()
        for name in heard:
            if name not in set(silent_confirmations):
                self.server.add_confirmations(name, self.clients[name].accept_keys(directory))
        for name, message in self.server.confirmations().items():
            self.clients[name].accept_confirmations(message)

    def header(self, number: int = 1, task: str = "gradients", **changes: Any) -> RoundHeader:
        hashes = {name: changes.pop(name, value) for name, value in HASH.items()}
        cohort = changes.pop("cohort", None)
        made = self.server.make_header(number, task, self.schema, cohort=cohort, **hashes)
        return replace(made, **changes)

    def values(self, number: int = 0) -> dict[str, dict[str, np.ndarray]]:
        generator = np.random.default_rng(number)
        return {
            name: {
                s.name: generator.integers(
                    -s.client_bound, s.client_bound, s.length, endpoint=True, dtype=np.int64
                )
                for s in self.schema.sections
            }
            for name in self.names
        }

    def open(self, header: RoundHeader) -> RoundHeader:
        return RoundHeader.decode(self.server.open_round(header, self.schema))

    def upload(self, header: RoundHeader, names: Iterable[str] | None = None, **options: Any) -> None:
        values = self.values(header.round)
        for name in header.cohort if names is None else names:
            message = self.clients[name].upload(header, self.schema, values[name], **options)
            self.server.add_upload(name, message)

    def agree(self, silent: Iterable[str] = ()) -> None:
        for name, message in self.server.survivors().items():
            if name not in set(silent):
                self.server.add_signature(name, self.clients[name].sign_survivors(message))

    def reveal(self, silent: Iterable[str] = ()) -> None:
        for name, message in self.server.reveal_requests().items():
            if name not in set(silent):
                self.server.add_reveal(name, self.clients[name].reveal(message))

    def run(
        self,
        header: RoundHeader | None = None,
        *,
        silent_upload: Iterable[str] = (),
        silent_agree: Iterable[str] = (),
        silent_reveal: Iterable[str] = (),
        **options: Any,
    ) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        header = self.open(header or self.header())
        self.upload(header, [name for name in header.cohort if name not in set(silent_upload)], **options)
        self.agree(silent_agree)
        self.reveal(silent_reveal)
        return self.server.result()

    def plain_sum(self, names: Iterable[str], number: int = 1) -> dict[str, np.ndarray]:
        values = self.values(number)
        return {
            s.name: sum((values[name][s.name] for name in names), np.zeros(s.length, np.int64))
            for s in self.schema.sections
        }


def same(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> bool:
    return set(left) == set(right) and all(np.array_equal(left[name], right[name]) for name in left)


Tamper = Callable[[bytes], bytes]
