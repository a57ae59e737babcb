from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from privacy.errors import InputError
from recsys_models.metrics.detail import LIST_LENGTH, DetailLayout
from recsys_models.metrics.detail_reading import CalibrationSums, DetailSums, GroupSums, read_detail
from server.detail import detail_facts, suppressed_groups
from server.plan import _releases, detail_from_users, make_plan, popularity_share
from server.report import render_markdown, report_json
from server.report_html import render_html
from server.report_tables import all_tables, exposure, groups
from server.scenario import Scenario, override
from tests.recsys_models.metrics.test_detail import BOUNDS, made_up, total_of

SETTINGS = {"evaluation": {"min_group_users": 20, "diversity": "item-tower"}}
LAYOUT = DetailLayout(60, BOUNDS, 2.0**-10)


def sums_of(users: list[float], noise_sd: float = 0.0, exposure: np.ndarray | None = None) -> DetailSums:
    cells = np.zeros((len(users), LAYOUT.group_cells))
    cells[:, 0] = users
    cells[:, 1] = np.array(users) / 4
    shown = np.zeros(60) if exposure is None else exposure
    calibration = CalibrationSums(np.full(10, sum(users) / 10), np.linspace(-9.0, 9.0, 10), noise_sd * 2)
    return DetailSums(
        tuple(GroupSums(each, noise_sd**2, 60) for each in cells), shown, noise_sd * 4, calibration
    )


def hidden_of(users: list[float], noise_sd: float = 0.0) -> dict[int, str]:
    return suppressed_groups(sums_of(users, noise_sd).groups, 20)


def test_groups_below_the_least_size_are_suppressed_with_a_reason() -> None:
    assert hidden_of([20, 30, 40, 50, 60]) == {}
    assert hidden_of([0, 30, 40, 50, 60]) == {0: "fewer than 20 users"}
    assert set(hidden_of([15, 14, 40, 50, 60])) == {0, 1}


def test_a_small_group_cannot_be_had_as_a_difference_from_the_total() -> None:
    hidden = hidden_of([3, 30, 40, 50, 60])
    assert set(hidden) == {0, 1}
    assert "does not follow" in hidden[1]
    assert set(hidden_of([3, 4, 60, 50, 40])) == {0, 1, 4}


def test_with_noise_a_group_must_surely_have_the_least_size() -> None:
    hidden = hidden_of([39.0, 40.0, 400.0, 500.0, -7.0], noise_sd=10.0)  # margin 19.6
    assert hidden == {
        0: "not surely 20 users: 39 ± 20 released",
        4: "not surely 20 users: -7 ± 20 released",
    }


def test_a_suppressed_group_has_no_figure_at_all() -> None:
    facts = detail_facts(sums_of([3, 30, 40, 50, 60]), LAYOUT, SETTINGS)
    assert [set(group) for group in facts["groups"][:2]] == [{"events", "suppressed"}] * 2
    assert facts["groups"][2]["users"] == 40
    assert facts["all"]["users"] == 183
    assert facts["recall_gap@10"]["largest"] in ("20-49", "50-99", "100+")


def test_too_few_users_altogether_leave_a_reason_alone() -> None:
    facts = detail_facts(sums_of([3, 3, 3, 3, 3]), LAYOUT, SETTINGS)
    assert facts["suppressed"] == "fewer than 20 users"
    assert not {"all", "groups", "coverage@10", "gini@10"} & set(facts)
    (table,) = [t for t in all_tables({"detail": facts}) if t.title != "This run"]
    assert table.rows == [("all", "–", "–", "", *["–"] * 8, "fewer than 20 users")]
    one_group = detail_facts(sums_of([3, 3, 3, 3, 300]), LAYOUT, SETTINGS)
    assert one_group["recall_gap@10"] == {"suppressed": "0 group(s) shown; a gap needs two"}


def test_coverage_and_gini_know_the_noise() -> None:
    shown = np.zeros(60)
    shown[:6] = 300.0
    shown[6:20] = 10.0
    exact = detail_facts(sums_of([40.0] * 5, exposure=shown), LAYOUT, SETTINGS)
    assert exact["coverage@10"] == {
        "value": 20 / 60, "covered": 20, "of": 60, "cells": "items", "shown_more_often_than": 0.5,
    }  # fmt: skip
    assert "low" not in exact["gini@10"]
    noisy = detail_facts(sums_of([400.0] * 5, 5.0, exposure=shown), LAYOUT, SETTINGS)
    assert noisy["coverage@10"]["covered"] == 6  # 14 cells of 10 could be noise of sd 20
    assert noisy["coverage@10"]["shown_more_often_than"] == pytest.approx(61.8, abs=0.1)
    assert noisy["gini@10"]["value"] == pytest.approx(0.9)  # 6 equal among 60
    assert noisy["gini@10"]["low"] < noisy["gini@10"]["value"]


def test_hashed_catalogues_say_so() -> None:
    layout = DetailLayout(9000, (), 2.0**-10)
    facts = detail_facts(read_detail(total_of(made_up(50, 9000), layout), layout), layout, SETTINGS)
    assert facts["coverage@10"]["cells"] == "hash buckets"
    assert facts["coverage@10"]["of"] == 4096


def test_every_reading_of_the_report_shows_the_detail() -> None:
    facts = detail_facts(read_detail(total_of(made_up(400, 60), LAYOUT), LAYOUT), LAYOUT, SETTINGS)
    report = json.loads(report_json({"metrics": {}, "seed": 1, "detail": facts}))
    assert list(report) == ["metrics", "detail", "seed"]
    table, lists = groups(report), exposure(report)
    assert table is not None
    assert lists is not None
    assert [row[0] for row in table.rows] == ["0-9", "10-19", "20-49", "50-99", "100+", "all"]
    assert [row[0] for row in lists.rows] == [
        "coverage@10",
        "Gini@10",
        "Recall@10 gap",
        "ECE@10",
        "overconfidence",
    ]
    for text in (render_markdown(report), render_html(report)):
        assert "Quality by activity" in text
        assert "60 of 60 items" in text
    assert facts["all"]["metrics"]["map@10"]["value"] <= facts["all"]["metrics"]["mrr"]["value"]
    assert facts["depth"] == LIST_LENGTH


def plan_of(users: int, **changes: Any) -> Any:
    scenario = override(Scenario(), {"recipe": "statistics", "fit.steps": 0, **changes})
    return make_plan(
        scenario,
        session="00" * 16,
        users_of={f"c{i}": users // 5 for i in range(5)},
        n_items=50,
        catalogue_sha256="00" * 32,
    )


@pytest.mark.parametrize(
    ("users", "changes", "expected"),
    [
        (4900, {}, False),
        (5000, {}, True),
        (5000, {"privacy.epsilon": 1.0}, False),
        (300_000, {"privacy.epsilon": 1.0}, True),
        (100, {"privacy.mode": "off"}, True),
        (100, {"evaluation.detail": "on"}, True),
        (50_000, {"evaluation.detail": "off"}, False),
        (5000, {"shares.metrics_detail": 0.0}, False),
    ],
)
def test_when_the_detail_is_released(users: int, changes: dict[str, Any], expected: bool) -> None:
    plan = plan_of(users, **changes)
    kinds = [release.kind for release in plan.releases]
    assert ("metrics-detail" in kinds) == expected
    assert not expected or kinds[-1] == "metrics-detail"


def test_the_figure_of_5000_follows_from_the_formula() -> None:
    """At the default budget noise and sampling of a group's recall of 0.15 are as wide at about 5,000 users."""
    scenario = Scenario()
    plan = plan_of(5000)
    z = plan.release("metrics-detail").noise_multiplier
    layout = DetailLayout(1000, scenario.evaluation.group_bounds, 2.0**-10)
    n, p = 5000 / layout.n_groups, 0.15
    noise, sampling = 3**0.5 * z * layout.l2_bound / n, (p * (1 - p) / n) ** 0.5
    assert noise / sampling == pytest.approx(1.0, abs=0.1)
    others = sum(release.share for release in _releases(scenario, 2000, 1000, popularity_is_known=False))
    assert detail_from_users(scenario, others) == 5000.0
    assert 150_000 < detail_from_users(override(scenario, {"privacy.epsilon": 1.0}), others) < 250_000


def test_the_share_counts_only_where_the_detail_is_on() -> None:
    on, off = plan_of(10_000), plan_of(10_000, **{"evaluation.detail": "off"})
    for plan in (on, off):
        share = {r.name: r.noise_multiplier for r in plan.releases}
        assert share["metrics-final"] is not None
    ratio = on.release("popularity").noise_multiplier / off.release("popularity").noise_multiplier
    shares = Scenario().shares
    total = popularity_share(Scenario(), 10_000) + shares.statistics + shares.metrics * 0.85
    assert ratio == pytest.approx(((total + shares.metrics_detail) / total) ** 0.5, rel=1e-3)


@pytest.mark.parametrize("bounds", [[20, 10], [0], [5, 5], list(range(1, 40))])
def test_unusable_groups_are_refused_in_one_line(bounds: list[int]) -> None:
    with pytest.raises(InputError, match=r"evaluation\.group_bounds") as refusal:
        override(Scenario(), {"evaluation.group_bounds": bounds})
    assert "\n" not in str(refusal.value)


def test_calibration_is_told_with_the_margin_of_its_noise() -> None:
    exact = detail_facts(sums_of([200.0] * 5), LAYOUT, SETTINGS)["calibration"]
    assert exact["ece@10"]["value"] == pytest.approx(50.0 / 1000)
    assert exact["ece@10"]["low"] == exact["ece@10"]["high"] == exact["ece@10"]["value"]
    assert exact["overconfidence"]["value"] == pytest.approx(0.0)
    noisy = detail_facts(sums_of([200.0] * 5, noise_sd=3.0), LAYOUT, SETTINGS)["calibration"]["ece@10"]
    assert noisy["low"] < noisy["value"] < noisy["high"]
