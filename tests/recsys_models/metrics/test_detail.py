from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy.bounded import UserContributions, clip_and_sum
from recsys_models.errors import DataError
from recsys_models.metrics.calibration import reliability
from recsys_models.metrics.detail import (
    CALIBRATION_BINS,
    KS,
    LIST_LENGTH,
    MAX_EXPOSURE_CELLS,
    PROPERTIES,
    DetailLayout,
    UserDetail,
    user_detail_rows,
)
from recsys_models.metrics.detail_reading import GroupSums, read_detail, recall_gap
from recsys_models.metrics.lists import novelty_cap

BOUNDS = (10, 20, 50, 100)
FINE, NOISY = 2.0**-24, 2.0**-10


def made_up(users: int, n_items: int, seed: int = 0) -> UserDetail:
    generator = np.random.default_rng(seed)
    lists = np.argsort(generator.random((users, n_items)), axis=1)[:, :LIST_LENGTH]
    if n_items < LIST_LENGTH:
        lists = np.pad(lists, ((0, 0), (0, LIST_LENGTH - n_items)), constant_values=-1)
    return UserDetail(
        events=generator.integers(0, 150, users),
        ranks=np.maximum(1, (200 * generator.random(users) ** 2).astype(np.int64)),
        lists=lists,
        properties=generator.random((users, len(PROPERTIES))),
        confidences=generator.random(users) ** 2,
    )


def total_of(detail: UserDetail, layout: DetailLayout) -> NDArray[np.float64]:
    rows = user_detail_rows(detail, layout)
    contributions = UserContributions(rows.indices, rows.values, rows.offsets, rows.length)
    bounded = clip_and_sum(contributions, l2_clip_norm=layout.l2_bound, unit=layout.unit)
    return bounded.values * layout.unit


def plain_means(detail: UserDetail, users: NDArray[np.int64], n_items: int) -> dict[str, float]:
    """Everything again, written down from the definitions."""
    found: dict[str, list[float]] = {}
    for user in users:
        rank = int(detail.ranks[user])
        for k in KS:
            found.setdefault(f"recall@{k}", []).append(float(rank <= k))
            found.setdefault(f"ndcg@{k}", []).append(1.0 / math.log2(rank + 1) if rank <= k else 0.0)
        found.setdefault("mrr", []).append(1.0 / rank)
        precisions = [float(rank <= i) / i for i in range(1, 11)]
        found.setdefault("map@10", []).append(sum(p for i, p in enumerate(precisions, start=1) if i == rank))
        novelty, new, diversity, log_loss = detail.properties[user]
        found.setdefault("novelty", []).append(novelty * novelty_cap(n_items))
        found.setdefault("new_to_user", []).append(new)
        found.setdefault("diversity", []).append(diversity)
        found.setdefault("log_loss", []).append(log_loss * (math.log(n_items) + math.log(16)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def test_without_noise_every_figure_is_the_plain_one() -> None:
    detail, layout = made_up(700, 60), DetailLayout(60, BOUNDS, FINE)
    sums = read_detail(total_of(detail, layout), layout)
    groups = np.searchsorted(BOUNDS, detail.events, side="right")
    for g, group in enumerate(sums.groups):
        members = np.flatnonzero(groups == g)
        assert group.users == len(members)
        assert [group.hits(k) for k in KS] == [int((detail.ranks[members] <= k).sum()) for k in KS]
        plain = plain_means(detail, members, 60)
        read = {name: estimate.value for name, estimate in group.estimates().items()}
        assert read == pytest.approx(plain, abs=1e-6)
    shown = np.bincount(detail.lists.ravel(), minlength=60)
    assert np.array_equal(sums.exposure, shown)


def test_intervals_are_those_of_the_squares() -> None:
    detail, layout = made_up(400, 60), DetailLayout(60, (), FINE)
    (group,) = read_detail(total_of(detail, layout), layout).groups
    values = {
        "ndcg@20": np.where(detail.ranks <= 20, 1 / np.log2(detail.ranks + 1), 0.0),
        "mrr": 1 / detail.ranks,
        "map@10": np.where(detail.ranks <= 10, 1 / detail.ranks, 0.0),
        "diversity": detail.properties[:, 2],
    }
    estimates = group.estimates()
    for name, each in values.items():
        half = 1.959964 * each.std() / math.sqrt(len(each))
        assert (estimates[name].high - estimates[name].low) / 2 == pytest.approx(half, rel=1e-4)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 30),
    st.sampled_from([3, 60, 9000]),
    st.sampled_from([FINE, NOISY, 2.0**-7, 2.0**-4]),
    st.sampled_from([(), (1,), BOUNDS]),
    st.integers(0, 2**31),
)
def test_no_user_exceeds_the_bound_and_nobody_is_clipped(
    users: int, n_items: int, unit: float, bounds: tuple[int, ...], seed: int
) -> None:
    layout = DetailLayout(n_items, bounds, unit)
    generator = np.random.default_rng(seed)
    honest = made_up(users, n_items, seed)
    # Adversarial: the rank with the longest row, extreme properties, and any lists at all, repetitions included.
    worst = UserDetail(
        honest.events,
        generator.choice([1, 2, 3, 6, 11, 50, 51, 10**9], users),
        generator.integers(-1, n_items, (users, LIST_LENGTH)),
        generator.choice([0.0, 1.0, 0.5, 1e-300], (users, len(PROPERTIES))),
        generator.choice([0.0, 1.0, 0.1, 0.999999, 1e-300], users),
    )
    for detail in (honest, worst):
        rows = user_detail_rows(detail, layout)
        steps = rows.values / unit
        assert np.array_equal(steps, np.rint(steps))
        bound = math.floor(layout.l2_bound / unit)
        assert bound * unit == layout.l2_bound
        for low, high in zip(rows.offsets[:-1], rows.offsets[1:], strict=True):
            assert sum(int(step) ** 2 for step in steps[low:high]) <= bound**2
        exact = np.bincount(rows.indices, steps, minlength=rows.length)
        assert np.array_equal(total_of(detail, layout) / unit, exact)


@pytest.mark.parametrize("unit", [FINE, NOISY])
def test_the_bound_is_nearly_reached(unit: float) -> None:
    layout = DetailLayout(60, BOUNDS, unit)
    worst = UserDetail(
        np.array([5]),
        np.array([2]),
        np.arange(LIST_LENGTH)[None, :],
        np.array([[0.0, 1.0, 1.0, 0.0]]),
        np.zeros(1),
    )
    norm = float(np.linalg.norm(user_detail_rows(worst, layout).values))
    assert layout.l2_bound - 1.0 / 16.0 < norm <= layout.l2_bound == 2.25
    # Part by part, as the bound's docstring adds it up: users, rank, properties, exposure, confidence.
    gain, reciprocal = 1.0 / math.log2(3.0), 0.5
    rank = 1.0 + gain**2 + gain**4 + reciprocal**2 + reciprocal**4
    parts = 1.0 + rank + 4 * (1 / 4 + 1 / 16) + 10 / 16 + (1 / 16 + 1 / 4)
    assert norm**2 == pytest.approx(parts, abs=0.01)


def test_calibration_is_that_of_the_users_themselves() -> None:
    detail, layout = made_up(900, 60), DetailLayout(60, BOUNDS, FINE)
    sums = read_detail(total_of(detail, layout), layout).calibration
    hits = detail.ranks <= LIST_LENGTH
    plain = reliability(detail.confidences, hits, bins=CALIBRATION_BINS)
    assert np.array_equal(sums.users, plain.counts)
    assert np.allclose(sums.shortfall, plain.outcome_sums - plain.probability_sums, atol=1e-4)
    found = sums.expected_calibration_error(900.0)
    assert found.value == pytest.approx(plain.expected_calibration_error(), abs=1e-6)
    assert found.low == found.value == found.high
    assert sums.overconfidence(900.0).value == pytest.approx(
        float(np.mean(detail.confidences - hits)), abs=1e-6
    )


def test_noise_is_inside_the_interval_of_the_calibration_error() -> None:
    detail, layout = made_up(3000, 60), DetailLayout(60, BOUNDS, FINE)
    exact = total_of(detail, layout)
    truth = read_detail(exact, layout).calibration.expected_calibration_error(3000.0).value
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        noisy = read_detail(exact + generator.normal(0.0, 9.0, exact.size), layout, noise_sd=9.0)
        found = noisy.calibration.expected_calibration_error(3000.0)
        inside += found.low <= truth <= found.high
    assert inside >= 0.95 * 300


def test_a_grid_made_coarser_still_clips_nobody() -> None:
    layout = DetailLayout(60, BOUNDS, NOISY)
    rows = user_detail_rows(made_up(50, 60), layout)
    contributions = UserContributions(rows.indices, rows.values, rows.offsets, rows.length)
    for unit in (2.0**-9, 2.0**-6, 2.0**-4):
        bounded = clip_and_sum(contributions, l2_clip_norm=layout.l2_bound, unit=unit)
        plain = np.bincount(rows.indices, np.trunc(rows.values / unit), minlength=rows.length)
        assert np.array_equal(bounded.values, plain)


def test_two_items_in_one_bucket_count_once() -> None:
    layout = DetailLayout(50_000, (), NOISY)
    assert layout.exposure_cells == MAX_EXPOSURE_CELLS
    same = np.flatnonzero(layout.cell_of_item == layout.cell_of_item[0])[:2]
    assert len(same) == 2
    detail = UserDetail(
        np.array([1]), np.array([1]), np.resize(same, (1, LIST_LENGTH)), np.full((1, 4), 0.5), np.ones(1)
    )
    sums = read_detail(total_of(detail, layout), layout)
    assert sums.exposure.sum() == 1.0


def test_noise_is_inside_the_intervals_about_as_often_as_said() -> None:
    """Fixed users, fresh noise: intervals of the users' own means then cover at least 95 %, minus chance."""
    layout, sd = DetailLayout(60, BOUNDS, NOISY), 12.0
    detail = made_up(4000, 60)
    exact = total_of(detail, layout)
    truth = {n: e.value for n, e in read_detail(exact, layout).groups[2].estimates().items()}
    generator = np.random.default_rng(3)
    covered = dict.fromkeys(truth, 0)
    narrow = dict.fromkeys(truth, 0)
    for _ in range(300):
        noisy = exact + generator.normal(0.0, sd, exact.shape)
        group = read_detail(noisy, layout, noise_sd=sd).groups[2]
        blind = GroupSums(group.cells, 0.0, 60).estimates()
        for name, estimate in group.estimates().items():
            covered[name] += estimate.low <= truth[name] <= estimate.high
            narrow[name] += blind[name].low <= truth[name] <= blind[name].high
    assert min(covered.values()) >= 0.93 * 300, covered
    assert narrow["ndcg@50"] < 0.93 * 300  # intervals that ignore the noise would not do


def test_rank_quantiles() -> None:
    layout = DetailLayout(10, (), FINE)
    ranks = np.array([1] * 15 + [4] * 30 + [30] * 40 + [900] * 15)
    lists, properties = np.tile(np.arange(10), (100, 1)), np.zeros((100, 4))
    detail = UserDetail(np.ones(100, dtype=np.int64), ranks, lists, properties, np.zeros(100))
    (group,) = read_detail(total_of(detail, layout), layout).groups
    assert [group.rank_quantile(q) for q in (0.1, 0.3, 0.5, 0.9)] == [(1, 1), (2, 5), (21, 50), (51, None)]


def gap_of(hits: list[int], users: int, noise_variance: float = 0.0) -> tuple[float, float, float]:
    layout = DetailLayout(10, (), FINE)
    cells = np.zeros((len(hits), layout.group_cells))
    cells[:, 0], cells[:, 1] = users, hits
    found = recall_gap([GroupSums(each, noise_variance, 10) for each in cells], 10)
    return found.estimate.low, found.estimate.value, found.estimate.high


def test_the_gap_of_equal_groups_may_be_none_and_that_of_unequal_ones_is_seen() -> None:
    low, value, high = gap_of([100, 110, 90], 1000)
    assert (low, value) == (0.0, pytest.approx(0.02))
    assert high > 0.04
    low, value, high = gap_of([100, 300, 200], 1000)
    assert value == pytest.approx(0.2)
    assert 0.0 < low < value < high
    assert gap_of([100, 300, 200], 1000, 900.0)[0] < low
    with pytest.raises(DataError, match="at least two"):
        gap_of([3], 10)


def test_the_gap_is_covered_although_it_is_the_largest_of_many() -> None:
    generator = np.random.default_rng(5)
    shares = np.full(5, 0.2)  # the true gap is 0
    covered = sum(gap_of(generator.binomial(300, shares).tolist(), 300)[0] <= 0.0 for _ in range(400))
    assert covered >= 0.94 * 400


@pytest.mark.parametrize(
    ("bounds", "unit"),
    [((0,), NOISY), ((5, 5), NOISY), ((9, 3), NOISY), ((1.5,), NOISY), (tuple(range(1, 17)), NOISY)]
    + [((), unit) for unit in (0.03, 0.125, 0.0, -0.25, math.nan, math.inf)],
)
def test_unusable_layouts_are_refused(bounds: tuple[int, ...], unit: float) -> None:
    with pytest.raises(DataError):
        DetailLayout(10, bounds, unit)


def test_unusable_users_are_refused() -> None:
    good = made_up(2, 60)
    layout = DetailLayout(60, BOUNDS, NOISY)
    for properties in (good.properties * np.nan, good.properties + 1.0, -good.properties - 0.1):
        with pytest.raises(DataError, match=r"\[0, 1\]"):
            replace(good, properties=properties)
    for confidences in (good.confidences * np.nan, good.confidences + 1.0, -good.confidences - 0.1):
        with pytest.raises(DataError, match=r"confidences must lie in \[0, 1\]"):
            replace(good, confidences=confidences)
    with pytest.raises(DataError, match="ranks start at 1"):
        replace(good, ranks=good.ranks * 0)
    with pytest.raises(DataError, match="shapes"):
        replace(good, lists=good.lists[:, :3])
    with pytest.raises(DataError, match="shapes"):
        replace(good, confidences=good.confidences[:1])
    outside = replace(good, lists=good.lists + 60)
    with pytest.raises(DataError, match="outside the catalogue"):
        user_detail_rows(outside, layout)
    with pytest.raises(DataError, match="expected"):
        read_detail(np.zeros(layout.length - 1), layout)


def test_nobody_to_evaluate_gives_no_rows() -> None:
    empty = made_up(0, 60)
    assert user_detail_rows(empty, DetailLayout(60, BOUNDS, NOISY)).offsets.tolist() == [0]


def test_group_names() -> None:
    assert DetailLayout(1, BOUNDS, NOISY).group_names == ("0-9", "10-19", "20-49", "50-99", "100+")
    assert DetailLayout(1, (), NOISY).group_names == ("0+",)
    layout = DetailLayout(1, BOUNDS, NOISY)
    assert layout.group_of(np.array([0, 9, 10, 99, 100])).tolist() == [0, 0, 1, 3, 4]
