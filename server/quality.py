"""Released metric sums, read as recall and NDCG with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

from privacy.release_terms import ReleaseTerms
from recsys_models.metrics.intervals import Estimate, mean_estimate
from recsys_models.metrics.sums import read_metrics
from recsys_models.release_shapes import RANKERS
from server.secure_round import SecureSum

METRICS = {"recall@10": "hit@10", "recall@20": "hit@20", "ndcg@10": "ndcg@10"}
"""With one held-out item per user, recall@K is hit@K."""


@dataclass(frozen=True)
class Quality:
    """One metric release.

    Attributes:
        users: number of evaluated users, as released (noisy).
        model: by metric name, of the clients' recommenders.
        popularity: the same of the popularity ranking, on the same users.
    """

    users: float
    model: dict[str, Estimate]
    popularity: dict[str, Estimate]


def quality_from_sums(secure_sum: SecureSum, terms: ReleaseTerms) -> Quality:
    """Read a metric release; intervals cover the sampling of users and the noise that was really added."""
    total = secure_sum.in_units(terms.unit)
    noise_sd = terms.executed_sd(len(secure_sum.survivors))
    estimates = read_metrics(total, RANKERS, noise_sd=noise_sd)
    by_ranker = [
        {name: estimates[f"{ranker}/{source}"] for name, source in METRICS.items()} for ranker in RANKERS
    ]
    return Quality(float(total[0]), *by_ranker)


def random_quality(users: float, n_items: int, mean_seen: float) -> dict[str, Estimate]:
    """What a uniformly random ranking is expected to score on as many users; no user data enters.

    Args:
        users: number of evaluated users, for the interval.
        n_items: size of the catalogue.
        mean_seen: items removed from a user's ranking on average, or 0 where that is not public; leaving it out makes
            random look slightly worse than it is.
    """
    candidates = max(n_items - mean_seen, 20.0)
    gains = sum(1.0 / math.log2(rank + 1) for rank in range(1, 11))
    expected = {"recall@10": 10 / candidates, "recall@20": 20 / candidates, "ndcg@10": gains / candidates}
    return {name: mean_estimate(value * users, users) for name, value in expected.items()}
