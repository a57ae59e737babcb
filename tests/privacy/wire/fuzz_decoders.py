"""Fuzzing every decoder: whatever the bytes, the answer is a value or a ``ProtocolError``, quickly.

``python -m tests.privacy.wire.fuzz_decoders --seconds 600`` uses atheris (coverage-guided) where it is installed, else mutates
real messages blindly; the quick suite runs the latter for a moment.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from privacy.errors import ProtocolError
from privacy.secagg.evidence import Evidence
from privacy.secagg.labels import RoundHeader
from privacy.secagg.messages import (
    Agreement,
    KeyMessage,
    Reveal,
    RevealRequest,
    SurvivorList,
    Upload,
    decode_confirmations,
    decode_keys,
)
from privacy.secagg.schema import VectorSchema
from privacy.wire.codec import named_arrays_decode, parse_json
from privacy.wire.federation import Answer, Enrolment, OpenRound, Task

DECODERS: dict[str, Callable[[bytes], Any]] = {
    "named arrays": named_arrays_decode,
    "json": parse_json,
    "task": Task.decode,
    "open round": OpenRound.decode,
    "enrolment": Enrolment.decode,
    "answer": Answer.decode,
    "header": RoundHeader.decode,
    "schema": VectorSchema.decode,
    "evidence": Evidence.decode,
    "key message": KeyMessage.decode,
    "keys": decode_keys,
    "confirmations": decode_confirmations,
    "upload": Upload.decode,
    "survivors": SurvivorList.decode,
    "agreement": Agreement.decode,
    "reveal request": RevealRequest.decode,
    "reveal": Reveal.decode,
}
SLOWEST_S = 5.0


def one_input(data: bytes) -> None:
    """Give one input to every decoder; anything but a value or a ``ProtocolError`` escapes."""
    for name, decode in DECODERS.items():
        started = time.monotonic()
        with contextlib.suppress(ProtocolError):
            decode(data)
        if time.monotonic() - started > SLOWEST_S:
            raise TimeoutError(f"{name} took more than {SLOWEST_S} s for {len(data)} bytes")


def real_messages() -> list[bytes]:
    """Messages of a whole round, to start from."""
    vectors = json.loads((Path(__file__).parents[2] / "vectors" / "secagg.json").read_text())["round"]
    found = [
        bytes.fromhex(text)
        for kind in ("keys", "confirmations", "uploads", "agreements")
        for text in vectors[kind].values()
    ]
    found.append(Task("release", {"step": 0}, {}).encode())
    found.append(Answer(refusal="no").encode())
    found.append(Enrolment("client-01", bytes(32), 100, "0" * 64).encode())
    return found


def mutate(data: bytes, source: random.Random) -> bytes:
    """Flip, cut, insert, repeat; lengths and counts are hit often because they lie near the front."""
    mutated = bytearray(data)
    for _ in range(source.randint(1, 6)):
        at = min(int(source.expovariate(1 / 40)), max(len(mutated) - 1, 0))
        action = source.randrange(5)
        if action == 0 and mutated:
            mutated[at] = source.randrange(256)
        elif action == 1:
            del mutated[at : at + source.randint(1, 8)]
        elif action == 2:
            mutated[at:at] = source.randbytes(source.randint(1, 8))
        elif action == 3 and mutated:
            mutated[at : at + 4] = source.choice([b"\xff\xff\xff\xff", bytes(4), b"\xff\xff\xff\x7f"])
        else:
            del mutated[source.randint(0, len(mutated)) :]
    return bytes(mutated)


def fuzz_blindly(seconds: float, seed: int) -> int:
    """Mutate real messages for a while; returns how many inputs every decoder saw."""
    source = random.Random(seed)
    messages = real_messages()
    inputs = 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        one_input(mutate(source.choice(messages), source))
        inputs += 1
    return inputs


def main() -> None:
    """Fuzz from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        inputs = fuzz_blindly(options.seconds, options.seed)
        print(
            f"{inputs} inputs, {len(DECODERS)} decoders, 0 surprises (atheris is not installed: blind mutation)"
        )
        return
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-max_total_time={int(options.seconds)}"], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
