"""What is publicly known about items, as vectors: their texts and their attributes.

Every function here reads the catalogue alone, which all parties share, so its results cost no privacy budget and need not
be sent: whoever has the catalogue has them. Two parties get the same vectors only with the same ``method``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recsys_models.data.catalogue import Catalogue
from recsys_models.errors import DataError
from recsys_models.item_towers.hashed_text import hashed_vectors, truncated_svd, unit_rows
from recsys_models.item_towers.pretrained_text import wordllama_is_installed, wordllama_vectors
from recsys_models.item_towers.vector_cache import read_vectors, write_vectors

Vectors = NDArray[np.float32]
TextMethod = Literal["auto", "hashed", "wordllama"]
TEXT_METHODS = ("auto", "hashed", "wordllama")

ATTRIBUTE_SHARE = 0.15
"""Of a likeness in content; the rest is the text's, which says more (measured on titles of Amazon Beauty and ML-100K)."""

_VERSION = 2
"""Of the vectors' definition; part of the cache's file names."""

_REMEMBERED = 4
_computed: dict[str, Vectors] = {}
"""Content vectors of the newest catalogues this process met: a simulation asks for the same ones in every run."""


def documents_of(catalogue: Catalogue) -> list[str]:
    """One text per item: title, attribute values that other items have too, and text, each said once."""
    values = _shared_values(catalogue)
    documents: list[str] = []
    for item, item_id in enumerate(catalogue.item_ids):
        title, text = catalogue.titles[item], catalogue.texts[item]
        parts = [title] if title != item_id and title not in text else []
        # A bare number is a code, which means nothing as a word; attribute_vectors has it.
        parts += [value for _, value in values[item] if value not in text and not value.isdecimal()]
        documents.append(". ".join([*parts, text] if text else parts))
    return documents


def text_vectors(
    catalogue: Catalogue, *, method: TextMethod = "auto", dim: int, cache: Path | None = None
) -> Vectors:
    """One vector per item from its title, attributes and text.

    Args:
        catalogue: the public items.
        method: ``"hashed"`` (n-grams, needs nothing), ``"wordllama"`` (pretrained, the extra ``fedtower[text]``), or
            ``"auto"``: pretrained where installed.
        dim: width.
        cache: a folder to keep the result in, by hash of the catalogue; None computes it anew.

    Returns:
        float32 ``[N, dim]``, rows of norm 1, zero for items without usable text; the same bytes for the same catalogue on
        the same machine.

    Raises:
        DataError: an unknown method, one that is not installed, or ``dim`` below 1.
    """
    method = _resolved(method, dim)
    path = None if cache is None else cache / _file_name(catalogue, method, dim)
    found = None if path is None else read_vectors(path, (catalogue.n_items, dim))
    if found is not None:
        return found
    compute = wordllama_vectors if method == "wordllama" else hashed_vectors
    vectors = compute(documents_of(catalogue), dim)
    if path is not None:
        write_vectors(path, vectors)
    return vectors


def attribute_vectors(catalogue: Catalogue) -> Vectors:
    """Multi-hot of all attribute values that at least two items have, weighted by idf.

    Returns:
        float32 ``[N, F]``, rows of norm 1, zero for items without such values. Columns are sorted by attribute and value.
    """
    values = _shared_values(catalogue)
    frequency = Counter(value for own in values for value in own)
    columns = {value: column for column, value in enumerate(sorted(frequency))}
    matrix = np.zeros((catalogue.n_items, len(columns)))
    for item, own in enumerate(values):
        for value in own:
            matrix[item, columns[value]] = np.log(catalogue.n_items / frequency[value])
    return unit_rows(matrix).astype(np.float32)


def content_vectors(
    catalogue: Catalogue, dim: int, *, method: TextMethod = "hashed", cache: Path | None = None
) -> Vectors:
    """Text and attributes of every item side by side: what the content channel and cold items are scored with.

    The dot product of two items is 0.85 times the likeness of their texts plus 0.15 times that of their attributes; an item
    with only one of the two is described by that one. An eighth of ``dim`` at most goes to the attributes (their main
    directions), the rest to the text.

    Args:
        catalogue: the public items.
        dim: width.
        method: see :func:`text_vectors`; by default the one that every party has, whatever is installed.
        cache: see :func:`text_vectors`.

    Returns:
        float32 ``[N, dim]``, rows of norm 1; zero for items of which nothing is known. Computed once for each catalogue in
        a process; an array of the caller's own.

    Raises:
        DataError: see :func:`text_vectors`.
    """
    if cache is not None:
        return _content_vectors(catalogue, dim, method, cache)
    key = f"{catalogue.sha256} {_resolved(method, dim)} {dim}"
    vectors = _computed.get(key)
    if vectors is None:
        vectors = _content_vectors(catalogue, dim, method)
        _computed[key] = vectors
        for oldest in list(_computed)[:-_REMEMBERED]:
            _computed.pop(oldest, None)
    return vectors.copy()


def _content_vectors(
    catalogue: Catalogue, dim: int, method: TextMethod, cache: Path | None = None
) -> Vectors:
    attributes = attribute_vectors(catalogue)
    width = min(dim // 8, attributes.shape[1])
    text = text_vectors(catalogue, method=method, dim=dim - width, cache=cache)
    if width < attributes.shape[1]:
        import torch

        left, strength = truncated_svd(torch.from_numpy(attributes.astype(np.float64)), width)
        attributes = unit_rows(left * strength)
    weighted = [np.sqrt(1.0 - ATTRIBUTE_SHARE) * text, np.sqrt(ATTRIBUTE_SHARE) * attributes]
    return unit_rows(np.concatenate(weighted, axis=1)).astype(np.float32)


def _shared_values(catalogue: Catalogue) -> list[list[tuple[str, str]]]:
    """Per item its (attribute, value) pairs that at least two items have: an item's own number is no attribute."""
    own = [
        sorted({(name, value) for name, column in catalogue.attributes.items() for value in column[item]})
        for item in range(catalogue.n_items)
    ]
    frequency = Counter(pair for pairs in own for pair in pairs)
    return [[pair for pair in pairs if frequency[pair] >= 2] for pairs in own]


def _resolved(method: TextMethod, dim: int) -> Literal["hashed", "wordllama"]:
    if method not in TEXT_METHODS:
        raise DataError(f"unknown text method {method!r}; choose one of {', '.join(TEXT_METHODS)}")
    if dim < 1:
        raise DataError(f"dim={dim}: text vectors need at least one column")
    if method == "auto":
        return "wordllama" if wordllama_is_installed() else "hashed"
    return method


def _file_name(catalogue: Catalogue, method: str, dim: int) -> str:
    key = hashlib.sha256(f"{catalogue.sha256} {method} {dim} {_VERSION}".encode()).hexdigest()
    return f"text-{key[:32]}.safetensors"
