"""Ranking metrics, the integer sums they travel in, and the intervals around what comes out."""

from recsys_models.metrics.calibration import Reliability, log_loss, reliability, top_confidences
from recsys_models.metrics.intervals import Estimate, mean_estimate, proportion_estimate
from recsys_models.metrics.ranking import hit, mean_metrics, ndcg, reciprocal_rank, target_ranks
from recsys_models.metrics.sums import (
    METRIC_UNIT,
    MetricRows,
    metric_l2_bound,
    metric_names,
    read_metrics,
    user_metric_rows,
)

__all__ = [
    "METRIC_UNIT",
    "Estimate",
    "MetricRows",
    "Reliability",
    "hit",
    "log_loss",
    "mean_estimate",
    "mean_metrics",
    "metric_l2_bound",
    "metric_names",
    "ndcg",
    "proportion_estimate",
    "read_metrics",
    "reciprocal_rank",
    "reliability",
    "target_ranks",
    "top_confidences",
    "user_metric_rows",
]
