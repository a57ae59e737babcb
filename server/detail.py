"""The detailed metric release, read: groups, list properties, exposure; what may not be shown is suppressed with a reason.

Everything here is computed from released sums, so it costs no budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from privacy.release_terms import ReleaseTerms
from recsys_models.metrics.detail import KS, LIST_LENGTH, DetailLayout
from recsys_models.metrics.detail_reading import DetailSums, GroupSums, read_detail, recall_gap
from recsys_models.metrics.intervals import Estimate
from recsys_models.metrics.lists import gini, shown_threshold
from server.secure_round import SecureSum

Facts = dict[str, Any]

IDENTITIES = (
    "One relevant item a user: hit rate@K = recall@K = hits@K / users, precision@K = recall@K / K, "
    "MAP@10 = MRR cut at 10"
)
_GAP_AT = 10
_QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


def detail_from_sums(
    secure_sum: SecureSum, terms: ReleaseTerms, layout: DetailLayout, settings: Mapping[str, Any]
) -> Facts:
    """The report's ``detail`` object; intervals cover the sampling of users and the noise that was really added."""
    noise_sd = terms.executed_sd(len(secure_sum.survivors))
    sums = read_detail(secure_sum.in_units(terms.unit), layout, noise_sd=noise_sd)
    return detail_facts(sums, layout, settings)


def detail_facts(sums: DetailSums, layout: DetailLayout, settings: Mapping[str, Any]) -> Facts:
    """What a detailed release says.

    Args:
        sums: as released.
        layout: the agreed one.
        settings: the plan's; ``evaluation`` holds ``min_group_users`` and ``diversity``.
    """
    least = int(settings["evaluation"]["min_group_users"])
    everybody = sum(sums.groups[1:], start=sums.groups[0])
    facts: Facts = {
        "depth": LIST_LENGTH,
        "diversity_by": settings["evaluation"]["diversity"],
        "identities": IDENTITIES,
        "min_group_users": least,
        "noise_sd": sums.exposure_noise_sd,
    }
    if _too_few(everybody, least):
        return facts | {"suppressed": _reason(everybody, least)}
    hidden = suppressed_groups(sums.groups, least)
    facts["all"] = _figures(everybody)
    facts["groups"] = [
        {"events": name, **({"suppressed": hidden[i]} if i in hidden else _figures(group))}
        for i, (name, group) in enumerate(zip(layout.group_names, sums.groups, strict=True))
    ]
    shown = [i for i in range(layout.n_groups) if i not in hidden]
    facts[f"recall_gap@{_GAP_AT}"] = _gap(sums, layout, shown)
    facts["calibration"] = {
        f"ece@{LIST_LENGTH}": _estimate(sums.calibration.expected_calibration_error(everybody.users)),
        "overconfidence": _estimate(sums.calibration.overconfidence(everybody.users)),
    }
    return facts | _exposure(sums, layout, everybody.users)


def suppressed_groups(groups: tuple[GroupSums, ...], least: int) -> dict[int, str]:
    """Which groups may not be shown, and why.

    A group must surely (its released number of users less the margin of the noise) have ``least`` users. Without noise,
    hidden groups follow from the total less the shown ones, so the smallest shown ones are hidden too until the hidden
    ones together have that many.
    """
    hidden = {i: _reason(group, least) for i, group in enumerate(groups) if _too_few(group, least)}
    if any(group.noise_variance for group in groups):
        return hidden
    by_size = sorted((i for i in range(len(groups)) if i not in hidden), key=lambda i: groups[i].users)
    for i in by_size:
        if not 0.0 < sum(groups[j].users for j in hidden) < least:
            break
        hidden[i] = "hidden so that a smaller group does not follow from the total"
    return hidden


def _too_few(group: GroupSums, least: int) -> bool:
    return not group.users - group.users_margin >= least


def _reason(group: GroupSums, least: int) -> str:
    if group.noise_variance == 0.0:
        return f"fewer than {least} users"
    return f"not surely {least} users: {group.users:.0f} ± {group.users_margin:.0f} released"


def _figures(group: GroupSums) -> Facts:
    return {
        "users": _whole(group.users),
        "hits": {str(k): _whole(group.hits(k)) for k in KS},
        "metrics": {name: _estimate(value) for name, value in group.estimates().items()},
        "rank_quantiles": {name: list(group.rank_quantile(share)) for name, share in _QUANTILES.items()},
    }


def _gap(sums: DetailSums, layout: DetailLayout, shown: list[int]) -> Facts:
    if len(shown) < 2:
        return {"suppressed": f"{len(shown)} group(s) shown; a gap needs two"}
    gap = recall_gap([sums.groups[i] for i in shown], _GAP_AT)
    names = layout.group_names
    return {
        **_estimate(gap.estimate),
        "largest": names[shown[gap.largest]],
        "smallest": names[shown[gap.smallest]],
    }


def _exposure(sums: DetailSums, layout: DetailLayout, users: float) -> Facts:
    """Coverage and Gini; a cell that noise may explain counts as never shown, so Gini is rather too large.

    Its lower end spreads the showings that no covered cell explains evenly over the others. Neither is a 95 % interval.
    """
    noise_sd, cells = sums.exposure_noise_sd, layout.exposure_cells
    surely = sums.exposure > shown_threshold(noise_sd)
    kept = np.where(surely, sums.exposure, 0.0)
    rest = max(0.0, users * LIST_LENGTH - float(kept.sum()))
    n_rest = int((~surely).sum())
    spread = np.where(surely, kept, rest / max(n_rest, 1))
    count = int(surely.sum())
    return {
        f"coverage@{LIST_LENGTH}": {
            "value": count / cells,
            "covered": count,
            "of": cells,
            "cells": "items" if layout.n_items == cells else "hash buckets",
            "shown_more_often_than": shown_threshold(noise_sd),
        },
        f"gini@{LIST_LENGTH}": {
            "value": gini(kept),
            **({"low": gini(spread), "high": gini(kept)} if noise_sd else {}),
        },
    }


def _whole(value: float) -> int:
    return max(0, round(value))


def _estimate(estimate: Estimate) -> Facts:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}
