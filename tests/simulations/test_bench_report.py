"""The quality bench's report: intervals where recall is a share of users, one picture, nothing that becomes markup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recsys_models.metrics.intervals import proportion_estimate
from simulations.bench_report import quality_table, write_bench


def bench(
    protocol: str = "last-out", metrics: tuple[str, ...] = ("recall@10", "recall@20", "ndcg@10")
) -> Any:
    figures = dict.fromkeys(metrics, 0.2)
    row = {"spread": None, "epsilon": None, "seeds": 1, **figures}
    return {
        "dataset": "a <b>log</b>",
        "protocol": protocol,
        "evaluated_users": 900,
        "metrics": list(metrics),
        "split_checksum": "0123456789abcdef",
        "clients": 5,
        "rows": [
            row | {"method": "popularity (central, no privacy)"},
            row | {"method": "fedtower", "epsilon": "inf", "seeds": 3, "spread": 0.01},
            row | {"method": "fedtower", "epsilon": 8.0, "seeds": 3, "spread": 0.02},
        ],
        "runs": [{"notices": ["Not used."]}] * 3,
        "other_code": 1,
        "shortfalls": ["recall@10 0.2000 of fedtower at epsilon 8 is below 0.3"],
        "ok": False,
    }


def test_each_row_has_an_interval_from_the_users_that_were_judged() -> None:
    table = quality_table(bench())
    estimate = proportion_estimate(180, 900)
    assert table.header[-1] == "95 % interval of recall@10"
    assert {row[-1] for row in table.rows} == {f"[{estimate.low:.4f}, {estimate.high:.4f}]"}
    assert [row[1] for row in table.rows] == ["", "inf", "8"]
    assert "Not used. 1 of 3 runs were kept from other code" in table.note


@pytest.mark.parametrize(
    ("protocol", "metrics"), [("lightgcn", ("recall@20", "ndcg@20")), ("lightgcn", ("recall@10",))]
)
def test_a_recall_that_is_no_share_of_users_has_none(protocol: str, metrics: tuple[str, ...]) -> None:
    table = quality_table(bench(protocol, metrics))
    assert table.header[-1] == "spread over seeds"
    assert all(len(row) == len(table.header) for row in table.rows)


def test_the_same_result_gives_the_same_files_and_one_of_them_holds_all(tmp_path: Path) -> None:
    page = write_bench(bench(), tmp_path / "a" / "ml-1m.inter")
    names = sorted(path.name for path in page.parent.iterdir())
    assert names == [f"ml-1m.inter{ending}" for ending in (".html", ".json", ".md", ".png")]
    before = {name: (page.parent / name).read_bytes() for name in names}
    write_bench(bench(), tmp_path / "a" / "ml-1m.inter")
    assert {name: (page.parent / name).read_bytes() for name in names} == before
    assert json.loads(before["ml-1m.inter.json"]) == bench()
    html, markdown = before["ml-1m.inter.html"].decode(), before["ml-1m.inter.md"].decode()
    assert "data:image/png;base64," in html
    assert "<b>log" not in html + markdown
    for text in (html, markdown):
        assert "is below 0.3" in text


def test_no_picture_under_another_protocol(tmp_path: Path) -> None:
    page = write_bench(bench("time"), tmp_path / "log-time")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".html", ".json", ".md"]
    assert "<img" not in page.read_text()
