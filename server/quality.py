"""Released metric sums, read as recall and NDCG with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from privacy.release_terms import ReleaseTerms
from recsys_models.metrics.intervals import Estimate, mean_estimate
from recsys_models.metrics.sums import read_metrics
from recsys_models.release_shapes import RANKERS
from recsys_models.retrieval.presets import POPULARITY, read_comparison
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
        compared: recall@10 of each preset of the blend, where the release compared them; ``model`` is then the chosen one's.
        chosen: that preset.
        began_with: the preset it had to beat: the plan's, or the one that an earlier comparison chose.
    """

    users: float
    model: dict[str, Estimate]
    popularity: dict[str, Estimate]
    compared: dict[str, Estimate] = field(default_factory=dict[str, Estimate])
    chosen: str = ""
    began_with: str = ""


def quality_from_sums(secure_sum: SecureSum, terms: ReleaseTerms) -> Quality:
    """Read a metric release; intervals cover the sampling of users and the noise that was really added."""
    total = secure_sum.in_units(terms.unit)
    noise_sd = terms.executed_sd(len(secure_sum.survivors))
    estimates = read_metrics(total, RANKERS, noise_sd=noise_sd)
    model, popularity = (
        {name: estimates[f"{ranker}/{source}"] for name, source in METRICS.items()} for ranker in RANKERS
    )
    return Quality(float(total[0]), model, popularity)


def quality_from_comparison(secure_sum: SecureSum, terms: ReleaseTerms, first: str) -> Quality:
    """Read the release that compares presets, and choose one.

    Args:
        secure_sum: as released.
        terms: of the release.
        first: the preset to keep unless another is clearly better.
    """
    total = secure_sum.in_units(terms.unit)
    read = read_comparison(total, first, noise_sd=terms.executed_sd(len(secure_sum.survivors)))
    model, popularity = ({"recall@10": read.recall[name]} for name in (read.chosen, POPULARITY))
    return Quality(
        read.users, model, popularity, compared=dict(read.recall), chosen=read.chosen, began_with=first
    )


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
