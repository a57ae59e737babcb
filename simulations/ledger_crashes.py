"""Kills processes at every step of a release, and counts overspends and releases that no ledger knows.

Each schedule is the life of one population. A server process and a client process make releases in the order of
``server.federation`` and ``client.handlers``, each with a ledger of its own, and one of the two is killed with SIGKILL: at a
named step, inside a write of the ledger, or at any moment. Both are then started afresh on the same files, are perhaps
killed again, and go on until a ledger refuses. What really left is read from a log beside the ledgers, and every epsilon
is recomputed from the raw rows, not by the ledger's own code.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeVar

from privacy.accounting.accountant import cross_check, epsilon
from privacy.accounting.analytic_gaussian import gaussian_epsilon
from privacy.accounting.calibration import noise_multiplier_for
from privacy.accounting.events import ReleaseEvent
from privacy.accounting.ledger import Ledger
from privacy.errors import BudgetExceeded, InputError

T = TypeVar("T")
Side = Literal["server", "client"]
Planted = Literal["none", "reserve-after-upload", "ledger-renewed"]

EPSILON_BUDGET = 8.0
DELTA = 1e-5
RELEASES_THAT_FIT = 5
TOLERANCE = 1e-9  # between an epsilon a process reported and the one its rows give

# Inside a ledger write: before the transaction; after SQLite's commit; with the new counter written but not in place.
_INSIDE = ("transaction begins", "rows stored, counter old", "new counter not in place")
_WRITES = tuple(f"{write}: {step}" for write in ("reserve", "commit") for step in _INSIDE)
POINTS: dict[Side, tuple[str, ...]] = {
    "server": (
        "before reserve",
        "after reserve",
        "request sent",
        "answer received",
        "after commit",
        *_WRITES,
    ),
    "client": (
        *("before reserve", "after reserve", "data read", "noise added", "after commit"),
        *("upload half sent", "after upload", *_WRITES),
    ),
}
ANY_MOMENT = "any moment"


@dataclass(frozen=True)
class Kill:
    """Who dies where.

    Attributes:
        side: of the two processes.
        point: one of ``POINTS[side]``, or ``ANY_MOMENT``.
        release: at which release of this start, from 0.
        delay_s: until the parent kills, if at any moment.
    """

    side: Side
    point: str
    release: int
    delay_s: float


def run(schedules: int = 500, seed: int = 0, planted: Planted = "none") -> dict[str, Any]:
    """Run the schedules and count what must never happen.

    Args:
        schedules: lives of a population, each with one to three kills.
        seed: of who is killed where.
        planted: a fault that the count must find: ``reserve-after-upload`` writes the client's ledger too late,
            ``ledger-renewed`` gives every start a fresh budget. For tests.

    Returns:
        ``overspends``, ``releases_without_entry`` and ``epsilon_mismatches`` (each must be 0), what was done to find them,
        and ``ok``.

    Raises:
        InputError: the number of schedules is not positive.
    """
    if schedules < 1:
        raise InputError(f"crash-schedules={schedules} must be at least 1")
    started = time.perf_counter()
    noise = noise_multiplier_for(EPSILON_BUDGET, DELTA, steps=RELEASES_THAT_FIT)
    for count in range(1, RELEASES_THAT_FIT + 2):
        # Computed here, inherited by every forked process: a start then takes milliseconds.
        cross_check([ReleaseEvent("x", noise)] * count, DELTA)
    generator = random.Random(seed)
    totals: Counter[str] = Counter()
    points: Counter[str] = Counter()
    largest_difference = 0.0
    with scratch_folder() as folder:
        typical_s = _typical_start(Path(folder) / "clean", noise)
        for number in range(schedules):
            life = _Life(Path(folder) / str(number), noise, planted)
            points.update(life.live(generator, typical_s))
            found, difference = life.findings()
            totals.update(found)
            largest_difference = max(largest_difference, difference)
    result: dict[str, Any] = {
        "schedules": schedules,
        "kills": sum(points.values()),
        "kills_by_point": dict(sorted(points.items())),
        **{name: totals[name] for name in _COUNTS},
        "largest_difference": largest_difference,
        "seconds": round(time.perf_counter() - started, 1),
    }
    result["ok"] = not any(result[name] for name in _MUST_BE_ZERO)
    return result


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder in memory where there is one: a killed process loses nothing it wrote, on disk or not."""
    memory = Path("/dev/shm")
    where = memory if os.access(memory, os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="fedtower-ledgers-", dir=where)


_MUST_BE_ZERO = ("overspends", "releases_without_entry", "epsilon_mismatches")
_COUNTS = (*_MUST_BE_ZERO, "starts", "releases_that_left", "epsilons_compared")


def lines_of(result: dict[str, Any]) -> list[str]:
    """The result for people; the figure is the last line."""
    lines = [f"{count:>6}  killed at {point}" for point, count in result["kills_by_point"].items()]
    lines.append(
        f"{result['schedules']} schedules, {result['kills']} kills, {result['releases_that_left']} releases, "
        f"{result['epsilons_compared']} epsilons compared in {result['seconds']:.0f} s"
    )
    lines.append(
        f"{result['overspends']} overspends, {result['releases_without_entry']} releases without an entry, "
        f"{result['epsilon_mismatches']} epsilons that differ (largest difference {result['largest_difference']:.1e})"
    )
    return lines


class _Life:
    """One population: its two ledgers, and what left."""

    def __init__(self, folder: Path, noise: float, planted: Planted) -> None:
        folder.mkdir()
        self._folder = folder
        self._noise = noise
        self._planted: Planted = planted
        self._starts = 0

    def live(self, generator: random.Random, typical_s: float) -> list[str]:
        """Start, be killed, start again, until nothing fits any more; returns the points of the kills that struck."""
        struck: list[str] = []
        for _ in range(generator.randint(1, 3)):
            side: Side = generator.choice(("server", "client"))
            point = generator.choice((*POINTS[side], ANY_MOMENT))
            # The first three releases of a first start always fit, so that a schedule's first kill strikes.
            kill = Kill(side, point, generator.randrange(3), generator.uniform(0.0, typical_s))
            if self.start(kill):
                struck.append(f"{side}, {point}")
        self.start(None)
        return struck

    def start(self, kill: Kill | None) -> bool:
        """Start both processes, wait for their end; returns whether the kill struck."""
        context = multiprocessing.get_context("fork")
        ends = dict(zip(("server", "client"), context.Pipe(), strict=True))
        processes = {
            side: context.Process(target=_process, args=(side, ends, self._terms(side, kill)))
            for side in ("server", "client")
        }
        self._starts += 1
        for process in processes.values():
            process.start()
        for end in ends.values():
            end.close()
        if kill is not None and kill.point == ANY_MOMENT:
            processes[kill.side].join(kill.delay_s)
            processes[kill.side].kill()
        for process in processes.values():
            process.join(60)
        codes = {side: process.exitcode for side, process in processes.items()}
        if unexpected := {side: code for side, code in codes.items() if code not in (0, -signal.SIGKILL)}:
            raise RuntimeError(f"start {self._starts - 1} of {self._folder.name} failed: {unexpected}")
        return -signal.SIGKILL in codes.values()

    def _terms(self, side: str, kill: Kill | None) -> _Terms:
        renewed = f"-{self._starts}" if self._planted == "ledger-renewed" else ""
        mine = kill if kill is not None and kill.side == side else None
        path = self._folder / f"{side}{renewed}.sqlite"
        return _Terms(path, self._folder, self._starts, self._noise, mine, self._planted)

    def findings(self) -> tuple[Counter[str], float]:
        """Compare what left and what was reported with the raw rows."""
        left = _records(self._folder / "left.log")
        found: Counter[str] = Counter(starts=self._starts, releases_that_left=len(left))
        found["overspends"] += self._cost(len(left)) > EPSILON_BUDGET
        largest = 0.0
        for side in ("server", "client"):
            rows = [row for path in sorted(self._folder.glob(f"{side}*.sqlite")) for row in _rows(path)]
            names = [row["event"]["name"] for row in rows if "event" in row]
            found["releases_without_entry"] += len(set(left) - set(names))
            found["overspends"] += self._cost(len(names)) > EPSILON_BUDGET
            for record in _records(self._folder / f"{side}-reported.log"):
                difference = self._difference(rows, *record.split(" "))
                found["epsilons_compared"] += 1
                found["epsilon_mismatches"] += not difference <= TOLERANCE
                largest = max(largest, difference)
        return found, largest

    def _cost(self, releases: int) -> float:
        return gaussian_epsilon(math.sqrt(releases) / self._noise, DELTA) if releases else 0.0

    def _difference(self, rows: list[dict[str, Any]], head: str, reported: str) -> float:
        """Between a reported epsilon and that of the rows up to the head at which it was reported."""
        heads = [row["hash"] for row in rows]
        if head not in heads:
            return math.inf
        known = [row["event"] for row in rows[: heads.index(head) + 1] if "event" in row]
        return abs(epsilon([ReleaseEvent.from_json(event) for event in known], DELTA) - float(reported))


@dataclass(frozen=True)
class _Terms:
    """What a started process is told."""

    ledger: Path
    folder: Path
    start: int
    noise: float
    kill: Kill | None
    planted: Planted


def _process(side: Side, ends: dict[str, Connection], terms: _Terms) -> None:
    other = "client" if side == "server" else "server"
    ends[other].close()  # so that the other's death is seen as the end of the pipe
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _SIDES[side](ends[side], _Worker(side, terms))


class _Worker:
    """One process: a ledger, and the steps at which it may die."""

    def __init__(self, side: Side, terms: _Terms) -> None:
        self.side: Side = side
        self.terms = terms
        self._release = 0
        self._write = ""
        sys.addaudithook(self._inside_a_write)
        self.ledger = Ledger.open(
            terms.ledger, population="shop", epsilon_budget=EPSILON_BUDGET, target_delta=DELTA
        )

    def begin(self, release: int) -> str:
        """The name of a release; no two of a population share one."""
        self._release = release
        return f"{self.terms.start}.{release}"

    def reach(self, point: str) -> None:
        """Die here, if this is the place."""
        kill = self.terms.kill
        if kill is not None and (kill.point, kill.release) == (point, self._release):
            os.kill(os.getpid(), signal.SIGKILL)

    def reserve(self, name: str) -> int:
        """Reserve, with all points around it."""
        self.reach("before reserve")
        reservation = self._inside(
            "reserve", lambda: self.ledger.reserve(ReleaseEvent(name, self.terms.noise))
        )
        self.reach("after reserve")
        return reservation

    def commit(self, reservation: int) -> None:
        """Commit, with all points around it, and report what is spent."""
        self._inside("commit", lambda: self.ledger.commit(reservation))
        self.reach("after commit")
        self.append(
            f"{self.side}-reported.log", f"{self.ledger.head_hash()} {self.ledger.epsilon_spent()!r}\n"
        )

    def append(self, log: str, *parts: str, between: Callable[[], None] = lambda: None) -> None:
        """Append a line, in one write or in several; what is written survives this process."""
        descriptor = os.open(self.terms.folder / log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for part in parts:
                os.write(descriptor, part.encode())
                between()
        finally:
            os.close(descriptor)

    def _inside(self, write: str, call: Callable[[], T]) -> T:
        self._write = write
        try:
            return call()
        finally:
            self._write = ""

    def _inside_a_write(self, event: str, args: tuple[Any, ...]) -> None:
        """Audit hook: the interpreter's own events show how far a ledger write has come."""
        if not self._write:
            return
        if event == "sqlite3.connect":
            self.reach(f"{self._write}: {_INSIDE[0]}")
        elif event == "open" and str(args[0]).endswith(".counter.new"):
            self.reach(f"{self._write}: {_INSIDE[1]}")
        elif event == "os.rename":
            self.reach(f"{self._write}: {_INSIDE[2]}")


def _serve(client: Connection, worker: _Worker) -> None:
    """Reserve, ask, commit whatever came of it: as ``server.federation`` does."""
    for release in range(RELEASES_THAT_FIT + 1):
        name = worker.begin(release)
        try:
            reservation = worker.reserve(name)
        except BudgetExceeded:
            return
        try:
            client.send(name)
            worker.reach("request sent")
            is_answered = client.recv()
            worker.reach("answer received")
        finally:
            # The client may have uploaded even if its answer is lost.
            worker.commit(reservation)
        if not is_answered:
            return


def _answer(server: Connection, worker: _Worker) -> None:
    """Reserve, read data, add noise, commit, upload: as ``client.handlers`` does."""
    release = 0
    while True:
        name = server.recv()
        worker.begin(release)
        if worker.terms.planted == "reserve-after-upload":
            _upload(worker, name)
        try:
            reservation = worker.reserve(name)
        except BudgetExceeded:
            server.send(False)
            return
        worker.reach("data read")
        worker.reach("noise added")
        worker.commit(reservation)
        if worker.terms.planted != "reserve-after-upload":
            _upload(worker, name)
        server.send(True)
        release += 1


def _upload(worker: _Worker, name: str) -> None:
    # The line break comes first: a record that a kill cut short is a record of its own.
    half = "0" * 32
    worker.append("left.log", f"\n{name}|{half}", half, between=lambda: worker.reach("upload half sent"))
    worker.reach("after upload")


_SIDES: dict[Side, Callable[[Connection, _Worker], None]] = {"server": _serve, "client": _answer}


def _typical_start(folder: Path, noise: float) -> float:
    started = time.perf_counter()
    _Life(folder, noise, "none").start(None)
    return time.perf_counter() - started


def _records(log: Path) -> list[str]:
    """What was appended; of an upload, even one cut short, its name."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.partition("|")[0] for line in lines if line]


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a ledger as SQLite has them, read without the ledger's code."""
    with closing(sqlite3.connect(path)) as database:
        stored = database.execute("SELECT body, hash FROM chain ORDER BY number").fetchall()
    return [{**json.loads(body), "hash": head} for body, head in stored]
