"""One door to every data set: :func:`load` detects the format of a file or folder.

=======================================  ================================================================
what lies there                          read as
=======================================  ================================================================
``*.inter`` (``*.item``, ``*.user``)     RecBole atomic files
``u.data`` (``u.item``, ``u.user``)      MovieLens-100K as published
``ratings.dat`` (``movies.dat``, ...)    MovieLens-1M as published
``*.txt`` (titles beside it)             one user a line, items in the order of time
``log.csv`` and the like                 a behaviour log, with ``catalogue.*`` beside it if any
=======================================  ================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from recsys_models.data.catalogue import Catalogue
from recsys_models.data.cleaning import ORDER_ONLY, CleaningRules, clean
from recsys_models.data.dataset import Dataset
from recsys_models.data.movielens import read_1m, read_100k
from recsys_models.data.readers import TABLE_SUFFIXES, read_catalogue, read_log, require_users
from recsys_models.data.recbole import read_recbole
from recsys_models.data.schema import ITEM, LogColumns
from recsys_models.data.sequence_files import read_sequence_file
from recsys_models.data.sequences import sequences_from_frame
from recsys_models.data.source import Source, catalogue_of
from recsys_models.errors import DataError

CATALOGUE_SUFFIXES = (".json", *TABLE_SUFFIXES)


def load(
    path: Path,
    *,
    name: str | None = None,
    rules: CleaningRules | None = None,
    columns: LogColumns | None = None,
    catalogue: Path | Catalogue | None = None,
    unknown_items: Literal["refuse", "drop"] = "refuse",
    minimum_users: int = 2,
) -> Dataset:
    """Read, clean and sort a data set.

    Args:
        path: a file or a folder; see the table above.
        name: of the data set; by default the folder's or the file's name.
        rules: what to drop; by default missing ids, exact duplicates and times before 1990, no minimum
            counts.
        columns: what a log calls its columns.
        catalogue: the binding catalogue. By default ``catalogue.*`` beside the log; else the items of the
            log itself, which is right for public benchmarks and simulations but reveals private items if it
            is ever shared.
        unknown_items: what to do with events whose item the binding catalogue lacks.
        minimum_users: refuse fewer users; 1 for a client with a single user.

    Returns:
        The data set. Items and users have indices in natural order of their ids; ties in time are in file
        order.

    Raises:
        DataError: one line with file, column, row or value and the cure.
    """
    path = Path(path)
    source = _detect(path, columns)
    name = name or source.name
    if isinstance(catalogue, Path):
        catalogue = read_catalogue(catalogue)
    catalogue = catalogue or source.catalogue
    rules = rules or (CleaningRules() if source.has_times else ORDER_ONLY)
    if catalogue is not None and unknown_items == "drop":
        rules = replace(rules, known_items=frozenset(catalogue.item_ids))
    require_users(name, source.frame, minimum_users)
    frame, report = clean(source.frame, rules)
    if frame.is_empty():
        worst = max(report.steps, key=lambda step: step.dropped)
        raise DataError(
            f"{name}: cleaning left no events; rule '{worst.name}' dropped {worst.dropped} of "
            f"{report.rows_in} ({worst.reason}): relax the rule or check the log"
        )
    require_users(f"{name} after cleaning", frame, minimum_users)
    if catalogue is None:
        catalogue = catalogue_of(frame.get_column(ITEM).unique().to_list(), source.items)
    try:
        sequences = sequences_from_frame(frame, catalogue, keep_times=source.has_times)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    attributes = {
        attribute: [values.get(user, "") for user in sequences.user_ids]
        for attribute, values in source.users.items()
        if values
    }
    return Dataset(name, sequences, catalogue, attributes or None, report)


def _detect(path: Path, columns: LogColumns | None) -> Source:
    if path.is_dir():
        return _detect_in_folder(path, columns)
    if not path.is_file():
        raise DataError(f"there is no file or folder {path}: check the path")
    if path.suffix == ".inter":
        return read_recbole(path, columns)
    if path.name in _NATIVE:
        return _NATIVE[path.name](path.parent)
    if path.suffix == ".txt":
        return read_sequence_file(path, path.stem)
    return _read_tables(path, path.stem, columns)


_NATIVE: dict[str, Callable[[Path], Source]] = {"u.data": read_100k, "ratings.dat": read_1m}


def _detect_in_folder(folder: Path, columns: LogColumns | None) -> Source:
    """The first format of the table above that fits; two candidates of one format are an error."""
    name = folder.resolve().name
    for file_name, read in _NATIVE.items():
        if (folder / file_name).is_file():
            return replace(read(folder), name=name)
    if inter := _only(folder, "*.inter"):
        return replace(read_recbole(inter, columns), name=name)
    for suffix in TABLE_SUFFIXES:
        if (folder / f"log{suffix}").is_file():
            return _read_tables(folder / f"log{suffix}", name, columns)
    if text := _only(folder, "*.txt"):
        return read_sequence_file(text, name)
    found = ", ".join(sorted(one.name for one in folder.iterdir())[:8]) or "nothing"
    raise DataError(
        f"{folder} holds no data set (found: {found}): it needs a log.csv, .parquet or .jsonl, "
        "a RecBole .inter file, MovieLens' u.data or ratings.dat, or one .txt with a user a line"
    )


def _only(folder: Path, pattern: str) -> Path | None:
    found = sorted(path for path in folder.glob(pattern) if path.stem.lower() not in ("readme", "license"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{folder} holds several {pattern} files ({names}): name the one to read")
    return found[0] if found else None


def _read_tables(log: Path, name: str, columns: LogColumns | None) -> Source:
    frame = read_log(log, columns, minimum_users=1)
    beside = [log.parent / f"catalogue{suffix}" for suffix in CATALOGUE_SUFFIXES]
    found = next((path for path in beside if path.is_file()), None)
    return Source(name, frame, catalogue=read_catalogue(found) if found else None)
