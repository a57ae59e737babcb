"""The arrays a federation publishes, and what each must be: asked alike by a client, of what arrives, and by whoever reads
a run folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_models.errors import DataError
from recsys_models.item_towers.subspace import is_orthonormal
from recsys_models.retrieval.blend import CHANNELS
from recsys_models.retrieval.transitions import TRANSITION_ARRAYS

PUBLISHED_ARRAYS: dict[str, tuple[str, int]] = {
    "popularity": ("float32", 1),
    "head": ("int64", 1),
    "item_tower": ("float32", 2),
    **TRANSITION_ARRAYS,
    "basis": ("float32", 2),
    "content": ("float32", 2),
    "blend": ("float32", 1),
    "blend_recall": ("float32", 1),
}
"""Type and number of axes of each array, by its name; there are no others."""

_ROW_AN_ITEM = ("popularity", "item_tower", "basis", "content")
_LARGEST_WEIGHT = 100.0


def check_published_array(
    name: str, array: NDArray[Any], *, n_items: int, widths: Mapping[str, int] | None = None
) -> None:
    """Refuse an array that is not what its name says.

    Transitions are several arrays and mean something only together: ``TransitionReadings.from_arrays`` checks the rest.

    Args:
        name: one of ``PUBLISHED_ARRAYS``.
        array: of that name.
        n_items: size of the catalogue.
        widths: columns, by name, of the arrays that must have a certain number of them.

    Raises:
        DataError: another type or shape, a number that is not finite, head items that repeat or that are none, a recall
            outside (0, 1), or a basis that is not orthonormal. The message begins with the name.
    """
    dtype, axes = PUBLISHED_ARRAYS[name]
    if array.dtype != np.dtype(dtype) or array.ndim != axes:
        raise DataError(f"{name!r} is {array.dtype} with {array.ndim} axes; expected {dtype}, {axes}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{name!r} holds numbers that are not finite")
    if name in _ROW_AN_ITEM:
        columns = array.shape[1:] if widths is None or name not in widths else (widths[name],)
        if array.shape != (n_items, *columns):
            raise DataError(f"{name!r} has shape {array.shape}, expected {(n_items, *columns)}")
    if name == "head":
        _check_head(array, n_items)
    if name == "blend":
        _check_blend(array)
    if name == "blend_recall" and (array.shape != (1,) or not 0.0 < array[0] < 1.0):
        raise DataError(f"'blend_recall' is {array.tolist()}, expected one number between 0 and 1")
    # Every contribution is clipped whatever the basis; but one that stretches would clip some users and not others.
    if name == "basis" and not is_orthonormal(array):
        raise DataError("'basis' has columns that are not orthonormal")


def _check_blend(weights: NDArray[np.float32]) -> None:
    if weights.shape != (len(CHANNELS),):
        raise DataError(f"'blend' has shape {weights.shape}, expected {(len(CHANNELS),)}")
    if weights.min() < 0.0 or weights.max() > _LARGEST_WEIGHT:
        raise DataError(f"'blend' has weights below 0 or above {_LARGEST_WEIGHT:g}")


def _check_head(head: NDArray[np.int64], n_items: int) -> None:
    if head.size == 0 or head.min() < 0 or head.max() >= n_items:
        raise DataError(f"'head' has no items, or some outside the catalogue of {n_items} items")
    if len(np.unique(head)) != len(head):
        raise DataError("'head' has items that repeat")
