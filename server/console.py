"""What a person sees in the terminal: progress while a federation runs, a summary when it is done."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from server.report_tables import (
    PRIVACY_OFF,
    Report,
    Table,
    budget,
    departures,
    is_privacy_off,
    listed,
    quality,
)


class RunProgress:
    """Progress of a run: a live display on a terminal, an occasional plain line elsewhere.

    It writes to standard error by default, so that standard output holds the result alone.

    Args:
        console: where to write; ``Console(quiet=True)`` writes nothing.
        epsilon_budget: the budget that ``epsilon`` is shown against.
        privacy_off: say first, and loudly, that nothing is protected.
        seconds_between_lines: how often a plain line is written when this is not a terminal.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        epsilon_budget: float | None = None,
        privacy_off: bool = False,
        seconds_between_lines: float = 5.0,
    ) -> None:
        self._console = console or Console(stderr=True)
        self._budget = epsilon_budget
        self._privacy_off = privacy_off
        self._seconds_between_lines = seconds_between_lines
        self._is_live = self._console.is_terminal
        self._name = ""
        self._task: TaskID | None = None
        self._last_line = float("-inf")
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.fields[name]:<22}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=self._console,
        )

    def __enter__(self) -> RunProgress:
        if self._privacy_off:
            self._console.print(Text(f" {PRIVACY_OFF} ", style="bold white on red"))
        if self._is_live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_live:
            if kind is None:
                self._finish()
            self._progress.stop()

    def release(self, name: str, i: int | None = None, total: int | None = None) -> None:
        """Begin release ``i`` of ``total``, or a phase that releases nothing."""
        self._finish()
        place = f"{i}/{total} " if i is not None and total is not None else ""
        self._name = place + name.replace("_", " ")
        self._last_line = float("-inf")
        if self._is_live:
            self._task = self._progress.add_task("", total=None, name=self._name, state="")
        else:
            self._line("begins")

    def round(
        self,
        i: int,
        total: int,
        answered: int | None = None,
        of: int | None = None,
        epsilon: float | None = None,
    ) -> None:
        """Report that round ``i`` of ``total`` is done: how many clients answered, and ε so far."""
        state = self._state(i, total, answered, of, epsilon)
        if self._is_live:
            if self._task is not None:
                self._progress.update(self._task, completed=i, total=total, state=state)
            return
        now = time.monotonic()
        if i >= total or now - self._last_line >= self._seconds_between_lines:
            self._last_line = now
            self._line(state)

    def note(self, text: str) -> None:
        """Write one line that stays, such as a refusal or a dropout."""
        self._console.print(Text(text))

    def _state(self, i: int, total: int, answered: int | None, of: int | None, epsilon: float | None) -> str:
        parts = [f"round {i}/{total}"]
        if answered is not None:
            parts.append(f"clients {answered}/{of}" if of is not None else f"clients {answered}")
        if self._privacy_off:
            parts.append("PRIVACY OFF")
        elif epsilon is not None:
            parts.append(f"ε {epsilon:.2f}" + (f" of {self._budget:g}" if self._budget is not None else ""))
        return "  ".join(parts)

    def _line(self, text: str) -> None:
        self._console.print(Text(f"{self._name:<22} {text}"))

    def _finish(self) -> None:
        if self._task is not None:
            total = self._progress.tasks[self._task].total or 1.0
            self._progress.update(self._task, completed=total, total=total)
            self._task = None


def print_summary(report: Report, console: Console | None = None, folder: Path | None = None) -> None:
    """Print what a run learned, spent and sent, three users' lists, and where to read more.

    Args:
        report: the run's report; absent keys leave their part out.
        console: where to write; standard output by default.
        folder: the run folder, named in the last line.
    """
    console = console or Console()
    if is_privacy_off(report):
        console.print(Panel(Text(PRIVACY_OFF, style="bold"), style="white on red"))
    if report.get("refused"):
        console.print(Panel(Text(f"Stopped: {report['refused']}"), style="bold red"))
    for notice in report.get("notices") or []:
        console.print(Text(str(notice), style="yellow"))
    for table in (quality(report), budget(report), _without_exact_bytes(departures(report))):
        if table is not None:
            print_table(table, console)
    _print_lists(report, console)
    if folder is not None:
        console.print()
        console.print(Text("read     ", style="dim") + Text(str(folder / "report.html"), style="bold"))
        console.print(Text("again    ", style="dim") + Text(f"fedtower report {folder}"))


def _without_exact_bytes(table: Table | None) -> Table | None:
    """Drop the column of exact bytes, which the files have, so that a row fits one line of a terminal."""
    if table is None:
        return None
    drop = table.header.index("bytes")
    rows = [(*row[:drop], *row[drop + 1 :]) for row in table.rows]
    header = (*table.header[:drop], *table.header[drop + 1 :])
    return table._replace(header=header, rows=rows, text_columns=frozenset({0, len(header) - 1}))


def print_table(table: Table, console: Console) -> None:
    """Print a table under its title; on a narrow terminal only the last column gives way."""
    grid = RichTable(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim", pad_edge=False)
    last = len(table.header) - 1
    ours = table.header.index("fedtower") if "fedtower" in table.header else -1
    for i, title in enumerate(table.header):
        grid.add_column(
            title,
            justify="left" if i in table.text_columns else "right",
            style="bold cyan" if i == ours else "",
            no_wrap=i < last,
            min_width=max(len(row[i]) for row in (table.header, *table.rows)) if i < last else None,
        )
    for row in table.rows:
        stays = row[0] == "user encoder" and row[1] == "0 B"
        grid.add_row(*(Text(cell) for cell in row), style="bold green" if stays else "")
    note_style = "bold red" if table.note == PRIVACY_OFF else "dim"
    heading = Text.assemble((f"\n{table.title}", "bold"), "  ", (table.note, note_style))
    console.print(heading, Padding(grid, (0, 0, 0, 1)))


def _print_lists(report: Report, console: Console) -> None:
    lists = list(report.get("lists") or [])[:3]
    if not lists:
        return
    grid = RichTable(box=None, padding=(0, 3, 0, 0), pad_edge=False, show_header=False)
    for _ in lists:
        grid.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
    grid.add_row(*(Text(str(entry.get("user", "?")), style="bold", no_wrap=False) for entry in lists))
    grid.add_row(*(Text(_recent(entry), style="dim") for entry in lists))
    depth = max(len(entry.get("recommendations") or []) for entry in lists)
    for rank in range(min(depth, 5)):
        grid.add_row(*(_item(entry, rank) for entry in lists))
    console.print(Group(Text("\nRecommendations", style="bold"), Padding(grid, (0, 0, 0, 1))))


def _recent(entry: Report) -> str:
    titles = [str(title) for title in entry.get("history") or []]
    return f"after {titles[-1]}" if titles else "new user"


def _item(entry: Report, rank: int) -> Text:
    items = entry.get("recommendations") or []
    return Text(f"{rank + 1}. {listed(items[rank])}") if rank < len(items) else Text("")
