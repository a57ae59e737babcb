"""What the attacks share: a small cohort with a victim, its vector, and the attacker's arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from privacy.secagg import RoundHeader, Section, VectorSchema, guards, masks, ring, shamir
from privacy.secagg.client_round import pair_position
from privacy.secagg.messages import Reveal, SurvivorList, Upload
from privacy.secagg.secret import Secret

BOUND = 1000
WORDS = 400


def schema(clients: int, words: int = WORDS) -> VectorSchema:
    """One section of 32-bit words."""
    return VectorSchema([Section("x", words, 32, BOUND)], clients)


def vectors(names: Iterable[str], seed: int, words: int = WORDS) -> dict[str, NDArray[np.int64]]:
    """Random integers for every client; never 0, so that a zero guess is never right by luck."""
    generator = np.random.default_rng(seed)
    return {name: 2 * generator.integers(-BOUND // 2, BOUND // 2, words) + 1 for name in names}


def recovered(guess: NDArray[np.int64] | None, truth: NDArray[np.int64]) -> float:
    """The fraction of the victim's integers that the attacker knows exactly."""
    return 0.0 if guess is None else float(np.mean(guess == truth))


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Guards disabled for a while: the same system, minus one defence."""
    originals = {name: getattr(guards, name) for name in names}
    for name in names:
        setattr(guards, name, lambda *_: None)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(guards, name, original)


def unmask_victim(
    victim: str,
    upload: bytes,
    header: RoundHeader,
    schema: VectorSchema,
    as_survivor: tuple[SurvivorList, Mapping[str, bytes]],
    as_dropped: tuple[SurvivorList, Mapping[str, bytes]],
) -> NDArray[np.int64] | None:
    """Strip one upload with both kinds of share, if enough of both were revealed.

    Args:
        victim: whose upload it is.
        upload: its message.
        header: of the round.
        schema: of the vector.
        as_survivor: a list that names the victim, and what was revealed for it (self-mask shares).
        as_dropped: a list without the victim, and what was revealed for that (pair seed shares).
    """
    survivors, self_reveals = as_survivor
    others, pair_reveals = as_dropped
    if min(len(self_reveals), len(pair_reveals)) < header.threshold:
        return None
    row = [s.client_id for s in survivors.survivors].index(victim)
    own = _rebuild(header, {n: Reveal.decode(m).self_shares[row] for n, m in self_reveals.items()})
    names = [s.client_id for s in others.survivors]
    dropped = [name for name in header.cohort if name not in names]
    column = dropped.index(victim)
    plus: list[Secret] = []
    minus = [own]
    for place, peer in enumerate(names):
        at = place * len(dropped) + column
        seed = _rebuild(header, {n: Reveal.decode(m).pair_shares[at] for n, m in pair_reveals.items()})
        (minus if peer > victim else plus).append(seed)
    body = np.frombuffer(Upload.decode(upload).body, dtype=np.uint8).copy()
    masks.add_masks(schema, body, header.label(schema), plus=plus, minus=minus)
    return ring.decode(schema, body)["x"]


def _rebuild(header: RoundHeader, shares: Mapping[str, bytes]) -> Secret:
    holders = sorted(shares)[: header.threshold]
    weights = shamir.lagrange_at_zero([header.cohort.index(holder) + 1 for holder in holders])
    return Secret(shamir.combine([shares[holder] for holder in holders], weights))


def bundle_for(destination: str, source: str, upload: bytes, header: RoundHeader) -> bytes:
    """The bundle that ``source`` sealed to ``destination``."""
    return Upload.decode(upload).bundles[pair_position(header.cohort, source, destination) - 1]
