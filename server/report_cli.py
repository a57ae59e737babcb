"""``fedtower report RUN``: show a finished run again, or write its readable forms anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="A run folder, or its report.json.")],
    out: Annotated[
        Path | None, typer.Option(help="Write report.json, .md and .html into this folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json instead of tables.")] = False,
) -> None:
    """Show what a run learned, spent and sent; with --out, write the report again."""
    from server.console import print_summary
    from server.report import read_report, report_json, write_report

    found = read_report(run)
    if out is not None:
        write_report(found, out)
    if as_json:
        typer.echo(report_json(found), nl=False)
    else:
        print_summary(found, folder=out or (run if run.is_dir() else run.parent))
