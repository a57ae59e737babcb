"""RecBole's atomic files: tab-separated, every column named ``name:type`` in the first line.

``.inter`` holds the events, ``.item`` and ``.user`` what is known about items and users. A column of type
``token_seq`` holds several values separated by spaces. Format: RecBole documentation, "Atomic files".
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from recsys_models.data.readers import read_log, read_table
from recsys_models.data.schema import LogColumns
from recsys_models.data.source import ItemFacts, Source, describe
from recsys_models.errors import DataError

_TITLES = ("movie_title", "title", "name")
_GENRES = ("class", "genre", "genres")
_YEARS = ("release_year", "year")


def read_recbole(inter: Path, columns: LogColumns | None = None) -> Source:
    """The ``.inter`` file, with the ``.item`` and ``.user`` files of the same stem if they are there."""
    header = _header(inter)
    columns = columns or LogColumns(value="rating")
    typed = {name.split(":")[0]: name for name in header}

    def in_file(name: str) -> str:
        return typed.get(name, name)

    in_file_columns = replace(
        columns,
        user=in_file(columns.user),
        item=in_file(columns.item),
        timestamp=in_file(columns.timestamp),
        event=in_file(columns.event),
        value=in_file(columns.value),
    )
    frame = read_log(inter, in_file_columns, minimum_users=1)
    return Source(
        inter.stem, frame, _items(inter.with_suffix(".item")), users=_users(inter.with_suffix(".user"))
    )


def _header(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"there is no file {path}: check the path")
    with path.open(encoding="utf-8") as file:
        names = file.readline().rstrip("\r\n").split("\t")
    untyped = [name for name in names if ":" not in name]
    if untyped:
        raise DataError(
            f"{path.name}: column {untyped[0]!r} has no type: write 'name:token', 'name:float', ..."
        )
    return names


def _table(path: Path) -> tuple[pl.DataFrame, dict[str, str]] | None:
    """The table with bare column names, and the type of each column."""
    if not path.is_file():
        return None
    types = {name.rsplit(":", 1)[0]: name.rsplit(":", 1)[1] for name in _header(path)}
    table = read_table(path)
    return table.rename(dict(zip(table.columns, types, strict=True))), types


def _items(path: Path) -> dict[str, ItemFacts]:
    read = _table(path)
    if read is None:
        return {}
    table, types = read
    key = table.columns[0]
    title = next((name for name in _TITLES if name in types), None)
    facts = {}
    for row in table.iter_rows(named=True):
        attributes = {
            _renamed(name): _values(value, types[name])
            for name, value in row.items()
            if name not in (key, title)
        }
        years = attributes.get("year", [])
        shown = row.get(title or "") or ""
        shown = f"{shown} ({years[0]})" if shown and years else shown
        text = describe(shown, attributes.get("genre", [])) if shown else ""
        facts[row[key]] = ItemFacts(shown, text, attributes)
    return facts


def _renamed(name: str) -> str:
    return "genre" if name in _GENRES else "year" if name in _YEARS else name


def _values(value: str | None, kind: str) -> list[str]:
    if not value:
        return []
    return value.split() if kind.endswith("_seq") else [value]


def _users(path: Path) -> dict[str, dict[str, str]]:
    read = _table(path)
    if read is None:
        return {}
    table, _ = read
    key, *names = table.columns
    ids = table.get_column(key).to_list()
    return {
        name: dict(zip(ids, table.get_column(name).fill_null("").to_list(), strict=True)) for name in names
    }
