"""What a client remembers across rounds and restarts, so as to refuse a second answer (protocol §9.3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from privacy.errors import InputError, ProtocolError
from privacy.wire.codec import canonical_json, parse_json

MEMORY_VERSION = 1


@dataclass
class Answer:
    """How often one (task, model) was answered, and whether an answer was carried to its end."""

    attempts: int = 0
    is_complete: bool = False


@dataclass
class ClientMemory:
    """A client's record of what it already gave.

    Attributes:
        positions: per session (hexadecimal) the last (epoch, round) used.
        answers: per (task, model hash in hexadecimal) what was answered.
        releases: the survivor sets of all sums that carried no noise. Not per session: sessions are named by
            the server.

    Guarantees:
        Entries are made *before* the upload, agreement or reveal that they record. Whoever stores the memory
        (``to_json``) must do so before sending the bytes that caused the change; a crash then counts as an
        answer.
    """

    positions: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    answers: dict[tuple[str, str], Answer] = field(default_factory=dict[tuple[str, str], Answer])
    releases: set[frozenset[str]] = field(default_factory=set[frozenset[str]])

    def position(self, session: bytes) -> tuple[int, int]:
        """The last (epoch, round) of a session; (-1, 0) before the first."""
        return self.positions.get(session.hex(), (-1, 0))

    def advance(self, session: bytes, epoch: int, number: int) -> None:
        """Note that this position is used, whatever becomes of it."""
        self.positions[session.hex()] = (epoch, number)

    def answer(self, task: str, model_hash: bytes) -> Answer:
        """The record of one (task, model); blank if there is none yet."""
        return self.answers.get((task, model_hash.hex()), Answer())

    def begin_answer(self, task: str, model_hash: bytes) -> None:
        """Note one more attempt to answer."""
        self.answers.setdefault((task, model_hash.hex()), Answer()).attempts += 1

    def complete_answer(self, task: str, model_hash: bytes) -> None:
        """Note that an answer was carried to its end."""
        self.answers.setdefault((task, model_hash.hex()), Answer()).is_complete = True

    def to_json(self) -> bytes:
        """Canonical JSON of the whole memory."""
        return canonical_json(
            {
                "version": MEMORY_VERSION,
                "positions": {session: list(position) for session, position in self.positions.items()},
                "answers": [
                    [task, model, answer.attempts, answer.is_complete]
                    for (task, model), answer in sorted(self.answers.items())
                ],
                "releases": sorted(sorted(release) for release in self.releases),
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> ClientMemory:
        """Read a memory back.

        Raises:
            InputError: the record is damaged; a client without a sound memory must not answer.
        """
        try:
            stored: Any = parse_json(data)
            if stored["version"] != MEMORY_VERSION:
                raise InputError(f"client memory has version {stored['version']}, not {MEMORY_VERSION}")
            return cls(
                {
                    session: (int(epoch), int(number))
                    for session, (epoch, number) in stored["positions"].items()
                },
                {(str(t), str(m)): Answer(int(n), bool(done)) for t, m, n, done in stored["answers"]},
                {frozenset(map(str, release)) for release in stored["releases"]},
            )
        except (ProtocolError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"client memory is damaged ({error}); restore it, or enrol the client anew"
            ) from None
