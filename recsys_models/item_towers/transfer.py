"""Item vectors from an earlier tower: carried over by item id, or linked through what is publicly known of the items.

Everything here reads published towers and public catalogues, so it is post-processing and costs no budget of its own; what
the earlier tower cost stays spent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys_models.data.catalogue import Catalogue
from recsys_models.errors import DataError
from recsys_models.item_towers.text import TextMethod, content_vectors
from recsys_models.release_shapes import content_width

Float32 = NDArray[np.float32]

_PENALTIES = tuple(10.0**power for power in range(-4, 5))


def ridge_map(known: NDArray[np.floating], wanted: NDArray[np.floating]) -> NDArray[np.float64]:
    """Linear map from one description of items to another, its penalty chosen by generalised cross-validation.

    Golub, Heath and Wahba 1979, "Generalized Cross-Validation as a Method for Choosing a Good Ridge Parameter", eq. 1.2,
    summed over the columns of ``wanted``; no intercept, so that an item of which nothing is known maps to zero.

    Args:
        known: ``[N, p]``.
        wanted: ``[N, d]``.

    Returns:
        ``[p, d]`` weights; zeros if one of the two is zero everywhere.

    Raises:
        DataError: different numbers of items.
    """
    if len(known) != len(wanted):
        raise DataError(f"{len(known)} items are described and {len(wanted)} are wanted: give the same items")
    x, y = known.astype(np.float64), wanted.astype(np.float64)
    strength, directions = np.linalg.eigh(x.T @ x)
    strength = np.maximum(strength, 0.0)
    if not strength.any() or not y.any():
        return np.zeros((x.shape[1], y.shape[1]))
    turned = directions.T @ (x.T @ y)
    energy = np.sum(turned**2, axis=1)
    mean_strength = strength.mean()

    def score(penalty: float) -> float:
        shrunk = 1.0 / (strength + penalty)
        residual = np.sum(y**2) - np.sum(energy * (2.0 * shrunk - strength * shrunk**2))
        freedom = len(x) - np.sum(strength * shrunk)
        return float(max(residual, 0.0) / max(freedom, 1e-9) ** 2)

    best = min((penalty * mean_strength for penalty in _PENALTIES), key=score)
    return directions @ (turned / (strength + best)[:, None])


def rows_by_id(
    source_ids: Sequence[str], rows: Float32, target_ids: Sequence[str]
) -> tuple[Float32, NDArray[np.bool_]]:
    """Rows of the target's items that the source has too, bit for bit; zeros elsewhere.

    Returns:
        ``[len(target_ids), d]`` rows, and which items were found.

    Raises:
        DataError: another number of rows than of source items.
    """
    if len(source_ids) != len(rows):
        raise DataError(f"{len(rows)} rows for {len(source_ids)} items: give one row per item")
    place = {item: index for index, item in enumerate(source_ids)}
    at = np.fromiter((place.get(item, -1) for item in target_ids), dtype=np.int64, count=len(target_ids))
    carried = np.zeros((len(target_ids), rows.shape[1]), dtype=np.float32)
    carried[at >= 0] = rows[at[at >= 0]]
    return carried, at >= 0


def rows_from_content(
    source: Catalogue, rows: Float32, target: Catalogue, *, method: TextMethod = "hashed"
) -> Float32:
    """Vectors of the target's items from their content, by the map that content has to the source's tower.

    Items are matched by nothing: this is how a tower moves to another domain, whose item ids mean other things. Source items
    without a vector (zeros) teach nothing, and target items of which nothing is known keep none.

    Args:
        source: the earlier tower's items.
        rows: ``[source.n_items, d]`` its vectors.
        target: the new items.
        method: of the texts' vectors; pretrained ones know words that the two catalogues do not share.

    Returns:
        ``[target.n_items, d]``.

    Raises:
        DataError: pretrained vectors are asked for and not installed.
    """
    both = _side_by_side(source, target)
    together = content_vectors(both, content_width(both.n_items), method=method)
    # Decimal ids sort by number, prefixed ones as text: places are looked up, not assumed.
    known = together[both.indices_of([_SOURCE + item for item in source.item_ids])]
    new = together[both.indices_of([_TARGET + item for item in target.item_ids])]
    taught = rows.any(axis=1) & known.any(axis=1)
    return (new.astype(np.float64) @ ridge_map(known[taught], rows[taught])).astype(np.float32)


_SOURCE, _TARGET = "source/", "target/"


def _side_by_side(source: Catalogue, target: Catalogue) -> Catalogue:
    """Both catalogues as one, so that words and attribute values weigh the same in both."""
    names = sorted(set(source.attributes) | set(target.attributes))

    def column(catalogue: Catalogue, name: str) -> list[list[str]]:
        return catalogue.attributes.get(name) or [[] for _ in catalogue.item_ids]

    def titles(catalogue: Catalogue) -> list[str]:
        # An item without a title has its id for one, which is no word.
        pairs = zip(catalogue.titles, catalogue.item_ids, strict=True)
        return ["" if title == item else title for title, item in pairs]

    return Catalogue(
        [_SOURCE + i for i in source.item_ids] + [_TARGET + i for i in target.item_ids],
        titles(source) + titles(target),
        source.texts + target.texts,
        {name: column(source, name) + column(target, name) for name in names},
    )
