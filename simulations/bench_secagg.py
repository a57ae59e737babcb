"""What secure aggregation costs: CPU time and bytes, beside Flower's SecAgg+ in the same process.

All times are CPU time of this process. Flower's client is its own code, unmodified; its server's arithmetic
is the loop of its ``SecAggPlusWorkflow`` with its own primitives, without its messaging.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from privacy.errors import InputError
from privacy.secagg import Section, VectorSchema, masks
from privacy.secagg.secret import Secret
from simulations import bench_flower_secagg
from simulations.secagg_cohort import Cohort

T = TypeVar("T")
VALUE_BOUND = 1 << 20
STREAM_BYTES = 256 << 20
CLIENT_SPEEDUP, SERVER_SPEEDUP = 8, 40
STREAM_SHARE = 0.75
UPLOAD_MARGIN = 0.03


def run(
    clients: Sequence[int] = (10, 20, 50),
    words: Sequence[int] = (100_000,),
    dropout: float = 0.1,
    against_flower: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure one round per combination of cohort size and vector length.

    Args:
        clients: cohort sizes, each 3 or more.
        words: numbers of 32-bit words per vector.
        dropout: share of the cohort, rounded down, that exchanges keys and then never uploads; at most 0.3.
        against_flower: also run Flower's SecAgg+ with the same cohort, vector length and dropouts. Expect
            minutes from 50 clients x 100 000 words upwards.
        seed: of the values.

    Returns:
        ``rows``, one per combination: ``client_ms`` is one client's round, ``epoch_ms_per_client`` its part
        of a key exchange, which serves up to 1000 rounds. ``mask_stream``: GB/s of ours and of ``openssl
        speed``. ``ok``: whether all sums were exact.
    """
    if not 0.0 <= dropout <= 0.3:
        raise InputError(f"dropout={dropout} must lie in [0, 0.3]; more is beyond the threshold")
    rows: list[dict[str, Any]] = []
    for n in clients:
        for length in words:
            row = measure_ours(n, length, int(dropout * n), seed)
            if against_flower:
                theirs = bench_flower_secagg.measure(n, length, int(dropout * n), seed)
                row |= {f"flower_{name}": value for name, value in theirs.items()}
                # Flower makes new keys every round; to be fair, ours is charged a whole epoch for one round.
                row["client_speedup"] = theirs["client_ms"] / (row["client_ms"] + row["epoch_ms_per_client"])
                row["server_speedup"] = theirs["server_ms"] / row["server_ms"]
            rows.append(row)
    return {"rows": rows, "mask_stream": mask_stream(), "ok": all(row["exact"] for row in rows)}


def shortfalls(result: dict[str, Any]) -> list[str]:
    """What misses its reach, one line each: speed against Flower at 50 x 1e5, mask stream, bytes on the wire."""
    missed: list[str] = []
    for row in result["rows"]:
        if (row["clients"], row["words"]) == (50, 100_000) and "client_speedup" in row:
            for side, reach in (("client", CLIENT_SPEEDUP), ("server", SERVER_SPEEDUP)):
                if row[f"{side}_speedup"] < reach:
                    missed.append(f"{side} is {row[f'{side}_speedup']:.1f} x Flower's speed, below {reach} x")
        # Beside the words an upload holds sealed shares, quadratic in the cohort and independent of the length.
        if row["words"] >= 1_000_000 and abs(row["upload_bytes"] / (4 * row["words"]) - 1) > UPLOAD_MARGIN:
            missed.append(
                f"an upload of {row['words']} words has {row['upload_bytes']} bytes, not 4 bytes a word ± 3 %"
            )
    reference = result["mask_stream"]["openssl_speed_gb_per_s"]
    if reference and result["mask_stream"]["stream_gb_per_s"] < STREAM_SHARE * reference:
        missed.append(
            f"the mask stream is slower than {STREAM_SHARE:.0%} of openssl speed's {reference:.1f} GB/s"
        )
    return missed


def measure_ours(n: int, words: int, dropped: int, seed: int) -> dict[str, Any]:
    """One round of n clients of which the last ``dropped`` never upload; medians over clients."""
    cohort = Cohort(n, VectorSchema([Section("x", words, 32, VALUE_BOUND)], n), seed=seed)
    _, epoch_ms = timed(cohort.exchange_keys)
    values = _values(cohort.names, words, seed)
    header = cohort.header(1)
    clock = _Clock()
    cohort.server.open_round(header, cohort.schema)
    sizes: list[int] = []
    for name in cohort.names[: n - dropped]:
        client, value = cohort.clients[name], {"x": values[name]}
        message = clock.client("upload", lambda c=client, v=value: c.upload(header, cohort.schema, v))
        sizes.append(len(message))
        clock.server(lambda n=name, m=message: cohort.server.add_upload(n, m))
    for name, message in clock.server(cohort.server.survivors).items():
        client = cohort.clients[name]
        signed = clock.client("agree", lambda c=client, m=message: c.sign_survivors(m))
        clock.server(lambda n=name, m=signed: cohort.server.add_signature(n, m))
    for name, message in clock.server(cohort.server.reveal_requests).items():
        client = cohort.clients[name]
        revealed = clock.client("reveal", lambda c=client, m=message: c.reveal(m))
        clock.server(lambda n=name, m=revealed: cohort.server.add_reveal(n, m))
    sums, survivors = clock.server(cohort.server.result)
    plain = np.sum([values[name] for name in survivors], axis=0)
    steps = {f"{step}_ms": float(np.median(times)) for step, times in clock.steps.items()}
    return {
        "clients": n,
        "words": words,
        "dropped": dropped,
        "exact": bool(np.array_equal(sums["x"], plain)),
        "client_ms": sum(steps.values()),
        **steps,
        "server_ms": clock.server_ms,
        "epoch_ms_per_client": epoch_ms / n,
        "upload_bytes": int(np.median(sizes)),
    }


def mask_stream() -> dict[str, float | None]:
    """GB/s of the mask stream alone, fused into a vector, and of ``openssl speed`` (None if not there)."""
    stream = masks.open_stream(Secret(bytes(range(32))))
    chunk, scratch = bytes(masks.CHUNK_BYTES), bytearray(masks.CHUNK_BYTES + 16)

    def generate() -> None:
        for _ in range(STREAM_BYTES // masks.CHUNK_BYTES):
            stream.update_into(chunk, scratch)

    schema = VectorSchema([Section("x", 1 << 20, 32, 1)], 3)
    vector = np.zeros(schema.byte_length, dtype=np.uint8)
    seeds = [Secret(bytes([k]) * 32) for k in range(STREAM_BYTES // schema.byte_length)]
    _, stream_ms = timed(generate)
    _, fused_ms = timed(lambda: masks.add_masks(schema, vector, bytes(32), plus=seeds))
    return {
        "stream_gb_per_s": STREAM_BYTES / stream_ms / 1e6,
        "fused_gb_per_s": STREAM_BYTES / fused_ms / 1e6,
        "openssl_speed_gb_per_s": openssl_speed(),
    }


def openssl_speed() -> float | None:
    """What ``openssl speed -evp aes-256-ctr`` reports for pieces of the size we use, in GB/s."""
    program = shutil.which("openssl")
    if program is None:
        return None
    command = [program, "speed", "-evp", "aes-256-ctr", "-bytes", str(masks.CHUNK_BYTES), "-seconds", "1"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    found = re.search(r"^aes-256-ctr\s+([\d.]+)k", output, re.IGNORECASE | re.MULTILINE)
    return float(found.group(1)) / 1e6 if found else None


def format_table(result: dict[str, Any]) -> str:
    """The measurements as text."""
    has_flower = any("flower_client_ms" in row for row in result["rows"])
    lines = [
        f"{'clients':>7} {'words':>9} {'drop':>4} {'client ms':>9} {'server ms':>9} {'upload kB':>9} "
        f"{'epoch ms':>8} {'exact':>5}"
        + (f" | {'Flower client':>13} {'server':>9} {'upload kB':>9}  faster" if has_flower else "")
    ]
    for row in result["rows"]:
        line = (
            f"{row['clients']:>7} {row['words']:>9} {row['dropped']:>4} {row['client_ms']:>9.1f} "
            f"{row['server_ms']:>9.1f} {row['upload_bytes'] / 1e3:>9.0f} "
            f"{row['epoch_ms_per_client']:>8.1f} {row['exact']!s:>5}"
        )
        if "flower_client_ms" in row:
            line += (
                f" | {row['flower_client_ms']:>13.1f} {row['flower_server_ms']:>9.0f} "
                f"{row['flower_upload_bytes'] / 1e3:>9.0f}  x{row['client_speedup']:.0f} client, "
                f"x{row['server_speedup']:.0f} server"
            )
        lines.append(line)
    speed = result["mask_stream"]
    reference = speed["openssl_speed_gb_per_s"]
    lines.append(
        f"mask stream {speed['stream_gb_per_s']:.1f} GB/s, "
        f"fused with adding {speed['fused_gb_per_s']:.1f} GB/s"
        + (f", openssl speed {reference:.1f} GB/s" if reference else "")
    )
    return "\n".join(lines)


def timed(action: Callable[[], T]) -> tuple[T, float]:
    """The result and the CPU milliseconds it took."""
    start = time.process_time()
    result = action()
    return result, 1e3 * (time.process_time() - start)


class _Clock:
    """Adds up the server's CPU time and keeps every client's, by step."""

    def __init__(self) -> None:
        self.server_ms = 0.0
        self.steps: dict[str, list[float]] = {}

    def client(self, step: str, action: Callable[[], T]) -> T:
        result, spent = timed(action)
        self.steps.setdefault(step, []).append(spent)
        return result

    def server(self, action: Callable[[], T]) -> T:
        result, spent = timed(action)
        self.server_ms += spent
        return result


def _values(names: Sequence[str], words: int, seed: int) -> dict[str, NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    return {name: generator.integers(-VALUE_BOUND, VALUE_BOUND, words, dtype=np.int64) for name in names}
