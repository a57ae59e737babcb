"""Vectors for items nobody's statistics or gradients reached, learned from those that were: post-processing of a released
tower and the public catalogue, so it costs no budget.

Attribute-to-feature mapping (Gantner et al., "Learning Attribute-to-Feature Mappings for Cold-Start Recommendations", ICDM
2010, section III-C) with ridge regression as the map.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from recsys_models.errors import DataError
from recsys_models.item_towers.hashed_text import unit_rows
from recsys_models.item_towers.transfer import ridge_map

Float32 = NDArray[np.float32]


def fill_from_content(
    tower_ND: Float32,
    known_rows: NDArray[np.bool_],
    content_NF: NDArray[np.floating],
    ridge: float | None = None,
    *,
    row_norm: float | None = None,
) -> Float32:
    """The tower with every unknown row predicted from the item's content.

    Args:
        tower_ND: item vectors; rows outside ``known_rows`` are not read.
        known_rows: bool ``[N]``, the items whose vectors are to be learned from, and kept.
        content_NF: public vectors of all items (``recsys_models.item_towers.text.content_vectors``).
        ridge: penalty as a multiple of the mean eigenvalue of ``content^T content`` over the known rows; None chooses it by
            generalised cross-validation over the known rows.
        row_norm: give filled rows this norm. A prediction has the right direction but is shorter than what it predicts, and
            in a tower of eigenvectors the norm says how popular an item is: as predicted (None), a filled row hardly ever
            reaches the top of a ranking among known ones. The mean norm of the known rows puts it on a par.

    Returns:
        ``[N, D]`` float32, a new array. Known rows are kept bit for bit; rows of items without content (zeros), and all
        unknown rows where nothing is known, are zero. Deterministic. Exact, up to the penalty, where the known rows are
        linear in content and ``row_norm`` is None.

    Raises:
        DataError: shapes that do not fit, values that are not finite, or a negative penalty or norm.
    """
    _check(tower_ND, known_rows, content_NF, ridge, row_norm)
    filled = np.where(known_rows[:, None], tower_ND, np.float32(0.0)).astype(np.float32)
    taught = known_rows & content_NF.any(axis=1)
    if not taught.any() or known_rows.all():
        return filled
    content = content_NF[taught].astype(np.float64)
    wanted = tower_ND[taught].astype(np.float64)
    weights = ridge_map(content, wanted) if ridge is None else _ridge(content, wanted, ridge)
    rows = content_NF[~known_rows].astype(np.float64) @ weights
    filled[~known_rows] = rows if row_norm is None else unit_rows(rows) * row_norm
    return filled


def _ridge(content: NDArray[np.float64], wanted: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    gram = content.T @ content
    penalty = ridge * float(np.trace(gram)) / len(gram)
    # lstsq, not solve: without a penalty the content of few items does not span its space.
    solution, *_ = np.linalg.lstsq(gram + penalty * np.eye(len(gram)), content.T @ wanted, rcond=None)
    return np.asarray(solution, dtype=np.float64)


def _check(
    tower: Float32,
    known: NDArray[np.bool_],
    content: NDArray[np.floating],
    ridge: float | None,
    row_norm: float | None,
) -> None:
    if tower.ndim != 2 or content.ndim != 2 or len(content) != len(tower):
        raise DataError(
            f"tower {tower.shape} and content {content.shape} must be matrices with one row per item"
        )
    if known.dtype != np.bool_ or known.shape != (len(tower),):
        raise DataError(f"known_rows must be bool ({len(tower)},), got {known.dtype} {known.shape}")
    if not (np.isfinite(tower[known]).all() and np.isfinite(content).all()):
        raise DataError("known rows and content must be finite: leave broken rows out of known_rows")
    for name, value in (("ridge", ridge), ("row_norm", row_norm)):
        if value is not None and not 0.0 <= value < math.inf:
            raise DataError(f"{name} must be finite and at least 0, got {value!r}")
