"""The page for the people whose logs are used: what leaves their device, from the ledger and the wire inventory alone."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from privacy.accounting.accountant import delta as delta_of
from privacy.accounting.events import ReleaseEvent, seen_outside
from privacy.errors import InputError
from privacy.wire import federation as wire
from server.report import write_aside
from server.report_tables import Table

Block = str | Table  # "# " and "## " begin headings, "> " a warning; any other text is a paragraph

_NOBODY = "nobody: it is masked, and only the sum over all clients can be opened"
_SERVER = "the server"
_ALL = "the server and the other clients"

# What an answer of each kind holds, and who can read it. A kind without a line here stops the page.
MEANING: dict[str, tuple[str, str]] = {
    wire.ENROL: (
        "the client's name and public key, its number of users rounded to two digits (exact below 100)",
        _SERVER,
    ),
    wire.AGREE: ("yes, or a short reason for no", _SERVER),
    wire.ADVERTISE: ("a fresh public key, signed", _ALL),
    wire.KEYS: ("sealed confirmations of the other clients' keys", "the client each is sealed for"),
    wire.CONFIRM: ("nothing but an acknowledgement", _SERVER),
    wire.RELEASE: ("sums over this client's users, clipped and with noise", _NOBODY),
    wire.EVALUATE: ("how often recommendations were right, summed over users, with noise", _NOBODY),
    wire.SURVIVORS: ("a signature over the list of clients that answered", _ALL),
    wire.REVEAL: ("shares of keys that open the sum, never one client's upload", _SERVER),
    wire.PUBLISH: ("nothing but an acknowledgement", _SERVER),
    wire.FIT: ("nothing but an acknowledgement", _SERVER),
}

_FALSE_ALARMS = 0.01
_LOOKS = 24


def disclosure(certificate: dict[str, Any]) -> list[Block]:
    """The page's contents.

    Args:
        certificate: as ``server.certificate.certificate`` states it.

    Raises:
        InputError: the wire inventory holds a kind that no line describes.
    """
    if undescribed := sorted(set(wire.UPLINK) - set(MEANING)):
        raise InputError(f"the wire inventory holds kinds that the page does not describe: {undescribed}")
    guarantee = certificate["guarantee"]
    blocks: list[Block] = ["# What leaves your device"]
    if certificate["protects"] is False:
        blocks.append("> This was a simulation: its noise came from a seed and protects nobody.")
    blocks += [
        "## What stays",
        "Your history, the model that reads it, and your recommendations stay where they are. There is no message that "
        "could carry them.",
        "## What leaves",
        _wire_table(certificate),
        _release_table(certificate),
        "## What that can tell about you",
        _in_words(certificate),
        f"In figures: ε = {guarantee['epsilon_outside_the_clients']:.2f} for everybody outside, at "
        f"δ = {guarantee['delta']:g}, for {guarantee['unit']}. No more than ε = {guarantee['epsilon_budget']:g} will "
        "ever be spent under this budget.",
        *_earlier_releases(certificate),
        "## What this does not cover",
        *(f"- {line}" for line in certificate["outside"]),
        "## If you leave",
        "Your history can be deleted, and nothing more is then computed from it. What was released before stays released; "
        "it is covered by the promise above, and no budget is given back for it.",
        f"Made from the ledger of {certificate['population']!r} as of {certificate['as_of']}, "
        f"head {certificate['ledger']['head_hash']}.",
    ]
    return blocks


def write_pages(certificate: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``certificate.json`` and ``what-leaves-your-device.md`` and ``.html`` into a folder, made if absent."""
    blocks = disclosure(certificate)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "certificate.json": json.dumps(certificate, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "what-leaves-your-device.md": to_markdown(blocks),
        "what-leaves-your-device.html": to_html(blocks),
    }
    for name, text in texts.items():
        write_aside(folder / name, text)
    return [folder / name for name in texts]


def most_right_guesses(certificate: dict[str, Any]) -> float:
    """The largest share of users whom anybody outside could rightly name as taking part.

    Of those who did not take part, one in a hundred may be named wrongly. The bound is the best of
    e^eps a + delta(eps) and 1 - e^-eps (1 - delta(eps) - a) over eps (Kairouz, Oh, Viswanath 2015, Theorem 2.1).
    """
    events = seen_outside(
        [
            ReleaseEvent(
                r["name"],
                r["noise_multiplier"],
                sampling_probability=r["sampling_probability"],
                count=r["steps"],
                left_the_client=r["left_the_client"],
            )
            for r in certificate["releases"]
        ]
    )
    best = 1.0
    highest = 1.5 * certificate["guarantee"]["epsilon_outside_the_clients"]
    for look in range(_LOOKS + 1):
        epsilon = highest * look / _LOOKS
        delta = delta_of(events, epsilon)
        likely = math.exp(epsilon) * _FALSE_ALARMS + delta
        best = min(best, likely, 1.0 - math.exp(-epsilon) * (1.0 - delta - _FALSE_ALARMS))
    return best


def _in_words(certificate: dict[str, Any]) -> str:
    at_most = math.ceil(100 * most_right_guesses(certificate) - 1e-9)
    return (
        "Suppose somebody has everything that was ever released, knows everybody else's history, and guesses whether yours "
        f"was used. If {_FALSE_ALARMS:.0%} of the people whose history was not used are wrongly named, at most {at_most} "
        "of 100 people whose history was used are rightly named. A pure guess would name 1 of 100."
    )


def _earlier_releases(certificate: dict[str, Any]) -> list[Block]:
    statements = (certificate.get("stands_on") or {}).get("statements") or []
    if not statements:
        return []
    return ["## What it was built on", *(f"- {statement}" for statement in statements)]


def _wire_table(certificate: dict[str, Any]) -> Table:
    sizes = certificate["left_the_client_bytes"] or {}
    rows = [(kind, *MEANING[kind], wire.UPLINK[kind].replace("_", " ")) for kind in wire.UPLINK]
    counted = ", ".join(f"{kind.replace('_', ' ')} {size:,} B" for kind, size in sizes.items())
    note = f"From all clients together: {counted}." if counted else ""
    return Table(
        "Messages", ("message", "holds", "who can read it", "counted as"), rows, note, frozenset(range(4))
    )


def _release_table(certificate: dict[str, Any]) -> Table:
    rows = [
        (
            r["name"],
            r["at"][:10],
            str(r["steps"]),
            r["sampling"],
            "–" if r["epsilon_alone"] is None else f"{r['epsilon_alone']:.3f}",
            "yes" if r["left_the_client"] else "no",
        )
        for r in certificate["releases"]
    ]
    header = ("release", "day", "rounds", "who was asked", "ε alone", "left the client")
    return Table("Sums that were made", header, rows, "", frozenset({0, 1, 3, 5}))


def to_markdown(blocks: Sequence[Block]) -> str:
    """The page as Markdown."""
    parts: list[str] = []
    for block in blocks:
        if isinstance(block, str):
            parts.append(block if block[:1] in "#>-" else _plain(block))
            continue
        rule = [":--" if i in block.text_columns else "--:" for i in range(len(block.header))]
        lines = [block.header, tuple(rule), *block.rows]
        table = "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)
        parts.append(
            "\n\n".join(part for part in (f"**{block.title}.** {block.note}".strip(), table) if part)
        )
    # List items stand together.
    return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>What leaves your device</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ max-width: 48rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }}
table {{ border-collapse: collapse; width: 100%; font-size: .92rem; }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #8886; }}
.alarm {{ background: #b3261e; color: #fff; padding: .6rem 1rem; font-weight: 700; }}
.scroll {{ overflow-x: auto; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def to_html(blocks: Sequence[Block]) -> str:
    """The page as one HTML file that loads nothing; every text is escaped."""
    return _PAGE.format(body="\n".join(_html(block) for block in blocks))


def _html(block: Block) -> str:
    if isinstance(block, Table):
        head = "".join(f"<th>{escape(cell)}</th>" for cell in block.header)
        rows = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in block.rows)
        note = f"<p>{escape(block.note)}</p>" if block.note else ""
        return f'<h3>{escape(block.title)}</h3>{note}<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
    for mark, tag in (("## ", "h2"), ("# ", "h1"), ("- ", "li")):
        if block.startswith(mark):
            return f"<{tag}>{escape(block[len(mark) :])}</{tag}>"
    if block.startswith("> "):
        return f'<p class="alarm">{escape(block[2:])}</p>'
    return f"<p>{escape(block)}</p>"
