"""No sequence of calls, processes, crashes or edits makes the ledger spend more than its budget."""

from __future__ import annotations

import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from privacy.accounting import chain, ledger
from privacy.accounting.accountant import epsilon
from privacy.accounting.calibration import noise_multiplier_for
from privacy.accounting.events import ReleaseEvent
from privacy.accounting.ledger import Ledger
from privacy.errors import BudgetExceeded, InputError, LedgerError

TERMS = {"population": "shop", "epsilon_budget": 8.0, "target_delta": 1e-5}
ROOT = Path(__file__).parents[3]


def event(name: str = "x", noise: float = 2.0, **more: object) -> ReleaseEvent:
    return ReleaseEvent(name, noise, **more)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "budget.sqlite"


@pytest.fixture(params=["file", "memory"])
def empty(request: pytest.FixtureRequest, path: Path) -> Ledger:
    return Ledger.open(path, **TERMS) if request.param == "file" else Ledger.in_memory(**TERMS)


class TestSpending:
    def test_starts_with_nothing_spent(self, empty: Ledger) -> None:
        assert empty.epsilon_spent() == 0.0 and empty.entries() == []
        assert (empty.population, empty.epsilon_budget, empty.target_delta) == ("shop", 8.0, 1e-5)

    def test_reserved_and_committed_count_and_released_does_not(self, empty: Ledger) -> None:
        kept, given_back, pending = (empty.reserve(event(n)) for n in ("kept", "given back", "pending"))
        empty.commit(kept)
        empty.release_unused(given_back)
        assert [(e.event.name, e.status) for e in empty.entries()] == [
            ("kept", "committed"), ("given back", "released"), ("pending", "reserved"),
        ]  # fmt: skip
        assert empty.epsilon_spent() == epsilon([event(count=2)], 1e-5)
        empty.commit(pending)
        assert empty.epsilon_spent() == epsilon([event(count=2)], 1e-5)
        empty.verify()

    def test_refusal_says_what_is_spent_and_what_to_do(self, empty: Ledger) -> None:
        empty.reserve(event("popularity", 1.0))
        before = (empty.head_hash(), empty.epsilon_spent())
        wanted = re.escape(
            "release 'statistics' would raise epsilon from 4.377 to 10.46, above the budget 8 (delta 1e-05): "
            "lower the schedule or raise epsilon_budget"
        )
        with pytest.raises(BudgetExceeded, match=wanted):
            empty.reserve(event("statistics", 0.55))
        assert (empty.head_hash(), empty.epsilon_spent()) == before

    def test_no_noise_never_fits(self, empty: Ledger) -> None:
        with pytest.raises(BudgetExceeded, match="to inf"):
            empty.reserve(event(noise=0.0))

    def test_calibrated_schedule_fits_in_any_parts(self, empty: Ledger) -> None:
        """What calibration promises, the ledger must accept, to the last bit; and nothing after it."""
        noise = noise_multiplier_for(8.0, 1e-5, steps=5)
        for round_ in range(5):
            empty.commit(empty.reserve(event(f"round {round_}", noise)))
        assert 7.99 < empty.epsilon_spent() <= 8.0
        with pytest.raises(BudgetExceeded):
            empty.reserve(event(noise=50.0))

    def test_sampled_releases_are_charged_together(self, empty: Ledger) -> None:
        for _ in range(3):
            empty.reserve(event(noise=1.0, sampling_probability=0.1, count=10))
        assert empty.epsilon_spent() == epsilon([event(noise=1.0, sampling_probability=0.1, count=30)], 1e-5)

    def test_view_of_outsiders(self, empty: Ledger) -> None:
        empty.reserve(event("statistics", 2.0))
        empty.reserve(event("encoder", 1.5, left_the_client=False))
        assert empty.epsilon_spent(left_the_client_only=True) == epsilon([event()], 1e-5)
        assert empty.epsilon_spent() > empty.epsilon_spent(left_the_client_only=True)
        # Measured with the fitted encoder: without the fit's noise nothing would bound what one user moves in it.
        empty.reserve(event("metrics", 50.0))
        assert empty.epsilon_spent(left_the_client_only=True) == empty.epsilon_spent()

    def test_preview_changes_nothing(self, empty: Ledger) -> None:
        head = empty.head_hash()
        assert empty.epsilon_with([event()] * 2) == epsilon([event(count=2)], 1e-5)
        assert empty.head_hash() == head

    def test_a_reservation_is_settled_once(self, empty: Ledger) -> None:
        done = empty.reserve(event())
        empty.commit(done)
        head = empty.head_hash()
        for settle in (empty.commit, empty.release_unused):
            with pytest.raises(LedgerError, match=f"reservation {done} is already committed"):
                settle(done)
            with pytest.raises(LedgerError, match="there is no reservation 99"):
                settle(99)
            with pytest.raises(LedgerError, match="there is no reservation 0"):
                settle(0)  # the row that opened the ledger
        assert empty.head_hash() == head

    def test_disagreeing_accountants_stop_everything(
        self, empty: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def disagree(*_: object) -> float:
            raise LedgerError("two accountants disagree")

        monkeypatch.setattr(ledger, "cross_check", disagree)
        with pytest.raises(LedgerError, match="disagree"):
            empty.reserve(event())
        assert empty.entries() == []


class TestTerms:
    @pytest.mark.parametrize("budget", [-1.0, 0.0, float("nan"), float("inf")])
    def test_budget_is_a_positive_number(self, path: Path, budget: float) -> None:
        with pytest.raises(InputError, match=f"epsilon={budget:g} is not a budget: give a positive number"):
            Ledger.open(path, **{**TERMS, "epsilon_budget": budget})
        assert not path.exists()

    def test_population_and_delta_are_for_life(self, path: Path) -> None:
        Ledger.open(path, **TERMS)
        for change in ({"population": "hospital"}, {"target_delta": 1e-6}):
            with pytest.raises(InputError, match="one population and one delta"):
                Ledger.open(path, **{**TERMS, **change})

    def test_spending_survives_reopening(self, path: Path) -> None:
        Ledger.open(path, **TERMS).reserve(event(noise=1.0))
        again = Ledger.open(path, **TERMS, create=False)
        with pytest.raises(BudgetExceeded):
            again.reserve(event(noise=0.6))

    def test_another_budget_is_recorded_and_the_lower_one_binds(self, path: Path) -> None:
        careful = Ledger.open(path, **{**TERMS, "epsilon_budget": 4.0})
        generous = Ledger.open(path, **TERMS)
        with pytest.raises(BudgetExceeded, match="above the budget 4 "):
            careful.reserve(event(noise=1.0))
        generous.reserve(event(noise=1.0))
        Ledger.open(path, **{**TERMS, "epsilon_budget": 4.4})
        with pytest.raises(BudgetExceeded, match=r"above the budget 4\.4 "):
            generous.reserve(event(noise=5.0))

    def test_reopening_writes_nothing(self, path: Path) -> None:
        head = Ledger.open(path, **TERMS).head_hash()
        assert Ledger.open(path, **TERMS).head_hash() == head

    def test_two_ledgers_never_share_a_hash(self, tmp_path: Path) -> None:
        heads = {Ledger.open(tmp_path / n, **TERMS).head_hash() for n in "ab"}
        assert len(heads) == 2

    def test_must_exist_if_not_to_be_created(self, path: Path) -> None:
        with pytest.raises(LedgerError, match="there is no ledger"):
            Ledger.open(path, **TERMS, create=False)

    def test_files_are_for_their_owner(self, path: Path) -> None:
        Ledger.open(path, **TERMS).reserve(event())
        for file in (path, path.with_name(path.name + ".counter")):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600


def edit(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as database:
        database.execute(statement)
    database.close()


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) >= 1 and len(old) == len(new)
    path.write_bytes(content.replace(old, new))


class TestTampering:
    """Each edit is refused by every call, with the row named."""

    @pytest.fixture
    def spent(self, path: Path) -> Path:
        held = Ledger.open(path, **TERMS)
        held.commit(held.reserve(event("first", 2.0)))
        held.commit(held.reserve(event("second", 3.0)))
        return path

    @pytest.mark.parametrize(
        ("tamper", "message"),
        [
            (
                lambda p: replace_bytes(p, b'"noise_multiplier":2.0', b'"noise_multiplier":9.0'),
                "row 1 .*changed",
            ),
            (
                lambda p: replace_bytes(p, b'"noise_multiplier":3.0', b'"noise_multiplier":3e0'),
                "row 3 .*changed",
            ),
            (lambda p: replace_bytes(p, b'"epsilon_budget":8.0', b'"epsilon_budget":9.0'), "row 0 .*changed"),
            (
                lambda p: replace_bytes(p, b'"name":"first"', b'"name":"fir\xff\xff"'),
                "cannot be used|changed",
            ),
            (lambda p: edit(p, "DELETE FROM chain WHERE number = 1"), "row 1 .*missing"),
            (lambda p: edit(p, "DELETE FROM chain WHERE number = 0"), "row 0 .*missing"),
            (lambda p: edit(p, "DELETE FROM chain WHERE number = 4"), "ends before row 4.*5 were written"),
            (lambda p: edit(p, "DELETE FROM chain"), "ends before row 0"),
            (
                lambda p: edit(p, "UPDATE chain SET kind = 'release_unused' WHERE number = 2"),
                "row 2 .*changed",
            ),
            (lambda p: edit(p, "UPDATE chain SET hash = previous WHERE number = 4"), "row 4 .*changed"),
            (lambda p: edit(p, "DROP TABLE chain"), "ends before row 0"),
            (
                lambda p: p.write_bytes(b"not a database, and longer than the header of one" * 3),
                "cannot be used",
            ),
            (lambda p: p.write_bytes(p.read_bytes()[:5000]), "row 0 .*changed|cannot be used"),
            (lambda p: p.unlink(), "missing, but its counter remembers 5 rows"),
            (lambda p: p.with_name(p.name + ".counter").unlink(), "counter"),
            (lambda p: p.with_name(p.name + ".counter").write_bytes(b""), "cannot be read"),
            (
                lambda p: p.with_name(p.name + ".counter").write_bytes(b'{"rows":-1,"head":""}'),
                "not written by",
            ),
        ],
    )
    def test_is_noticed(self, spent: Path, tamper: Callable[[Path], object], message: str) -> None:
        held = Ledger.open(spent, **TERMS)
        tamper(spent)
        with pytest.raises(LedgerError, match=message):
            Ledger.open(spent, **TERMS)
        for call in (held.verify, held.epsilon_spent, held.entries, lambda: held.reserve(event())):
            with pytest.raises(LedgerError):
                call()

    def test_every_flipped_bit_of_a_row_is_noticed(self, spent: Path) -> None:
        """Not one byte of the last row's content can change unnoticed."""
        content = spent.read_bytes()
        start = content.index(b'{"at":', content.index(b"commit"))
        end = content.index(b"}", start)
        for position in range(start, end, 3):
            spent.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            with pytest.raises(LedgerError):
                Ledger.open(spent, **TERMS)

    def test_older_copy_is_refused(self, spent: Path) -> None:
        copy = spent.with_name("copy")
        shutil.copy(spent, copy)
        Ledger.open(spent, **TERMS).reserve(event("third", 4.0))
        shutil.copy(copy, spent)
        with pytest.raises(LedgerError, match="older or shortened copy"):
            Ledger.open(spent, **TERMS)

    def test_another_history_of_the_same_length_is_refused(self, spent: Path) -> None:
        copy = spent.with_name("copy")
        shutil.copy(spent, copy)
        Ledger.open(spent, **TERMS).reserve(event("third", 4.0))
        remembered = spent.with_name(spent.name + ".counter").read_bytes()
        copy.with_name("copy.counter").write_bytes(
            b'{"head":"' + hash_of_row(spent, rows=5).encode() + b'","rows":5}'
        )
        Ledger.open(copy, **TERMS).reserve(event("cheaper", 40.0))
        shutil.copy(copy, spent)
        spent.with_name(spent.name + ".counter").write_bytes(remembered)
        with pytest.raises(LedgerError, match=r"row 5 .*another history"):
            Ledger.open(spent, **TERMS)

    def test_rehashed_chain_with_an_unknown_row_is_refused(self, spent: Path) -> None:
        """A row of a later version is not skipped: it might have spent something."""
        with chain.ChainedLog(spent).transaction() as transaction:
            transaction.append("borrow", {"reservation": 1})
        with pytest.raises(LedgerError, match=r"row 5 of the ledger \(borrow\): this version does not know"):
            Ledger.open(spent, **TERMS)

    def test_rehashed_event_out_of_range_is_refused(self, spent: Path) -> None:
        with chain.ChainedLog(spent).transaction() as transaction:
            transaction.append("reserve", {"event": {**event().to_json(), "count": -5}, "at": ""})
        with pytest.raises(LedgerError, match=r"row 5 .*count=-5"):
            Ledger.open(spent, **TERMS)


def hash_of_row(path: Path, rows: int) -> str:
    with chain.ChainedLog(path).transaction() as transaction:
        return transaction.rows[rows - 1].hash


class TestCrashes:
    def test_killed_after_reserving_counts_as_spent(self, path: Path) -> None:
        code = (
            "import os, signal; from privacy.accounting.ledger import Ledger; "
            "from privacy.accounting.events import ReleaseEvent; "
            f"Ledger.open({str(path)!r}, **{TERMS!r}).reserve(ReleaseEvent('x', 2.0)); "
            "os.kill(os.getpid(), signal.SIGKILL)"
        )
        killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
        assert killed.returncode == -signal.SIGKILL
        survivor = Ledger.open(path, **TERMS, create=False)
        assert survivor.entries()[0].status == "reserved"
        assert survivor.epsilon_spent() == epsilon([event()], 1e-5)

    def test_death_between_the_row_and_the_counter_is_caught_up(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = Ledger.open(path, **TERMS)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(chain, "_write_counter", _interrupt)
            held.reserve(event())
        assert [e.status for e in Ledger.open(path, **TERMS).entries()] == ["reserved"]
        edit(
            path, "DELETE FROM chain WHERE number = 1"
        )  # the counter has caught up: a roll-back is noticed again
        with pytest.raises(LedgerError, match="older or shortened"):
            Ledger.open(path, **TERMS)

    @pytest.mark.parametrize("left", [["file"], ["file", "counter"], ["counter"]])
    def test_death_while_creating_leaves_a_fresh_start(self, path: Path, left: list[str]) -> None:
        if "file" in left:
            path.touch(0o600)
        if "counter" in left:
            chain._write_counter(chain._counter_path(path), 0, chain._GENESIS)
        assert Ledger.open(path, **TERMS).epsilon_spent() == 0.0
        assert not list(path.parent.glob("*.new"))

    def test_an_exception_inside_writes_nothing(self, path: Path) -> None:
        log = chain.ChainedLog(path)
        with pytest.raises(KeyboardInterrupt), log.transaction() as transaction:
            transaction.append("open", {})
            _interrupt()
        with log.transaction() as transaction:
            assert transaction.rows == []

    def test_full_disk_is_one_clear_error(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        held = Ledger.open(path, **TERMS)
        monkeypatch.setattr(chain, "_SCHEMA", "SELECT raise_an_sqlite_error()")
        with pytest.raises(LedgerError, match="cannot be used"):
            held.reserve(event())


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class TestConcurrency:
    @pytest.mark.parametrize("shared", ["one object", "one file"])
    def test_threads_cannot_overspend_together(self, path: Path, shared: str) -> None:
        """Room for exactly 4 releases, asked for 12 times at once."""
        noise = noise_multiplier_for(8.0, 1e-5, steps=4)
        first = Ledger.open(path, **TERMS)
        start, outcomes = threading.Barrier(12), list[str]()

        def ask() -> None:
            own = first if shared == "one object" else Ledger.open(path, **TERMS)
            start.wait()
            try:
                own.commit(own.reserve(event(noise=noise)))
                outcomes.append("granted")
            except BudgetExceeded:
                outcomes.append("refused")

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["granted"] * 4 + ["refused"] * 8
        assert first.epsilon_spent() <= 8.0
        first.verify()

    def test_processes_cannot_overspend_together(self, path: Path) -> None:
        noise = noise_multiplier_for(8.0, 1e-5, steps=3)
        code = (
            "from privacy.accounting.ledger import Ledger\n"
            "from privacy.accounting.events import ReleaseEvent\n"
            "from privacy.errors import BudgetExceeded\n"
            f"held = Ledger.open({str(path)!r}, **{TERMS!r})\n"
            "for _ in range(3):\n"
            f"    try: held.reserve(ReleaseEvent('x', {noise!r}))\n"
            "    except BudgetExceeded: pass\n"
        )
        started = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(2)]
        assert [process.wait(60) for process in started] == [0, 0]
        held = Ledger.open(path, **TERMS)
        assert len(held.entries()) == 3 and held.epsilon_spent() <= 8.0
