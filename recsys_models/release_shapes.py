"""How long the vector of each release is and how much one user may add to it.

Server and client compute these numbers from the same public settings, so that neither has to believe the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from recsys_models.errors import DataError
from recsys_models.metrics.detail import DetailLayout
from recsys_models.metrics.sums import METRIC_UNIT, metric_names
from recsys_models.retrieval.presets import comparison_length, comparison_norm
from recsys_models.statistics import StatisticsLayout

RANKERS = ("model", "popularity")
"""Whose ranks a metric release holds: the client's recommender, and popularity on the same users and targets."""

TrainedTower = Literal["ids", "content", "fusion"]
"""What gradient rounds train: rows of items, a linear map of their public content, or both, added up."""

_NOISY_METRIC_UNIT = 2.0**-10
# Off means off: the norm of nobody's counts; a user would need more than a thousand events of one and the same pair.
_UNREACHED_NORM = 2.0**12


CONTENT_DIM = 256
"""Most columns of the content vectors that a map between content and item vectors is fitted on. Fewer for few items: beyond a
sixteenth of their number the main directions describe single items, not kinds of them, and the map learns those by heart."""


@dataclass(frozen=True)
class ReleaseShape:
    """Public numbers of one release.

    Attributes:
        length: cells.
        l2_clip_norm: largest Euclidean norm of one user's row.
        unit: grid step, where the numbers' meaning asks for one; None leaves it to the noise.
        facts: about the release, for the reader of a ledger.
    """

    length: int
    l2_clip_norm: float
    unit: float | None = None
    facts: Mapping[str, str | float] = field(default_factory=dict[str, str | float])


def release_shape(
    kind: str, *, n_items: int, head: int, settings: Mapping[str, Any], private: bool
) -> ReleaseShape:
    """The shape of a release.

    Args:
        kind: "popularity", "statistics", "statistics-subspace", "comparison", "gradients", "fit", "metrics"
            or "metrics-detail".
        n_items: size of the catalogue.
        head: number of head items, once they are known.
        settings: the plan's settings.
        private: whether noise is added; metrics lie on a finer grid without it.

    Raises:
        DataError: the kind is unknown.
    """
    if kind == "popularity":
        return ReleaseShape(n_items, 1.0)
    if kind == "statistics":
        return ReleaseShape(
            statistics_layout(head, settings, private).length, 1.0 if private else _UNREACHED_NORM
        )
    if kind == "statistics-subspace":
        return ReleaseShape(n_items * settings["subspace_rank"], 1.0)
    if kind == "gradients":
        return gradients_shape(head, settings["dim"], settings["gradients"])
    if kind == "fit":
        return ReleaseShape(1, settings["fit"]["l2_clip_norm"])
    if kind == "comparison":
        return comparison_shape(private)
    if kind == "metrics":
        return metrics_shape(private)
    if kind == "metrics-detail":
        detail = detail_layout(n_items, settings, private)
        return ReleaseShape(detail.length, detail.l2_bound, detail.unit)
    raise DataError(
        f"release kind {kind!r} is unknown; use popularity, statistics, statistics-subspace, "
        "comparison, gradients, fit, metrics or metrics-detail"
    )


def gradients_shape(head: int, dim: int, gradients: Mapping[str, Any]) -> ReleaseShape:
    """Cells of the map of content, if there is one, and of the trained rows.

    With an adaptive clip norm they are in units of that norm, and there is one cell more for the count.

    Args:
        head: number of head items.
        dim: of the item vectors.
        gradients: the plan's settings of that name.
    """
    tower, width = gradients["item_tower"], gradients["content_width"]
    cells = (width + trained_rows(tower, head)) * dim
    trained = {} if tower == "ids" else {"item_tower": tower, "content_width": float(width)}
    if not gradients["adaptive_clip"]:
        return ReleaseShape(cells, gradients["l2_clip_norm"], facts=trained)
    facts = {
        **trained,
        "clipping": "adaptive",
        "first_l2_clip_norm": float(gradients["l2_clip_norm"]),
        "target_quantile": float(gradients["target_quantile"]),
        "clip_rate": float(gradients["clip_rate"]),
    }
    return ReleaseShape(cells + 1, 1.0, facts=facts)


def content_width(n_items: int) -> int:
    """Columns of the public content vectors of this many items."""
    return min(CONTENT_DIM, max(8, n_items // 16))


def trained_rows(item_tower: TrainedTower, head: int) -> int:
    """How many of the head items have a row of their own to be trained: none where content alone speaks for them."""
    return 0 if item_tower == "content" else head


def comparison_shape(private: bool) -> ReleaseShape:
    """Votes for presets; every row is of the same norm, which is rounded up to the grid."""
    unit = _NOISY_METRIC_UNIT if private else METRIC_UNIT
    return ReleaseShape(comparison_length(), math.ceil(comparison_norm() / unit) * unit, unit)


def metrics_shape(private: bool) -> ReleaseShape:
    """Counts are exact on both grids, NDCG to the grid's step; every entry lies in [0, 1]."""
    length = len(metric_names(RANKERS))
    unit = _NOISY_METRIC_UNIT if private else METRIC_UNIT
    # Rounded up to the grid, so that a user with every hit is not scaled down.
    return ReleaseShape(length, math.ceil(math.sqrt(length) / unit) * unit, unit)


def detail_layout(n_items: int, settings: Mapping[str, Any], private: bool) -> DetailLayout:
    """The agreed layout of the detailed metric release.

    Raises:
        DataError: the plan's settings give no usable groups.
    """
    bounds = settings["evaluation"]["group_bounds"]
    return DetailLayout(n_items, tuple(bounds), _NOISY_METRIC_UNIT if private else METRIC_UNIT)


def statistics_layout(head: int, settings: Mapping[str, Any], private: bool) -> StatisticsLayout:
    """The agreed layout of the statistics vector for this many head items; counts where nothing is bounded anyway."""
    return StatisticsLayout(
        head, settings["gram_share"], settings["orders"], settings["decay"], normalised=private
    )
