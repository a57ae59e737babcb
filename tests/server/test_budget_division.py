"""``budget slice``, ``close`` and ``verify`` as people call them: exit codes, one line of error, nothing written on refusal."""

from __future__ import annotations

import json
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer

import fedtower
from privacy.accounting.events import ReleaseEvent
from privacy.accounting.ledger import Ledger
from privacy.errors import BudgetExceeded
from server import budget_cli
from server.ledger_statement import end_of, open_ledger
from server.report import write_report

DELTA = 1e-5
FAR = "2999-12-31"


@pytest.fixture
def ledger_path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.open(path, population="shop", epsilon_budget=8.0, target_delta=DELTA)
    for name in ("popularity", "statistics", "metrics"):
        ledger.commit(ledger.reserve(ReleaseEvent(name, 6.0)))
    return path


def _call(*args: object) -> int:
    with pytest.raises(SystemExit) as done:
        fedtower.run(typer.main.get_command(budget_cli.app), [str(a) for a in args])
    return done.value.code if isinstance(done.value.code, int) else -1


def test_a_slice_is_given_shown_spent_and_closed(
    ledger_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _call("slice", ledger_path, "--deployment", "web", "--epsilon", 3, "--expires", FAR) == 0
    assert "until 3000-01-01 00:00 UTC" in capsys.readouterr().out
    web = open_ledger(ledger_path).charging(deployment="web", window="2026-Q1")
    web.commit(web.reserve(ReleaseEvent("statistics", 4.0)))
    assert _call("show", ledger_path, "--json") == 0
    statement = json.loads(capsys.readouterr().out)
    [given] = statement["slices"]
    assert (given["deployment"], given["epsilon"], given["status"]) == ("web", 3.0, "open")
    assert 0 < given["epsilon_spent"] < statement["epsilon"] < 8.0
    assert [(r["deployment"], r["window"]) for r in statement["releases"]][-1] == ("web", "2026-Q1")
    assert _call("close", ledger_path, "--slice", "web") == 0
    assert "nothing is refunded" in capsys.readouterr().out
    with pytest.raises(BudgetExceeded, match="closed"):
        web.reserve(ReleaseEvent("more", 60.0))
    assert _call("show", ledger_path) == 0
    assert "closed" in capsys.readouterr().out
    assert _call("verify", ledger_path) == 0


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["slice", "--deployment", "web", "--epsilon", "9", "--expires", FAR], 3),
        (["slice", "--deployment", "web", "--epsilon", "nan", "--expires", FAR], 2),
        (["slice", "--deployment", "web", "--epsilon", "0", "--expires", FAR], 2),
        (["slice", "--deployment", "", "--epsilon", "1", "--expires", FAR], 2),
        (["slice", "--deployment", "web", "--epsilon", "1", "--expires", "2020-01-01"], 2),
        (["slice", "--deployment", "web", "--epsilon", "1", "--expires", "soon"], 2),
        (["slice", "--deployment", "web", "--epsilon", "1", "--expires", "2999-01-01T00:00:00"], 2),
        (["close"], 2),
        (["close", "--window", "2025", "--slice", "web"], 2),
        (["close", "--slice", "web"], 2),
        (["close", "--window", ""], 2),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(
    ledger_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: int
) -> None:
    head = open_ledger(ledger_path).head_hash()
    assert _call(args[0], ledger_path, *args[1:]) == code
    assert capsys.readouterr().err.count("\n") == 1
    assert open_ledger(ledger_path).head_hash() == head


def test_a_window_is_closed_once(ledger_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _call("close", ledger_path, "--window", "2025") == 0
    assert _call("close", ledger_path, "--window", "2025") == 2
    assert "closed before" in capsys.readouterr().err


def test_a_day_lasts_until_its_end_in_utc() -> None:
    assert end_of("2026-12-31") == datetime(2027, 1, 1, tzinfo=UTC)
    assert end_of("2026-12-31T12:00:00+02:00") == datetime(2026, 12, 31, 10, tzinfo=UTC)


def test_a_clock_that_went_back_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ledger.sqlite"
    terms = {"population": "shop", "epsilon_budget": 8.0, "target_delta": DELTA}
    Ledger.open(path, **terms, clock=lambda: datetime(2998, 1, 1, tzinfo=UTC))  # written in the future
    assert _call("slice", path, "--deployment", "web", "--epsilon", 1, "--expires", FAR) == 4
    assert "the clock went back" in capsys.readouterr().err
    assert _call("show", path) == 0  # reading is not refused


class TestVerify:
    def test_every_flipped_byte_is_found(self, ledger_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """At positions all over the file, content or not, and in its counter."""
        for path in (ledger_path, ledger_path.with_name(ledger_path.name + ".counter")):
            content = path.read_bytes()
            for position in range(0, len(content), max(1, len(content) // 60)):
                flipped = bytes([content[position] ^ 4])
                path.write_bytes(content[:position] + flipped + content[position + 1 :])
                assert _call("verify", ledger_path) == 4, f"byte {position} of {path.name}"
            path.write_bytes(content)
        assert _call("verify", ledger_path) == 0
        capsys.readouterr()

    def test_a_deleted_row_is_found(self, ledger_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for number in (0, 2, 6):
            copy = ledger_path.with_name(f"without-{number}.sqlite")
            shutil.copy(ledger_path, copy)
            shutil.copy(f"{ledger_path}.counter", f"{copy}.counter")
            with sqlite3.connect(copy) as database:
                database.execute("DELETE FROM chain WHERE number = ?", [number])
            database.close()
            assert _call("verify", copy) == 4
            assert f"row {number}" in capsys.readouterr().err

    def test_an_older_copy_is_found(self, ledger_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        older = ledger_path.read_bytes()
        ledger = open_ledger(ledger_path)
        ledger.commit(ledger.reserve(ReleaseEvent("more", 9.0)))
        ledger_path.write_bytes(older)
        assert _call("verify", ledger_path) == 4
        assert "older or shortened copy" in capsys.readouterr().err

    def test_older_copies_of_both_files_disagree_with_the_report(
        self, ledger_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        counter = ledger_path.with_name(ledger_path.name + ".counter")
        older = ledger_path.read_bytes(), counter.read_bytes()
        ledger = open_ledger(ledger_path)
        ledger.commit(ledger.reserve(ReleaseEvent("more", 9.0)))
        write_report({"privacy": {"epsilon": ledger.epsilon_spent(), "delta": DELTA}}, tmp_path / "run")
        assert _call("verify", ledger_path, "--report", tmp_path / "run") == 0
        ledger_path.write_bytes(older[0])
        counter.write_bytes(older[1])
        assert _call("verify", ledger_path, "--report", tmp_path / "run") == 4
        assert "claims epsilon" in capsys.readouterr().err

    def test_older_copies_of_both_files_never_had_a_later_head(
        self, ledger_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        counter = ledger_path.with_name(ledger_path.name + ".counter")
        older = ledger_path.read_bytes(), counter.read_bytes()
        early = open_ledger(ledger_path).head_hash()
        open_ledger(ledger_path).reserve(ReleaseEvent("more", 9.0))
        late = open_ledger(ledger_path).head_hash()
        for head in (early, late):
            assert _call("verify", ledger_path, "--head", head) == 0
        ledger_path.write_bytes(older[0])
        counter.write_bytes(older[1])
        assert _call("verify", ledger_path, "--head", early) == 0
        assert _call("verify", ledger_path, "--head", late) == 4
        assert "never had the head" in capsys.readouterr().err


def test_a_population_is_opened_and_its_budget_changed_on_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "shop.sqlite"
    for budget in (8, 6):
        assert _call("open", path, "--population", "shop", "--epsilon", budget) == 0
    assert open_ledger(path).epsilon_budget == 6.0
    assert _call("open", path, "--population", "other", "--epsilon", 8) == 2
    assert _call("open", path, "--population", "shop", "--epsilon", 8, "--delta", 1e-6) == 2
    assert capsys.readouterr().err.count("\n") == 2
