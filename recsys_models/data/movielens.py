"""MovieLens in the publisher's own files, and the film facts that go with sequence files.

100K: ``u.data`` (tab), ``u.item`` and ``u.user`` (``|``, ISO-8859-1), format in its README. 1M:
``ratings.dat``, ``movies.dat``, ``users.dat`` (``::``, ISO-8859-1). ``movies_extrainfos.dat`` (``::``) adds
director, cast and plot. Harper and Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4),
2015.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from recsys_models.data.readers import with_row_numbers
from recsys_models.data.schema import ITEM, TIMESTAMP, USER, VALUE
from recsys_models.data.source import ItemFacts, Source, describe
from recsys_models.errors import DataError

# fmt: off
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)
# fmt: on
"""The flag columns 6 to 24 of ``u.item``, in their order."""

_YEAR = re.compile(r"\((\d{4})\)\s*$")


def read_100k(folder: Path) -> Source:
    """The folder of ``ml-100k.zip``: ``u.data``, with ``u.item`` and ``u.user`` if present."""
    rows = list(split_lines(folder / "u.data", "\t", 4))
    items = {}
    for fields in _optional(folder / "u.item", "|", 5 + len(GENRES_100K)):
        genres = [genre for genre, flag in zip(GENRES_100K, fields[5:], strict=True) if flag == "1"]
        items[fields[0]] = film(fields[1], genres)
    users: dict[str, dict[str, str]] = {name: {} for name in ("age", "gender", "occupation", "zip_code")}
    for user, *values in _optional(folder / "u.user", "|", 5):
        for name, value in zip(users, values, strict=True):
            users[name][user] = value
    return Source("ml-100k", _ratings("u.data", rows), items, users=users)


def read_1m(folder: Path) -> Source:
    """The folder of ``ml-1m.zip``: ``ratings.dat``, with ``movies.dat`` and ``users.dat`` if present."""
    rows = list(split_lines(folder / "ratings.dat", "::", 4))
    return Source("ml-1m", _ratings("ratings.dat", rows), films_1m(folder), users=users_1m(folder))


def films_1m(folder: Path) -> dict[str, ItemFacts]:
    """Title, year and genres; from ``movies_extrainfos.dat`` also director, cast and plot, in the text."""
    extra: dict[str, list[str]] = {}
    for fields in _optional(folder / "movies_extrainfos.dat", "::", None, encoding="utf-8"):
        if len(fields) >= 10:
            director, cast, plot = fields[6], fields[8], "::".join(fields[9:])
            told = [("Director", director), ("Cast", cast), ("Plot", plot)]
            extra[fields[0]] = [f"{what}: {value}" for what, value in told if value not in ("", "N/A")]
    films = {}
    for item, title, genres in _optional(folder / "movies.dat", "::", 3):
        films[item] = film(title, [genre for genre in genres.split("|") if genre], *extra.get(item, []))
    return films


def users_1m(folder: Path) -> dict[str, dict[str, str]]:
    """Gender, age group, occupation code and zip code from ``users.dat``."""
    users: dict[str, dict[str, str]] = {name: {} for name in ("gender", "age", "occupation", "zip_code")}
    for user, *values in _optional(folder / "users.dat", "::", 5):
        for name, value in zip(users, values, strict=True):
            users[name][user] = value
    return users


def film(title: str, genres: list[str], *more: str) -> ItemFacts:
    """Facts of a film titled ``"Toy Story (1995)"``."""
    year = _YEAR.search(title)
    return ItemFacts(
        title, describe(title, genres, *more), {"genre": genres, "year": [year.group(1)] if year else []}
    )


def split_lines(
    path: Path, separator: str, columns: int | None, *, encoding: str = "iso-8859-1"
) -> Iterator[list[str]]:
    """The fields of every line that is not blank.

    Raises:
        DataError: if the file is missing, cannot be decoded, or a line has another number of fields than
            ``columns``.
    """
    try:
        text = path.read_text(encoding=encoding)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}: check the folder") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path.name} is not {encoding} text ({error.reason} at byte {error.start})"
        ) from None
    for row, line in enumerate(text.split("\n"), start=1):
        fields = line.rstrip("\r").split(separator)
        if not line.strip():
            continue
        if columns is not None and len(fields) != columns:
            raise DataError(
                f"{path.name}, row {row}: {len(fields)} fields between {separator!r}, expected {columns}: "
                "the file is damaged or of another kind"
            )
        yield fields


def _optional(
    path: Path, separator: str, columns: int | None, *, encoding: str = "iso-8859-1"
) -> Iterator[list[str]]:
    if path.is_file():
        yield from split_lines(path, separator, columns, encoding=encoding)


def _ratings(file_name: str, rows: list[list[str]]) -> pl.DataFrame:
    if not rows:
        raise DataError(f"{file_name} has no rows of data: check that the download was complete")
    text = pl.DataFrame(rows, schema=[USER, ITEM, VALUE, TIMESTAMP], orient="row")
    frame = text.select(
        USER, ITEM, pl.col(TIMESTAMP, VALUE).cast(pl.Float64, strict=False).name.keep()
    ).select(USER, ITEM, TIMESTAMP, VALUE)
    for column in (TIMESTAMP, VALUE):
        bad = frame.get_column(column).is_null().arg_true()
        if len(bad):
            value = text.get_column(column)[int(bad[0])]
            raise DataError(
                f"{file_name}, row {bad[0] + 1}: {column} {value!r} is not a number: download the file again"
            )
    return with_row_numbers(frame)
