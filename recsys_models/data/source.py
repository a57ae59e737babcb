"""What an adapter found in a file or folder, before cleaning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from recsys_models.data.catalogue import Catalogue


@dataclass(frozen=True)
class ItemFacts:
    """What a source says about one item; see :class:`recsys_models.data.catalogue.Catalogue`."""

    title: str = ""
    text: str = ""
    attributes: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A log and what comes with it.

    Attributes:
        name: of the data set.
        frame: the log in the form of ``recsys_models.data.schema``.
        items: item id -> facts, for formats whose catalogue is the set of items that occur in the log.
        catalogue: the catalogue, for formats that come with a binding one; items outside it are an error.
        users: attribute -> user id -> value.
        has_times: False if the timestamps are mere positions.
    """

    name: str
    frame: pl.DataFrame
    items: Mapping[str, ItemFacts] = field(default_factory=dict)
    catalogue: Catalogue | None = None
    users: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    has_times: bool = True


def catalogue_of(item_ids: Iterable[str], facts: Mapping[str, ItemFacts]) -> Catalogue:
    """The catalogue of exactly these items, with the facts that are known about them."""
    ids = list(item_ids)
    known = [facts.get(item, ItemFacts()) for item in ids]
    names = sorted({name for one in known for name in one.attributes})
    return Catalogue(
        ids,
        [one.title or item for item, one in zip(ids, known, strict=True)],
        [one.text for one in known],
        {name: [list(one.attributes.get(name, [])) for one in known] for name in names},
    )


def describe(title: str, genres: list[str], *more: str) -> str:
    """The text of an item for a content tower: title, genres and whatever else is known, as sentences."""
    sentences = [title, f"Genres: {', '.join(genres)}" if genres else "", *more]
    return ". ".join(sentence.strip().rstrip(".") for sentence in sentences if sentence.strip()) + "."
