"""The item catalogue: which items exist, at which index, and what is publicly known about them.

Every party of a federation must mean the same item by the same index, so the order of the items is a function
of their ids alone and the content has one canonical serialisation with one SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_models.errors import DataError

_FORMAT = "fedtower-catalogue"
_VERSION = 1
_DECIMAL = re.compile(r"[0-9]+", re.ASCII)


def natural_order(ids: Sequence[str]) -> list[int]:
    """Positions of ``ids`` in the order this project gives to items and users.

    If every id is a decimal number the order is numeric (``2`` before ``10``; ids that name the same
    number, as ``7`` and ``07``, in text order); otherwise it is by Unicode code point. The order therefore
    depends on the set of ids only, never on a locale or on the order of the input.
    """
    if all(_DECIMAL.fullmatch(one) for one in ids):
        return sorted(range(len(ids)), key=lambda position: (int(ids[position]), ids[position]))
    return sorted(range(len(ids)), key=ids.__getitem__)


@dataclass(frozen=True)
class Catalogue:
    """The items of one deployment, sorted by :func:`natural_order` of their ids.

    The constructor accepts the items in any order and sorts all fields together; ``titles``, ``texts`` and
    ``attributes`` may be left out.

    Attributes:
        item_ids: the ids as the logs write them, unique, non-empty.
        titles: one per item; the item id where no title is known.
        texts: one per item, the text a content tower reads; may be empty.
        attributes: name -> per item a list of values (``{"genre": [["Drama", "War"], ...]}``); an empty list
            means that the attribute is not known for that item.

    Raises:
        DataError: if an id is empty or repeated, or a field has another length than ``item_ids``.
    """

    item_ids: list[str]
    titles: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    attributes: dict[str, list[list[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = list(self.item_ids)
        _check_ids(ids)
        order = natural_order(ids)

        def sort(name: str, values: Sequence[Any], default: Sequence[Any]) -> list[Any]:
            values = values or default
            if len(values) != len(ids):
                raise DataError(
                    f"catalogue: {name} has {len(values)} entries for {len(ids)} items: give one per item"
                )
            return [values[position] for position in order]

        titles = sort("titles", self.titles, ids)
        sorted_ids = [ids[position] for position in order]
        object.__setattr__(self, "item_ids", sorted_ids)
        object.__setattr__(
            self, "titles", [title or item for title, item in zip(titles, sorted_ids, strict=True)]
        )
        object.__setattr__(self, "texts", sort("texts", self.texts, [""] * len(ids)))
        attributes = {
            name: [list(values) for values in sort(f"attribute '{name}'", column, [[]] * len(ids))]
            for name, column in sorted(self.attributes.items())
        }
        object.__setattr__(self, "attributes", attributes)

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def n_items(self) -> int:
        """How many items there are; indices run from 0 to ``n_items - 1``."""
        return len(self.item_ids)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {item: index for index, item in enumerate(self.item_ids)}

    def index_of(self, item_id: str) -> int:
        """Index of one item.

        Raises:
            DataError: if the catalogue does not have the item.
        """
        index = self._index.get(item_id)
        if index is None:
            raise DataError(
                f"item '{item_id}' is not in the catalogue ({self.n_items} items): add it or drop its events"
            )
        return index

    def indices_of(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Indices of several items, in the given order.

        Raises:
            DataError: if items are unknown; names the first one and counts the events and the distinct items.
        """
        unknown = Counter(item for item in item_ids if item not in self._index)
        if unknown:
            raise DataError(unknown_items_message(unknown, self.n_items))
        return np.fromiter((self._index[item] for item in item_ids), dtype=np.int64, count=len(item_ids))

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._index

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 of :meth:`canonical_bytes`: equal catalogues, and only these, have equal hashes."""
        return hashlib.sha256(self.canonical_bytes()).hexdigest()

    def canonical_bytes(self) -> bytes:
        """The one serialisation: UTF-8 JSON, keys sorted, no spaces, nothing escaped, one final newline."""
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "item_ids": self.item_ids,
            "titles": self.titles,
            "texts": self.texts,
            "attributes": self.attributes,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return (text + "\n").encode()

    def save(self, path: Path) -> None:
        """Write :meth:`canonical_bytes` beside ``path``, then rename, so that no reader sees half a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.canonical_bytes())
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise

    @classmethod
    def load(cls, path: Path, *, expected_sha256: str | None = None) -> Catalogue:
        """Read what :meth:`save` wrote.

        Args:
            path: the JSON file.
            expected_sha256: refuse another content than the one with this hash.

        Raises:
            DataError: if the file is missing, is no catalogue, or has another hash.
        """
        content = _read_object(path)
        if content.get("format") != _FORMAT or content.get("version") != _VERSION:
            raise DataError(
                f"{path.name} is no {_FORMAT} file of version {_VERSION} (format {content.get('format')!r}, "
                f"version {content.get('version')!r}): write it with Catalogue.save"
            )
        _check_types(path, content)
        catalogue = cls(content["item_ids"], content["titles"], content["texts"], content["attributes"])
        if expected_sha256 is not None and catalogue.sha256 != expected_sha256:
            raise DataError(
                f"{path.name} has SHA-256 {catalogue.sha256}, not {expected_sha256}: "
                "fetch the catalogue this deployment uses"
            )
        return catalogue

    def restricted_to(self, item_ids: Sequence[str]) -> Catalogue:
        """The catalogue of these items alone, with what is known about them."""
        indices = [self.index_of(item) for item in item_ids]
        return Catalogue(
            [self.item_ids[i] for i in indices],
            [self.titles[i] for i in indices],
            [self.texts[i] for i in indices],
            {name: [column[i] for i in indices] for name, column in self.attributes.items()},
        )


def unknown_items_message(unknown: Mapping[str, int], n_items: int) -> str:
    """One line for events whose item the catalogue lacks. ``unknown``: item id -> number of its events."""
    first = next(iter(unknown))
    return (
        f"item '{first}' is not in the catalogue of {n_items} items ({sum(unknown.values())} events, "
        f"{len(unknown)} unknown items): add them to the catalogue or drop their events"
    )


def _check_ids(ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for row, item in enumerate(ids, start=1):
        if not item:
            raise DataError(f"catalogue: item {row} of {len(ids)} has no id: give every item a non-empty id")
        if item in seen:
            raise DataError(
                f"catalogue: item '{item}' appears twice (second time as item {row}): keep one of them"
            )
        seen.add(item)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"there is no file {path}: check the path") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path.name} is not JSON ({error}): write it with Catalogue.save") from None
    if not isinstance(content, dict):
        raise DataError(
            f"{path.name} holds a JSON {type(content).__name__}, not an object: write it with Catalogue.save"
        )
    return content


def _check_types(path: Path, content: Mapping[str, Any]) -> None:
    for name in ("item_ids", "titles", "texts"):
        if not _is_strings(content.get(name)):
            raise DataError(f"{path.name}: '{name}' is not a list of strings: write it with Catalogue.save")
    attributes = content.get("attributes")
    if not isinstance(attributes, dict):
        raise DataError(f"{path.name}: 'attributes' is not an object: write it with Catalogue.save")
    for name, column in attributes.items():
        if not isinstance(column, list) or not all(_is_strings(values) for values in column):
            raise DataError(
                f"{path.name}: attribute '{name}' is no list of string lists: write it with Catalogue.save"
            )


def _is_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
