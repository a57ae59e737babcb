"""A run's report: ``report.json`` and, made from it alone, ``report.md`` and ``report.html``."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privacy.errors import InputError
from server.report_html import render_html
from server.report_tables import PRIVACY_OFF, Report, Table, all_tables, is_privacy_off, listed

# The order of report.json; keys that are not named here follow in alphabetical order.
KEY_ORDER = (
    "notices",
    "metrics",
    "baselines",
    "detail",
    "privacy",
    "clip_norms",
    "left_the_client",
    "started_from",
    "item_tower_sha256",
    "catalogue_sha256",
    "seed",
    "clients",
    "users",
    "items",
    "seconds",
    "scenario",
    "series",
    "blend",
    "lists",
    "cleaning",
    "dropouts",
    "simulation",
    "refused",
    "version",
)


def write_report(report: Report, folder: Path) -> None:
    """Write ``report.json``, ``report.md`` and ``report.html`` into ``folder``, which is made if absent.

    Each file is written to the side and renamed, so a reader never sees half of one. The HTML holds its
    pictures and its style itself and loads nothing.

    Args:
        report: the run's report; every key is optional. Numbers that are not finite become ``null``.
        folder: the run folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = report_json(report)
    plain: Report = json.loads(text)
    write_aside(folder / "report.json", text)
    write_aside(folder / "report.md", render_markdown(plain))
    write_aside(folder / "report.html", render_html(plain))


def read_report(path: Path) -> dict[str, Any]:
    """Read a ``report.json``, given the file or its run folder.

    Raises:
        InputError: the file is not a JSON object.
        FileNotFoundError: there is none.
    """
    if path.is_dir():
        path = path / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path}: not a JSON report ({error}); give a run folder or its report.json"
        ) from error
    if not isinstance(report, dict):
        raise InputError(f"{path}: holds a {type(report).__name__}, not a report; give a run's report.json")
    return report


def report_json(report: Report) -> str:
    """Serialise a report in its canonical order: the same report gives the same bytes."""
    order = {key: i for i, key in enumerate(KEY_ORDER)}
    keys = sorted(report, key=lambda key: (order.get(key, len(order)), key))
    ordered = {key: _plain(report[key]) for key in keys}
    return json.dumps(ordered, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def render_markdown(report: Report) -> str:
    """Render the report for people who read it in a terminal or on a code host."""
    blocks = ["# fedtower: report of a run"]
    if is_privacy_off(report):
        blocks.append(f"> **{PRIVACY_OFF}**")
    if report.get("refused"):
        blocks.append(f"> **Stopped:** {_escape(str(report['refused']))}")
    blocks += [f"> {_escape(str(notice))}" for notice in report.get("notices") or []]
    for table in all_tables(report):
        blocks.append(markdown_section(table))
    blocks += _markdown_lists(report)
    return "\n\n".join(block for block in blocks if block) + "\n"


def markdown_section(table: Table) -> str:
    """The table under its title and note; nothing in it becomes markup."""
    blocks = (f"## {table.title}", _escape(table.note), _markdown_table(table))
    return "\n\n".join(block for block in blocks if block)


def _markdown_table(table: Table) -> str:
    rule = [":--" if i in table.text_columns else "--:" for i in range(len(table.header))]
    lines = [table.header, tuple(rule), *table.rows]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def _markdown_lists(report: Report) -> list[str]:
    blocks = ["## Recommendations"] if report.get("lists") else []
    for entry in report.get("lists") or []:
        history = ", ".join(_escape(str(title)) for title in entry.get("history") or [])
        lines = [f"**{_escape(str(entry.get('user', '?')))}**, last seen: {history or '–'}", ""]
        for rank, item in enumerate(entry.get("recommendations") or [], start=1):
            reason = f" ({_escape(str(item['reason']))})" if item.get("reason") else ""
            lines.append(f"{rank}. {_escape(listed(item))}{reason}")
        blocks.append("\n".join(lines))
    return blocks


def _escape(text: str) -> str:
    # Titles come from data: they must not become markup, nor break a table.
    for sign in "\\`*_<>|[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _plain(value: Any) -> Any:
    """Turn numpy scalars, paths and non-finite numbers into what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "item") and callable(value.item):  # a numpy or torch scalar
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def write_aside(path: Path, text: str) -> None:
    """Write a file beside its place and rename it: whoever reads ``path`` finds the old text or all of the new."""
    aside = path.with_name(path.name + ".part")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
