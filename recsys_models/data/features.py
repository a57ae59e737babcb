"""Numbers from values and categories: z-score, min-max, sorted vocabularies, multi-hot item attributes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recsys_models.data.catalogue import Catalogue
from recsys_models.errors import DataError

UNKNOWN = -1
"""The code of a value that the vocabulary does not have."""


def value_normalisation(
    values: NDArray[np.float64], method: Literal["z-score", "min-max"]
) -> tuple[float, float]:
    """(shift, scale) such that ``(values - shift) / scale`` is normalised.

    ==========================  ==================  ======================
    case                        z-score             min-max
    ==========================  ==================  ======================
    ordinary                    mean 0, sd 1        smallest 0, largest 1
    all values equal, or none   scale 1 (zeros)     scale 1 (zeros)
    ==========================  ==================  ======================

    The standard deviation is the population's (divided by n).

    Raises:
        DataError: if the method is unknown or a value is not finite.
    """
    if method not in ("z-score", "min-max"):
        raise DataError(f"unknown normalisation '{method}': use 'z-score' or 'min-max'")
    if not np.isfinite(values).all():
        raise DataError(
            f"{np.count_nonzero(~np.isfinite(values))} values are not finite: drop them before normalising"
        )
    if not len(values):
        return 0.0, 1.0
    if method == "z-score":
        shift, scale = float(values.mean()), float(values.std())
    else:
        shift, scale = float(values.min()), float(np.ptp(values))
    return shift, scale if scale > 0 else 1.0


@dataclass(frozen=True)
class Vocabulary:
    """Categories in sorted order (Unicode code points); the code of a value is its position.

    The codes depend on the set of values alone. A vocabulary of *private* values reveals them when it is
    shared: in a federation build it from the public catalogue.
    """

    values: tuple[str, ...]

    @classmethod
    def of(cls, values: Iterable[str]) -> Vocabulary:
        """The vocabulary of all distinct ``values``."""
        return cls(tuple(sorted(set(values))))

    @cached_property
    def _codes(self) -> dict[str, int]:
        return {value: code for code, value in enumerate(self.values)}

    def code(self, value: str) -> int:
        """Position of ``value``, -1 if it is unknown."""
        return self._codes.get(value, UNKNOWN)


def multi_hot(catalogue: Catalogue, attribute: str) -> tuple[NDArray[np.float32], Vocabulary]:
    """One attribute of all items as a 0/1 matrix, float32 [n_items, n_values], with the meaning of its
    columns.

    Raises:
        DataError: if the catalogue does not have the attribute.
    """
    if attribute not in catalogue.attributes:
        known = ", ".join(catalogue.attributes) or "none"
        raise DataError(f"the catalogue has no attribute '{attribute}' (it has: {known}): use one of these")
    column = catalogue.attributes[attribute]
    vocabulary = Vocabulary.of(value for values in column for value in values)
    matrix = np.zeros((catalogue.n_items, len(vocabulary.values)), dtype=np.float32)
    for item, values in enumerate(column):
        for value in values:
            matrix[item, vocabulary.code(value)] = 1.0
    return matrix, vocabulary
