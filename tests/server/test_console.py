from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from server.console import RunProgress, print_summary
from server.report_tables import PRIVACY_OFF
from tests.server.example_report import example_report


def _summary(report: Mapping[str, object], width: int = 100) -> str:
    out = io.StringIO()
    print_summary(report, Console(file=out, width=width), Path("runs/example"))
    return out.getvalue()


def test_the_summary_shows_quality_budget_departures_lists_and_folder() -> None:
    text = _summary(example_report())
    for wanted in (
        "0.1812  [0.1732, 0.1892]      0.0931  0.0100  2,000",
        "ε = 7.941 of 8",
        "encoder fit",
        "user encoder              0 B          0 B",
        "user-404",
        "1. 8.0% Iron Tide",
        "A Winter <Garden>",
        "runs/example/report.html",
    ):
        assert wanted in text
    assert PRIVACY_OFF not in text


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, _summary(example_report(), width).splitlines())) <= width


@pytest.mark.parametrize("key", sorted(example_report()))
def test_every_key_may_be_absent(key: str) -> None:
    report = example_report()
    del report[key]
    assert "runs/example" in _summary(report)


def test_privacy_off_and_a_refusal_come_first() -> None:
    report = example_report() | {"privacy": {"mode": "off"}, "refused": "the client said no"}
    text = _summary(report, width=200)
    assert text.index(PRIVACY_OFF) < text.index("the client said no") < text.index("Recall@10")


def test_what_a_run_did_not_use_is_said_before_its_figures() -> None:
    text = _summary(example_report() | {"notices": ["Not used: [loss] = 'bpr'."]})
    assert text.index("Not used: [loss] = 'bpr'.") < text.index("Recall@10")


def _lines(**settings: object) -> list[str]:
    out = io.StringIO()
    with RunProgress(Console(file=out, width=100), epsilon_budget=8.0, **settings) as progress:  # type: ignore[arg-type]
        progress.release("encoder_fit", 2, 5)
        for i in range(1, 101):
            progress.round(i, 100, answered=4, of=5, epsilon=0.01 * i)
        progress.note("client-3 dropped out")
    return out.getvalue().splitlines()


def test_without_a_terminal_progress_is_a_few_plain_lines() -> None:
    lines = _lines(seconds_between_lines=3600.0)
    assert lines == [
        "2/5 encoder fit        begins",
        "2/5 encoder fit        round 1/100  clients 4/5  ε 0.01 of 8",
        "2/5 encoder fit        round 100/100  clients 4/5  ε 1.00 of 8",
        "client-3 dropped out",
    ]


def test_privacy_off_is_shouted_in_progress() -> None:
    lines = _lines(privacy_off=True)
    assert PRIVACY_OFF in lines[0]
    assert all("ε" not in line for line in lines)
    assert "PRIVACY OFF" in lines[2]


def test_on_a_terminal_progress_is_live_and_ends_with_every_release_done() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True)
    with RunProgress(console) as progress:
        progress.release("popularity")
        progress.round(1, 1, 5, 5)
        progress.release("local fit")
    last = out.getvalue().rsplit("popularity", 1)[-1]
    assert "\x1b[" in out.getvalue()
    assert out.getvalue().count("✓") >= 2
    assert "local fit" in last


def test_a_quiet_console_hears_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress(Console(quiet=True), privacy_off=True) as progress:
        progress.release("popularity")
        progress.round(1, 1)
    assert capsys.readouterr() == ("", "")


def test_an_error_inside_passes_through() -> None:
    with pytest.raises(KeyError), RunProgress(Console(quiet=True)) as progress:
        progress.release("popularity")
        raise KeyError("x")
