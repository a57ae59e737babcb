"""The quality bench as a report: the same table, with intervals, beside its picture, as Markdown, HTML and JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from recsys_models.metrics.intervals import proportion_estimate
from server.report import markdown_section, write_aside
from server.report_html import html_page, html_table
from server.report_tables import Table, number
from simulations.bench_plots import draw_budgets
from simulations.bench_quality import footnotes
from simulations.protocols import LABELS

Result = dict[str, Any]
_PICTURED = "last-out"
_A_SHARE_OF_USERS = ("last-out", "time", "negatives-99")
"""Protocols with one test item a user: there recall is a share of users."""
_INTERVAL_OF = "recall@10"


def write_bench(result: Result, stem: Path) -> Path:
    """Write ``STEM.json``, ``STEM.md``, ``STEM.html`` and, under the protocol ``last-out``, ``STEM.png``.

    Each text is written aside and renamed; the same result gives the same bytes. The HTML holds the picture itself.

    Args:
        result: of ``simulations.bench_quality.run``.
        stem: path without an ending; its folder is made.

    Returns:
        The HTML file.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    picture: bytes | None = None
    if result["protocol"] == _PICTURED:
        image = _with_ending(stem, ".png")
        draw_budgets(result, image)
        picture = image.read_bytes()
    write_aside(_with_ending(stem, ".json"), json.dumps(result, indent=2, sort_keys=True) + "\n")
    write_aside(_with_ending(stem, ".md"), _markdown(result, stem.name if picture else None))
    page = _with_ending(stem, ".html")
    write_aside(page, _html(result, picture))
    return page


def quality_table(result: Result) -> Table:
    """The bench's rows, with a 95 % interval of recall@10 where one item of each user is looked for."""
    metrics: list[str] = result["metrics"]
    with_interval = _INTERVAL_OF in metrics and result["protocol"] in _A_SHARE_OF_USERS
    header = ("method", "ε", "seeds", *(_title(name) for name in metrics), "spread over seeds")
    rows = [
        (
            str(row["method"]),
            "" if row["epsilon"] is None else f"{float(row['epsilon']):g}",
            str(row["seeds"]),
            *(number(row[name]) for name in metrics),
            "" if row["spread"] is None else number(row["spread"]),
            *([_interval(row, result["evaluated_users"])] if with_interval else []),
        )
        for row in result["rows"]
    ]
    note = (
        f"{result['dataset']}. {LABELS[result['protocol']].capitalize()}; {result['evaluated_users']:,} users judged; "
        f"{result['clients']} clients; split checksum {result['split_checksum'][:12]}. ε inf is privacy off; no ε: a central "
        "row without privacy."
    )
    if with_interval:
        header = (*header, f"95 % interval of {_INTERVAL_OF}")
        note += " Intervals (Wilson) are for who happens to be a user; a seed adds no users, so they do not shrink with seeds."
    return Table("Quality beside baselines", header, rows, " ".join([note, *footnotes(result)]))


def _interval(row: Mapping[str, Any], users: int) -> str:
    estimate = proportion_estimate(row[_INTERVAL_OF] * users, users)
    return f"[{estimate.low:.4f}, {estimate.high:.4f}]"


def _title(metric: str) -> str:
    return metric.replace("ndcg", "NDCG")


def _shortfalls(result: Result) -> Table | None:
    rows = [(line,) for line in result["shortfalls"]]
    return Table("Below what is asked", ("figure",), rows) if rows else None


def _tables(result: Result) -> list[Table]:
    return [table for table in (quality_table(result), _shortfalls(result)) if table is not None]


def _markdown(result: Result, picture: str | None) -> str:
    blocks = ["# fedtower: quality against epsilon"]
    if picture is not None:
        blocks.append(f"![recall against epsilon]({picture}.png)")
    return "\n\n".join([*blocks, *(markdown_section(table) for table in _tables(result))]) + "\n"


def _html(result: Result, picture: bytes | None) -> str:
    title = "fedtower: quality against epsilon"
    parts = [f"<h1>{escape(title)}</h1>"]
    if picture is not None:
        data = base64.b64encode(picture).decode("ascii")
        image = f'<img alt="recall against epsilon, every method" src="data:image/png;base64,{data}">'
        parts.append(f'<div class="plots">{image}</div>')
    return html_page(title, [*parts, *(html_table(table) for table in _tables(result))])


def _with_ending(stem: Path, ending: str) -> Path:
    # Not with_suffix: a data set's name may hold a dot.
    return stem.with_name(stem.name + ending)
