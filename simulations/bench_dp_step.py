"""One private training step on encoder and item table: time and memory of engines, interleaved in one run.

All take the same step on the same users: an attention encoder and an item table, sampled softmax with negatives of each
user's own, SGD. "no DP" makes the dense gradient of the table that PyTorch makes, and the dense update. Ours adds exact
discrete noise from a cryptographic stream; Opacus' hooks add floating-point noise from torch's generator. Times are CPU
time of this process, on one thread.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privacy.bounded import BoundedSum
from privacy.errors import InputError
from privacy.mechanisms.discrete_gaussian import add_noise
from privacy.mechanisms.lazy_noise import LazyNoise
from privacy.randomness import SystemRandomness
from privacy.user_gradients.clipped_sum import Method, clipped_sum, wrap_for
from privacy.user_gradients.engine import encoder_size, per_user_gradients, set_encoder_gradient
from privacy.user_gradients.ghost import GhostEncoder
from privacy.user_gradients.reference_engines import Step, hooks_step, plain_step
from recsys_models.batches import NextItemBatch, next_item_batch
from recsys_models.encoders.registry import build_encoder
from recsys_models.negatives import CatalogueSampler

USERS, LENGTH, NEGATIVES, DIM, BLOCKS = 64, 50, 128, 64, 2
RATE, CLIP_NORM, NOISE_MULTIPLIER = 0.1, 1.0, 1.0
UNIT = CLIP_NORM / 2**14
LAZY_UNIT = CLIP_NORM / 2**10
"""Coarser, so that the draws for many steps at once stay within the sampler's range; still 45 steps below a user's cell."""

MOST_TIMES = {4_000: 2.2, 100_000: 2.2, 1_000_000: 1.2}
MOST_MEMORY = 1.6
BASELINE = "no DP"
_TOO_SLOW_S = 1.5
_SLOW_ROUNDS = 2


@dataclass(frozen=True)
class Problem:
    """One batch and a model for it."""

    batch: NextItemBatch
    encoder: nn.Module
    table: Tensor


def problem(items: int, seed: int = 0) -> Problem:
    """Users with full windows over a catalogue of Zipf popularity."""
    random = np.random.default_rng(seed)
    popularity = 1.0 / np.arange(1, items + 1)
    popularity /= popularity.sum()
    histories = list(random.choice(items, size=(USERS, LENGTH + 1), p=popularity))
    sampler = CatalogueSampler(items, popularity)
    negatives = sampler.sample(random.random((USERS, NEGATIVES)))
    batch = next_item_batch(
        histories,
        max_length=LENGTH,
        negatives=negatives,
        log_expected_count=sampler.log_expected_count(negatives, NEGATIVES),
    )
    torch.manual_seed(seed)
    encoder = build_encoder("attention", DIM, max_length=LENGTH, blocks=BLOCKS)
    return Problem(batch, encoder, torch.randn(items, DIM) * 0.3)


def our_step(given: Problem, *, lazy: bool = False, method: Method = "hooks") -> Step:
    """Sparse rows, joint clip on the integer grid, discrete noise.

    Args:
        given: moved by the steps.
        lazy: whether the rows' noise waits until they are read.
        method: of per-user gradients of the encoder; ghost clipping goes with noise on every row.
    """
    randomness, batch, table = SystemRandomness(), given.batch, given.table
    encoder = wrap_for(method, given.encoder)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=RATE)
    parameters, n_items = encoder_size(encoder), table.shape[0]
    unit = LAZY_UNIT if lazy else UNIT
    sigma = NOISE_MULTIPLIER * math.floor(CLIP_NORM / unit)
    owed = LazyNoise(n_items, DIM, sigma, randomness) if lazy else None

    def move(rows: Any, steps: NDArray[np.int64]) -> None:
        change = torch.from_numpy(steps.reshape(-1, DIM)).float().mul_(-RATE * unit / USERS)
        table.index_add_(0, torch.as_tensor(rows), change) if rows is not None else table.add_(change)

    def noised(total: BoundedSum) -> NDArray[np.int64]:
        return add_noise(total, sigma, randomness, name="step").values

    def clipped() -> tuple[Tensor | None, BoundedSum]:
        if isinstance(encoder, GhostEncoder):
            running = clipped_sum(encoder, n_items, DIM, l2_clip_norm=CLIP_NORM, unit=unit)
            running.add(table, batch.item_ids, batch)
            return None, running.total()
        gradients = per_user_gradients(encoder, table, batch.item_ids, batch)
        touched, gradients = gradients.touched_rows() if lazy else (None, gradients)
        rows = n_items if touched is None else touched.numel()
        return touched, gradients.clip_and_sum(rows, l2_clip_norm=CLIP_NORM, unit=unit)

    def step() -> None:
        if owed is not None:
            read = np.unique(batch.item_ids.numpy())
            move(read, owed.settle(read[read >= 0]))
        touched, total = clipped()
        if owed is None:
            values = noised(total)
        else:
            encoder_part = BoundedSum(total.values[:parameters], total.l2_bound, unit, total.users)
            values = np.concatenate([noised(encoder_part), total.values[parameters:]])
            owed.step()
        set_encoder_gradient(encoder, values[:parameters].astype(np.float64) * (unit / USERS))
        optimizer.step()
        move(touched, values[parameters:])

    return step


def _engines() -> dict[str, Callable[[Problem], Step]]:
    private = {"rate": RATE, "l2_clip_norm": CLIP_NORM, "noise_multiplier": NOISE_MULTIPLIER}
    return {
        BASELINE: lambda p: plain_step(p.encoder, p.table, p.batch.item_ids, p.batch, RATE),
        "Opacus hooks": lambda p: hooks_step(p.encoder, p.table, p.batch.item_ids, p.batch, **private),
        "ours": our_step,
        "ours, ghost": lambda p: our_step(p, method="ghost"),
        "ours, lazy noise": lambda p: our_step(p, lazy=True),
    }


def run(
    items: Sequence[int] = (4_000, 100_000, 1_000_000), *, rounds: int = 9, seed: int = 0
) -> dict[str, Any]:
    """Measure every engine at every size.

    Args:
        items: sizes of the table.
        rounds: each engine takes one step a round, so that whatever slows the machine down slows all of them.
        seed: of the batch.

    Returns:
        ``rows``: median ms of a step, its ratio to the step without privacy in the same round (median and quartiles), peak
        memory in MB above the program's own, and its ratio. ``shortfalls``: where ours misses its reach; ``ok``: nowhere.
    """
    if rounds < 3:
        raise InputError(f"rounds={rounds}: a median with a spread needs at least 3")
    torch.set_num_threads(1)
    for make in _engines().values():
        make(
            problem(100)
        )()  # so that loaded libraries and tables of the sampler are in nobody's memory figure
    rows = [row for size in items for row in _measure(size, rounds, seed)]
    shortfalls = _shortfalls(rows)
    return {"rows": rows, "threads": 1, "rounds": rounds, "shortfalls": shortfalls, "ok": not shortfalls}


def _measure(items: int, rounds: int, seed: int) -> list[dict[str, Any]]:
    engines = _engines()
    skipped = {} if (reason := _no_room(items)) is None else {"Opacus hooks": reason}
    usable = {name: make for name, make in engines.items() if name not in skipped}
    memory = {name: _peak_mb(make, items, seed) for name, make in usable.items()}
    steps = {name: make(problem(items, seed)) for name, make in usable.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for number in range(rounds):
        for name, step in steps.items():
            if number >= _SLOW_ROUNDS and min(times[name]) > _TOO_SLOW_S:
                continue
            started = time.process_time()
            step()
            times[name].append(time.process_time() - started)
    del steps
    gc.collect()
    rows = [{"items": items, "engine": name, "skipped": reason} for name, reason in skipped.items()]
    for name, measured in times.items():
        ratios = np.array(measured) / np.array(times[BASELINE][: len(measured)])
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        rows.append(
            {
                "items": items,
                "engine": name,
                "ms": 1e3 * float(np.median(measured)),
                "times_no_dp": float(middle),
                "quartiles": [float(low), float(high)],
                "steps": len(measured),
                "peak_mb": memory[name],
                "memory_times_no_dp": memory[name] / memory[BASELINE],
            }
        )
    order = list(engines)
    return sorted(rows, key=lambda row: order.index(row["engine"]))


def _no_room(items: int) -> str | None:
    """Why hooks are left out: their dense gradients of all users, twice, do not fit."""
    needed = 2 * 4 * USERS * items * DIM
    available = _status_kb(Path("/proc/meminfo"), "MemAvailable") * 1024
    if needed < 0.7 * available:
        return None
    return f"would need about {needed / 1e9:.0f} GB, this machine has {available / 1e9:.0f} GB free"


def _peak_mb(make: Callable[[Problem], Step], items: int, seed: int) -> float:
    """Peak memory of a process that builds the model and takes two steps, above that of the process before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(
        0
    )  # else the child would fill what the parent has freed, and seem to need nothing
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            resting = _status_kb(Path("/proc/self/status"), "VmRSS")
            step = make(problem(items, seed))
            step()
            step()
            peak = _status_kb(Path("/proc/self/status"), "VmHWM")
            os.write(writer, str((peak - resting) / 1024).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return float(text) if text else math.nan


def _status_kb(path: Path, name: str) -> int:
    line = next(line for line in path.read_text(encoding="ascii").splitlines() if line.startswith(name))
    return int(line.split()[1])


def _shortfalls(rows: list[dict[str, Any]]) -> list[str]:
    """Where ours misses its reach: the better of dense and lazy noise counts, except that 1M is only asked of lazy."""
    missed: list[str] = []
    for size in sorted({row["items"] for row in rows}):
        ours = [row for row in rows if row["items"] == size and row["engine"].startswith("ours")]
        best = min(ours, key=lambda row: row["times_no_dp"])
        most = MOST_TIMES.get(size)
        if most is not None and not best["times_no_dp"] <= most:
            missed.append(f"{size} items: {best['times_no_dp']:.2f} x the step without privacy, reach {most}")
        if most is not None and not best["memory_times_no_dp"] <= MOST_MEMORY:
            missed.append(f"{size} items: {best['memory_times_no_dp']:.2f} x its memory, reach {MOST_MEMORY}")
    return missed


def format_table(result: dict[str, Any]) -> str:
    """The measurements as text."""
    lines = [
        f"{'items':>9} {'engine':<17} {'ms':>7} {'x no DP':>8} {'quartiles':>12} {'peak MB':>8} {'x no DP':>8}"
    ]
    for row in result["rows"]:
        if "skipped" in row:
            lines.append(f"{row['items']:>9} {row['engine']:<17} left out: {row['skipped']}")
            continue
        low, high = row["quartiles"]
        lines.append(
            f"{row['items']:>9} {row['engine']:<17} {row['ms']:>7.0f} {row['times_no_dp']:>8.2f} "
            f"{f'{low:.2f}-{high:.2f}':>12} {row['peak_mb']:>8.0f} {row['memory_times_no_dp']:>8.2f}"
        )
    lines += [f"SHORT {shortfall}" for shortfall in result["shortfalls"]]
    lines.append(
        f"{USERS} users a step, {LENGTH} events, {NEGATIVES} negatives, d = {DIM}, {BLOCKS} blocks; one thread, "
        f"{result['rounds']} interleaved rounds: " + ("within reach" if result["ok"] else "short of reach")
    )
    return "\n".join(lines)
