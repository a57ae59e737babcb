"""One user a line: the user's id, then items in the order of time, separated by spaces.

The usual form of the sequential benchmarks (SASRec and its descendants). It has no times, only an order.
Beside it may lie ``movies.dat`` (MovieLens-1M), a table ``item <tab> ASIN <tab> title``, or a JSON object
``{item: [attribute, ...]}``.
"""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from recsys_models.data.movielens import films_1m, split_lines, users_1m
from recsys_models.data.readers import with_row_numbers
from recsys_models.data.schema import ITEM, TIMESTAMP, USER
from recsys_models.data.source import ItemFacts, Source
from recsys_models.errors import DataError


def read_sequence_file(path: Path, name: str) -> Source:
    """Read ``path`` and whatever is known about its items and users from the folder it lies in.

    Raises:
        DataError: if the file is missing or empty, a user has no items or two lines.
    """
    users: list[str] = []
    items: list[list[str]] = []
    seen: set[str] = set()
    for row, line in enumerate(split_lines(path, "\n", 1, encoding="utf-8"), start=1):
        user, *sequence = line[0].split()
        if not sequence:
            raise DataError(
                f"{path.name}, row {row}: user '{user}' has no items: write 'user item ...' or drop the line"
            )
        if user in seen:
            raise DataError(f"{path.name}, row {row}: user '{user}' has a second line: join the two")
        seen.add(user)
        users.append(user)
        items.append(sequence)
    if not users:
        raise DataError(f"{path.name} has no rows of data: check that the download was complete")
    positions = [list(range(len(sequence))) for sequence in items]
    lists = pl.DataFrame({USER: users, ITEM: items, TIMESTAMP: positions})
    frame = lists.explode(ITEM, TIMESTAMP).with_columns(pl.col(TIMESTAMP).cast(pl.Float64))
    folder = path.parent
    facts = films_1m(folder) if (folder / "movies.dat").is_file() else _products(folder)
    return Source(name, with_row_numbers(frame), facts, users=users_1m(folder), has_times=False)


def _products(folder: Path) -> dict[str, ItemFacts]:
    """Titles from a three-column ``*title*.tsv`` and attribute ids from a ``*item2attributes.json``."""
    titles: dict[str, tuple[str, str]] = {}
    for path in sorted(folder.glob("*title*.tsv")):
        for item, asin, title in split_lines(path, "\t", 3, encoding="utf-8"):
            titles[item] = (asin, title.strip())
    attributes: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*item2attributes.json")):
        attributes.update(_attribute_ids(path))
    facts = {}
    for item in titles.keys() | attributes.keys():
        asin, title = titles.get(item, ("", ""))
        known = {"asin": [asin] if asin else [], "category": attributes.get(item, [])}
        facts[item] = ItemFacts(title, title, known)
    return facts


def _attribute_ids(path: Path) -> dict[str, list[str]]:
    try:
        content = json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path.name} is not JSON ({error}): download it again") from None
    if not isinstance(content, dict) or not all(isinstance(values, list) for values in content.values()):
        raise DataError(f'{path.name} is not an object of lists: write {{"item": [1, 2]}}')
    return {item: [str(value) for value in values] for item, values in content.items()}
