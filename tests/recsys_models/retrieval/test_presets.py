from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_models.errors import DataError
from recsys_models.retrieval.blend import CHANNELS
from recsys_models.retrieval.presets import (
    PRESETS,
    comparison_length,
    comparison_norm,
    comparison_rows,
    first_preset,
    read_comparison,
)

NAMES = list(PRESETS)
FIRST = NAMES[0]


def sums(hits: dict[str, int], users: int) -> np.ndarray:
    """What the rows of ``users`` users add up to when each preset found the items of so many of them."""
    ranks = {name: np.where(np.arange(users) < hits.get(name, 0), 10, 11).astype(np.int64) for name in NAMES}
    rows = comparison_rows(ranks)
    return np.bincount(rows.indices, weights=rows.values, minlength=rows.length)


def test_presets_weigh_every_channel_and_none_below_nothing() -> None:
    for weights in PRESETS.values():
        assert len(weights) == len(CHANNELS)
        assert all(0.0 <= weight <= 100.0 for weight in weights)
        assert any(weight > 0.0 for weight in weights)


@given(st.lists(st.integers(0, 40), min_size=len(NAMES), max_size=len(NAMES)))
def test_sums_are_read_back_as_the_recall_they_came_from(hits: list[int]) -> None:
    read = read_comparison(sums(dict(zip(NAMES, hits, strict=True)), 40), FIRST)
    assert read.users == 40.0
    assert [each.value for each in read.recall.values()] == pytest.approx([h / 40 for h in hits])
    assert all(each.low <= each.value <= each.high for each in read.recall.values())
    # Without noise the best is chosen, and the first where another is no better.
    assert read.recall[read.chosen].value == max(each.value for each in read.recall.values())
    if hits[0] == max(hits):
        assert read.chosen == FIRST


@given(st.lists(st.integers(1, 30), min_size=len(NAMES), max_size=len(NAMES)))
def test_no_row_is_longer_than_what_is_charged(ranks: list[int]) -> None:
    rows = comparison_rows({name: np.array([rank]) for name, rank in zip(NAMES, ranks, strict=True)})
    assert len(rows.values) == comparison_length() == rows.length
    assert math.hypot(*rows.values) == pytest.approx(comparison_norm())


def test_a_lead_within_the_noise_changes_nothing() -> None:
    total = sums({FIRST: 100, NAMES[2]: 130}, 1000)
    # A lead of 30 beside noise of 10 * sqrt(2) in a difference, and of 20 * sqrt(2).
    assert read_comparison(total, FIRST, noise_sd=10.0).chosen == NAMES[2]
    assert read_comparison(total, FIRST, noise_sd=20.0).chosen == FIRST
    # Who is first is the plan's to say.
    assert read_comparison(total, NAMES[2], noise_sd=20.0).chosen == NAMES[2]


def test_intervals_hold_what_the_noise_does() -> None:
    rng = np.random.default_rng(0)
    total, noise_sd = sums({FIRST: 200}, 2000), 15.0
    reads = [
        read_comparison(total + rng.normal(0, noise_sd, len(total)), FIRST, noise_sd=noise_sd)
        for _ in range(400)
    ]
    inside = np.mean([read.recall[FIRST].low <= 0.1 <= read.recall[FIRST].high for read in reads])
    assert inside > 0.93
    widths = [read.recall[FIRST].high - read.recall[FIRST].low for read in reads]
    assert np.mean(widths) < 0.06  # an interval of everything would pass too


def test_the_first_preset_follows_from_public_facts() -> None:
    assert first_preset(943, 0.27) == "popular items"
    assert first_preset(943, 1.6) == first_preset(6040, 0.27) == "transitions"
    assert first_preset(5, math.inf) == "transitions"
    assert {first_preset(n, mu) for n in (1, 10**6) for mu in (0.01, 1.0)} <= set(PRESETS)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="shape"):
        read_comparison(np.zeros(comparison_length() + 1), FIRST)
    with pytest.raises(DataError, match="preset 'best' is unknown"):
        read_comparison(np.zeros(comparison_length()), "best")
    with pytest.raises(DataError, match="presets are"):
        comparison_rows({"content": np.array([1])})
