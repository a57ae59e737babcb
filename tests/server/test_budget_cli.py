from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import fedtower
from privacy.accounting.events import ReleaseEvent
from privacy.accounting.ledger import Ledger
from server import budget_cli, ledger_statement
from server.report import write_report

DELTA = 1e-5


@pytest.fixture
def ledger_path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.open(path, population="demo", epsilon_budget=8.0, target_delta=DELTA)
    ledger.commit(ledger.reserve(ReleaseEvent("popularity", 5.0)))
    ledger.release_unused(ledger.reserve(ReleaseEvent("statistics", 2.0)))
    ledger.commit(ledger.reserve(ReleaseEvent("statistics", 2.5)))
    for i in range(3):
        ledger.commit(ledger.reserve(ReleaseEvent(f"gradients/{i}", 4.0, sampling_probability=0.5)))
    ledger.reserve(ReleaseEvent("fit", 3.0, left_the_client=False))
    yield path


def _call(*args: str) -> int:
    with pytest.raises(SystemExit) as done:
        fedtower.run(typer.main.get_command(budget_cli.app), args)
    code = done.value.code
    return code if isinstance(code, int) else -1


def _claim(folder: Path, **privacy: object) -> str:
    write_report({"privacy": privacy}, folder)
    return str(folder)


def test_show_prints_events_costs_and_what_is_left(
    ledger_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _call("show", str(ledger_path)) == 0
    out = capsys.readouterr().out
    for wanted in ("popularity", "statistics", "gradients", "released", "reserved", "of 8", "head "):
        assert wanted in out


def test_show_as_json_groups_rounds_and_charges_all_but_what_was_given_back(
    ledger_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _call("show", str(ledger_path), "--json") == 0
    statement = json.loads(capsys.readouterr().out)
    names = [(row["name"], row["steps"], row["status"]) for row in statement["releases"]]
    assert names == [
        ("popularity", 1, "committed"),
        ("statistics", 1, "released"),
        ("statistics", 1, "committed"),
        ("gradients", 3, "committed"),
        ("fit", 1, "reserved"),
    ]
    after = [row["epsilon_after"] for row in statement["releases"]]
    assert after[0] == after[1]  # given back: costs nothing
    assert after[1] < after[2] < after[3] < after[4] == pytest.approx(statement["epsilon"], abs=1e-9)
    assert statement["epsilon_left_the_client"] < statement["epsilon"] < 8.0
    assert statement["epsilon_left"] == pytest.approx(8.0 - statement["epsilon"])


def test_reading_a_ledger_changes_nothing_in_it(
    ledger_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sqlite3.connect(ledger_path).execute("SELECT * FROM chain").fetchall()
    assert _call("show", str(ledger_path)) == _call("verify", str(ledger_path)) == 0
    assert sqlite3.connect(ledger_path).execute("SELECT * FROM chain").fetchall() == before
    capsys.readouterr()


def test_an_honest_report_is_verified(
    ledger_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spent = ledger_statement.open_ledger(ledger_path).epsilon_spent()
    run = _claim(tmp_path / "run", epsilon=spent, delta=DELTA)
    assert _call("verify", str(ledger_path), "--report", run) == 0
    assert "agrees" in capsys.readouterr().out
    assert _call("verify", str(ledger_path), "--report", run, "--json") == 0
    assert json.loads(capsys.readouterr().out)["report_difference"] < 1e-6


@pytest.mark.parametrize(
    ("shift", "delta", "text"),
    [(-0.01, DELTA, "claims epsilon"), (2e-6, DELTA, "claims epsilon"), (0.0, 1e-6, "delta")],
)
def test_a_report_that_claims_anything_else_is_not(
    ledger_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    shift: float,
    delta: float,
    text: str,
) -> None:
    spent = ledger_statement.open_ledger(ledger_path).epsilon_spent()
    run = _claim(tmp_path / "run", epsilon=spent + shift, delta=delta)
    assert _call("verify", str(ledger_path), "--report", run) == 4
    err = capsys.readouterr().err
    assert text in err
    assert err.count("\n") == 1


def test_a_run_without_privacy_has_nothing_to_verify(
    ledger_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        _call("verify", str(ledger_path), "--report", _claim(tmp_path / "run", mode="off", epsilon=1.0)) == 2
    )
    assert "privacy was off" in capsys.readouterr().err


def test_a_changed_row_is_found(ledger_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(ledger_path) as database:
        database.execute("UPDATE chain SET body = replace(body, '5.0', '9.0') WHERE kind = 'reserve'")
    assert _call("verify", str(ledger_path)) == 4
    assert "was changed" in capsys.readouterr().err


def test_a_path_without_a_ledger_is_wrong_input_and_none_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _call("show", str(tmp_path / "none.sqlite")) == 2
    assert "no ledger here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
