"""Reading behaviour logs and item catalogues from CSV, TSV, Parquet and JSON lines.

Nothing is repaired here: a value that cannot be read is an error that names file, row, column and cure.
What can be read but should not be used (missing ids, duplicates, impossible times) is the business of
``recsys_models.data.cleaning``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from recsys_models.data.catalogue import Catalogue
from recsys_models.data.schema import (
    ATTRIBUTES,
    EARLIEST_READABLE,
    EVENT,
    ITEM,
    LATEST_READABLE,
    ROW,
    TEXT,
    TIMESTAMP,
    TITLE,
    USER,
    VALUE,
    LogColumns,
)
from recsys_models.errors import DataError

SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t", ".user": "\t"}
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
VALUE_SEPARATOR = "|"
"""Between several values of one attribute in a CSV cell, as in ``Drama|War``."""


def read_log(path: Path, columns: LogColumns | None = None, *, minimum_users: int = 2) -> pl.DataFrame:
    """Read a behaviour log into the form of ``recsys_models.data.schema``.

    Args:
        path: a ``.csv``, ``.tsv``, ``.parquet``, ``.jsonl`` or ``.ndjson`` file, text in UTF-8.
        columns: what the file calls the columns. ``event`` and ``value`` are read if they are there.
        minimum_users: refuse a log with fewer users. A client with a single user sets it to 1.

    Returns:
        Rows in file order. Timestamps are Unix seconds; ISO 8601 text without an offset is taken as UTC.

    Raises:
        DataError: if the file is missing, empty, of unknown type or malformed; if a required column is
            missing; if a timestamp or value cannot be read; if there are too few users.
    """
    columns = columns or LogColumns()
    table = read_table(path)
    for in_file, option in columns.required():
        if in_file not in table.columns:
            found = ", ".join(table.columns)
            cure = f"rename it or pass {option}"
            raise DataError(f"{path.name} has no column '{in_file}' (found: {found}): {cure}")
    if table.is_empty():
        raise DataError(f"{path.name} has no rows of data: check that the export was complete")
    frame = table.select(
        _text(table, columns.user).alias(USER),
        _text(table, columns.item).alias(ITEM),
        _unix_seconds(path.name, table.get_column(columns.timestamp)).alias(TIMESTAMP),
    )
    if columns.event in table.columns:
        frame = frame.with_columns(_text(table, columns.event).alias(EVENT))
    if columns.value in table.columns:
        frame = frame.with_columns(_number(path.name, table.get_column(columns.value)).alias(VALUE))
    require_users(path.name, frame, minimum_users)
    return with_row_numbers(frame)


def with_row_numbers(frame: pl.DataFrame) -> pl.DataFrame:
    """Add the column ``row``: 1, 2, ... in the order of the file."""
    return frame.with_columns(pl.int_range(1, frame.height + 1, dtype=pl.Int64).alias(ROW))


def require_users(name: str, frame: pl.DataFrame, minimum_users: int) -> None:
    """Refuse a log with fewer than ``minimum_users`` users.

    Raises:
        DataError: names the file, the number of users and, if there is just one, this user.
    """
    users = frame.get_column(USER).drop_nulls().unique()
    if len(users) >= minimum_users:
        return
    who = f"one user ('{users[0]}')" if len(users) == 1 else f"{len(users)} users"
    raise DataError(
        f"{name} has {who}, at least {minimum_users} are needed: check column 'user_id', "
        "or set minimum_users for a client with fewer users"
    )


def read_catalogue(path: Path) -> Catalogue:
    """Read an item catalogue: a file written by :meth:`Catalogue.save` (``.json``) or a table.

    A table has the column ``item_id`` and may have ``title`` and ``text``. Every further column is an
    attribute; a cell holds one value, several separated by ``|``, or (Parquet, JSON lines) a list. A column
    ``attributes`` may hold an object ``{"genre": ["Drama"]}`` instead, in CSV as JSON text.

    Raises:
        DataError: if the file is missing, empty, of unknown type or malformed, or ids are missing or
            repeated.
    """
    if path.suffix == ".json":
        return Catalogue.load(path)
    table = read_table(path)
    if ITEM not in table.columns:
        raise DataError(f"{path.name} has no column '{ITEM}' (found: {', '.join(table.columns)}): rename it")
    if table.is_empty():
        raise DataError(f"{path.name} has no items: check that the export was complete")
    ids = table.select(_text(table, ITEM)).to_series().to_list()
    for row, item in enumerate(ids, start=1):
        if item is None:
            raise DataError(f"{path.name}, row {row}: no {ITEM}: give every item an id or remove the row")
    try:
        return Catalogue(ids, _texts(table, TITLE), _texts(table, TEXT), _attributes(path.name, table))
    except DataError as error:
        raise DataError(f"{path.name}: {error}") from None


def read_table(path: Path) -> pl.DataFrame:
    """Read a table by the suffix of its file. CSV and TSV cells stay text; empty cells are null.

    Raises:
        DataError: if the file is missing, empty, of unknown type or malformed.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a file: name the file in it")
    if not path.is_file():
        raise DataError(f"there is no file {path}: check the path")
    suffix = path.suffix.lower()
    if suffix not in (*TABLE_SUFFIXES, *SEPARATORS):
        known = ", ".join(TABLE_SUFFIXES)
        raise DataError(f"{path.name} has the unknown file type '{path.suffix}': use one of {known}")
    if path.stat().st_size == 0:
        raise DataError(f"{path.name} is empty: check that the export was complete")
    try:
        if suffix == ".parquet":
            return pl.read_parquet(path)
        if suffix in SEPARATORS:
            return pl.read_csv(path, separator=SEPARATORS[suffix], infer_schema=False, encoding="utf8")
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"{path.name} is not a readable {suffix[1:]} file ({reason}): export it again"
        ) from None
    return _read_json_lines(path)


def _read_json_lines(path: Path) -> pl.DataFrame:
    records: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for row, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                raise DataError(
                    f"{path.name}, line {row}: not JSON ({error}): write one object a line"
                ) from None
            if not isinstance(record, dict):
                raise DataError(
                    f"{path.name}, line {row}: {line.strip()[:40]!r} is no object: write one object a line"
                )
            records.append(record)
    names = list(dict.fromkeys(name for record in records for name in record))
    # As Python objects: JSON lines may write an id as 7 here and as "7" there.
    return pl.DataFrame(
        [pl.Series(name, [record.get(name) for record in records], dtype=pl.Object) for name in names]
    )


def _text(table: pl.DataFrame, column: str) -> pl.Series:
    """A column as stripped text, null where nothing is left. Whole floats lose their ``.0``."""
    series = table.get_column(column)
    if series.dtype == pl.Object:
        series = pl.Series(column, [_as_text(value) for value in series], dtype=pl.String)
    elif series.dtype.is_nested():
        raise DataError(f"column '{column}' holds {series.dtype}, not text or numbers: write one id a row")
    elif series.dtype.is_float():
        whole = series.cast(pl.Int64, strict=False)
        series = whole.cast(pl.String) if bool((whole == series).all()) else series.cast(pl.String)
    stripped = series.cast(pl.String).str.strip_chars().alias(column)
    return pl.select(pl.when(stripped != "").then(stripped).alias(column)).to_series()


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def _unix_seconds(file_name: str, series: pl.Series) -> pl.Series:
    """Timestamps as Unix seconds; null stays null."""
    if series.dtype in (pl.Datetime, pl.Date):
        if isinstance(series.dtype, pl.Datetime) and series.dtype.time_zone is None:
            series = series.dt.replace_time_zone("UTC")
        return series.cast(pl.Datetime("us")).dt.epoch("us").cast(pl.Float64) / 1e6
    written, seconds = _numbers(series)
    rest = seconds.is_null() & written.is_not_null()
    if rest.any():
        parsed = {text: _iso_seconds(text) for text in written.filter(rest).unique()}
        values = [parsed.get(text) if other else None for text, other in zip(written, rest, strict=True)]
        seconds = seconds.fill_null(pl.Series(values, dtype=pl.Float64))
    readable = seconds.is_between(EARLIEST_READABLE, LATEST_READABLE)
    _refuse_unreadable(
        file_name, series.name, written, readable, "Unix seconds (not milliseconds) or ISO 8601"
    )
    return seconds


def _iso_seconds(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _number(file_name: str, series: pl.Series) -> pl.Series:
    written, numbers = _numbers(series)
    _refuse_unreadable(file_name, series.name, written, numbers.is_finite(), "a finite number")
    return numbers


def _numbers(series: pl.Series) -> tuple[pl.Series, pl.Series]:
    """What was written, and as numbers. In a numeric column NaN is how some writers say: nothing here."""
    if series.dtype.is_numeric():
        numbers = series.cast(pl.Float64).fill_nan(None)
        return numbers, numbers
    written = _text(series.to_frame(), series.name)
    return written, written.cast(pl.Float64, strict=False)


def _refuse_unreadable(
    file_name: str, column: str, written: pl.Series, readable: pl.Series, wanted: str
) -> None:
    """Raise if a value is there but not readable, naming the first such row and how many there are."""
    bad = (~readable.fill_null(False) & written.is_not_null()).arg_true()
    if len(bad):
        first = int(bad[0])
        more = f" and {len(bad) - 1} more rows" if len(bad) > 1 else ""
        raise DataError(
            f"{file_name}, row {first + 1}{more}: column '{column}' has {written[first]!r}: write {wanted}, "
            "or leave it empty"
        )


def _texts(table: pl.DataFrame, column: str) -> list[str]:
    return _text(table, column).fill_null("").to_list() if column in table.columns else []


def _attributes(file_name: str, table: pl.DataFrame) -> dict[str, list[list[str]]]:
    attributes: dict[str, list[list[str]]] = {}
    for column in table.columns:
        if column not in (ITEM, TITLE, TEXT, ATTRIBUTES):
            attributes[column] = [_values(cell) for cell in table.get_column(column)]
    if ATTRIBUTES in table.columns:
        for row, cell in enumerate(table.get_column(ATTRIBUTES), start=1):
            for name, value in _object(file_name, row, cell).items():
                attributes.setdefault(name, [[] for _ in range(table.height)])[row - 1] = _values(value)
    return attributes


def _object(file_name: str, row: int, cell: Any) -> Mapping[str, Any]:
    if cell is None or cell == "":
        return {}
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except json.JSONDecodeError:
            cell = None
    if not isinstance(cell, dict):
        raise DataError(
            f"{file_name}, row {row}: column '{ATTRIBUTES}' is not a JSON object: "
            'write {"genre": ["Drama"]}'
        )
    return cell


def _values(cell: Any) -> list[str]:
    """The values in one attribute cell."""
    if cell is None:
        return []
    if isinstance(cell, str):
        cell = cell.split(VALUE_SEPARATOR)
    elif isinstance(cell, pl.Series):
        cell = cell.to_list()
    elif not isinstance(cell, list):
        cell = [cell]
    texts = (_as_text(value) for value in cell)
    return [text.strip() for text in texts if text and text.strip()]
