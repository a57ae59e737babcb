"""The report as one HTML file: readable on a phone, in light and dark, with nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

from server.report_plots import plots
from server.report_tables import PRIVACY_OFF, Report, Table, all_tables, is_privacy_off, listed, number

# The policy makes "loads nothing" something the browser enforces.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --quiet: #5f6b78; --page: #f6f7f9; --card: #ffffff;
        --line: #e3e7ec; --good: #2e7d4f; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaef; --quiet: #9aa6b2; --page: #14181d; --card: #1d232a; --line: #313a44;
          --good: #6cc493; --bad: #ff8a80; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 1rem; }
h2 { font-size: 1.05rem; margin: 0 0 .5rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
          padding: 1rem; margin: 1rem 0; }
.note { color: var(--quiet); font-size: .9rem; margin: 0 0 .6rem; }
.alarm { background: #b3261e; color: #ffffff; border: 0; font-weight: 700; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem;
           margin-bottom: 1rem; }
.figures div { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
               padding: .8rem 1rem; }
.figures b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.figures span { color: var(--quiet); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th { color: var(--quiet); font-weight: 500; text-align: right; vertical-align: bottom; }
td, th { white-space: nowrap; }
td { text-align: right; }
th, td { padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; }
th.text, td.text { text-align: left; }
td.long { min-width: 12rem; white-space: normal; overflow-wrap: anywhere; }
tr.stays td { color: var(--good); font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1rem; }
.plots img { display: block; width: 100%; height: auto; background: #ffffff; padding: .5rem;
             border: 1px solid var(--line); border-radius: .6rem; }
.users { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1.2rem; }
.users h3 { font-size: .95rem; margin: 0; }
.users ol { margin: .4rem 0 0; padding-left: 1.4rem; }
.users small { color: var(--quiet); }
"""


def render_html(report: Report) -> str:
    """Render the whole page.

    Guarantees: every text of the report is escaped; the page holds no script and refers to no other resource.
    """
    parts = ["<h1>fedtower: report of a run</h1>"]
    if is_privacy_off(report):
        parts.append(f'<section class="alarm">{escape(PRIVACY_OFF)}</section>')
    if report.get("refused"):
        parts.append(f'<section class="alarm">Stopped: {escape(str(report["refused"]))}</section>')
    parts += [f"<section>{escape(str(notice))}</section>" for notice in report.get("notices") or []]
    parts.append(_headline(report))
    pictures = "".join(_plot(text, svg) for text, svg in plots(report).items())
    parts.append(f'<div class="plots">{pictures}</div>' if pictures else "")
    parts.append(_lists(report))
    parts += [html_table(table) for table in all_tables(report)]
    return html_page("fedtower: report of a run", parts)


def html_page(title: str, parts: Sequence[str]) -> str:
    """One page in the report's style.

    Args:
        title: plain text.
        parts: HTML, already escaped; empty ones are left out. Pictures are ``data:`` only, the page's policy forbids others.
    """
    return _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(part for part in parts if part))


def _headline(report: Report) -> str:
    recall = (report.get("metrics") or {}).get("recall@10") or {}
    popularity = ((report.get("baselines") or {}).get("popularity") or {}).get("recall@10") or {}
    left: dict[str, int] = report.get("left_the_client") or {}
    figures: list[tuple[str, str]] = []
    if recall.get("value") is not None:
        figures.append((number(recall["value"]), "Recall@10"))
        if popularity.get("value"):
            figures.append((f"{recall['value'] / popularity['value']:.2f} ×", "of popularity's Recall@10"))
    privacy = report.get("privacy") or {}
    if privacy.get("epsilon") is not None and not is_privacy_off(report):
        of = "" if privacy.get("epsilon_budget") is None else f" of {privacy['epsilon_budget']:g}"
        figures.append((f"ε {privacy['epsilon']:.2f}", f"spent{of}, per {privacy.get('unit', 'user')}"))
    if "user_encoder" in left:
        figures.append((f"{left['user_encoder']:,} B", "of user encoder left the clients"))
    cells = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(text)}</span></div>" for value, text in figures
    )
    return f'<div class="figures">{cells}</div>' if cells else ""


def _plot(text: str, svg: str) -> str:
    data = base64.b64encode(svg.encode()).decode("ascii")
    return f'<img alt="{escape(text)}" src="data:image/svg+xml;base64,{data}">'


def html_table(table: Table) -> str:
    """A section with the table, every text escaped."""

    def cells(tag: str, row: tuple[str, ...]) -> str:
        return "".join(_cell(tag, text, i in table.text_columns) for i, text in enumerate(row))

    head = f"<thead><tr>{cells('th', table.header)}</tr></thead>" if any(table.header) else ""
    rows = "".join(
        f'<tr class="stays">{cells("td", row)}</tr>'
        if row[0] == "user encoder" and row[1] == "0 B"
        else f"<tr>{cells('td', row)}</tr>"
        for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<section><h2>{escape(table.title)}</h2>{note}<div class="scroll">'
        f"<table>{head}<tbody>{rows}</tbody></table></div></section>"
    )


def _cell(tag: str, text: str, is_text: bool) -> str:
    kind = ' class="text long"' if len(text) > 30 else ' class="text"'
    return f"<{tag}{kind if is_text else ''}>{escape(text)}</{tag}>"


def _lists(report: Report) -> str:
    users = "".join(_user(entry) for entry in report.get("lists") or [])
    return f'<section><h2>Recommendations</h2><div class="users">{users}</div></section>' if users else ""


def _user(entry: dict[str, Any]) -> str:
    history = ", ".join(str(title) for title in entry.get("history") or []) or "–"
    items = "".join(
        f"<li>{escape(listed(item))}"
        + (f"<br><small>{escape(str(item['reason']))}</small>" if item.get("reason") else "")
        + "</li>"
        for item in entry.get("recommendations") or []
    )
    return (
        f"<div><h3>{escape(str(entry.get('user', '?')))}</h3>"
        f"<small>last seen: {escape(history)}</small><ol>{items}</ol></div>"
    )
