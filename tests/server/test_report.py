from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from privacy.errors import InputError
from server.report import KEY_ORDER, read_report, render_markdown, report_json, write_report
from server.report_html import render_html
from server.report_plots import plots
from server.report_tables import PRIVACY_OFF, all_tables, departures, metric_title, places, quality, size
from tests.server.example_report import example_report


class _Resources(HTMLParser):
    """Collects every place from which a page could load something, and every script."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]


def test_the_folder_holds_three_readings_of_one_report(tmp_path: Path) -> None:
    write_report(example_report(), tmp_path / "runs" / "one")
    assert sorted(p.name for p in (tmp_path / "runs" / "one").iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
    ]
    assert read_report(tmp_path / "runs" / "one") == json.loads(report_json(example_report()))


def test_the_same_report_gives_the_same_bytes_whatever_the_order_of_its_keys(tmp_path: Path) -> None:
    report = example_report()
    reversed_report = dict(reversed(report.items()))
    assert list(report) != list(reversed_report)
    for folder, source in (("a", report), ("b", reversed_report)):
        write_report(source, tmp_path / folder)
    for name in ("report.json", "report.md", "report.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_known_keys_come_first_and_in_order() -> None:
    keys = list(json.loads(report_json({"zeta": 1, "alpha": 2, "seed": 3, "metrics": {}})))
    assert keys == ["metrics", "seed", "alpha", "zeta"]
    assert len(set(KEY_ORDER)) == len(KEY_ORDER)


def test_numbers_that_json_cannot_hold_become_null_and_numpy_scalars_become_numbers() -> None:
    text = report_json(
        {"a": math.inf, "b": [math.nan], "c": np.float32(0.5), "d": np.int64(3), "e": Path("x")}
    )
    assert json.loads(text) == {"a": None, "b": [None], "c": 0.5, "d": 3, "e": "x"}


@pytest.mark.parametrize("key", sorted(example_report()))
def test_every_key_may_be_absent(key: str) -> None:
    report = example_report()
    del report[key]
    assert render_markdown(report).startswith("# fedtower")
    assert render_html(report).startswith("<!doctype html>")


def test_a_refused_run_has_a_report() -> None:
    report = {
        "refused": "gradients would make ε 9.1 of 8",
        "privacy": {"epsilon": 5.3, "releases": [{"name": "statistics"}]},
    }
    for text in (render_markdown(report), render_html(report)):
        assert "gradients would make ε 9.1 of 8" in text
        assert "statistics" in text
    assert all_tables({}) == []


def test_what_a_run_did_not_use_is_said() -> None:
    report = example_report() | {"notices": ["Not used: <loss> = 'bpr'."]}
    assert "> Not used: \\<loss\\> = 'bpr'." in render_markdown(report).splitlines()
    assert "<section>Not used: &lt;loss&gt; = &#x27;bpr&#x27;.</section>" in render_html(report)


def test_quality_stands_beside_every_baseline_with_n_and_interval() -> None:
    table = quality(example_report())
    assert table is not None
    assert table.header == ("", "fedtower", "95 % interval", "popularity", "random", "n")
    assert table.rows[0] == ("Recall@10", "0.1812", "[0.1732, 0.1892]", "0.0931", "0.0100", "2,000")
    assert [row[0] for row in table.rows] == ["Recall@10", "Recall@20", "NDCG@10"]


def test_places_name_precision_accuracy_and_quantiles_of_the_rank() -> None:
    metrics = {f"recall@{k}": {"value": value} for k, value in ((1, 0.07), (5, 0.26), (10, 0.41))}
    shown = {"metrics": metrics, "rank_quantiles": {"p10": [1, 1], "p50": [11, 20], "p90": [51, None]}}
    hidden = {"events": "0-9", "suppressed": "fewer than 20 users"}
    table = places({"detail": {"groups": [hidden, {"events": "10+", **shown}], "all": shown}})
    assert table is not None
    assert table.header[1:5] == ("accuracy", "hit rate@5", "hit rate@10", "precision@10")
    cells = ("0.0700", "0.2600", "0.4100", "0.0410", "1", "11–20", "51 or later")
    assert table.rows == [("10+", *cells), ("all", *cells)]
    assert places({}) is None


def test_the_user_encoder_comes_first_with_zero_bytes() -> None:
    table = departures(example_report())
    assert table is not None
    assert table.rows[0][:4] == ("user encoder", "0 B", "0 B", "0")
    totals = [int(row[3].replace(",", "")) for row in table.rows]
    assert sum(totals) == sum(example_report()["left_the_client"].values())
    assert totals[1:] == sorted(totals[1:], reverse=True)


def test_privacy_off_is_shouted_first_and_noise_is_not_claimed() -> None:
    report = example_report()
    report["privacy"] = {"mode": "off"}
    markdown, html = render_markdown(report), render_html(report)
    assert PRIVACY_OFF in markdown.splitlines()[2]
    body = html[html.index("<main>") :]
    assert body.index(PRIVACY_OFF) < body.index("Recall@10")
    for text in (markdown, html):
        assert "noised, masked" not in text
        assert "masked, not noised" in text
    assert PRIVACY_OFF not in render_markdown(example_report())


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    parser = _Resources()
    html = render_html(example_report())
    parser.feed(html)
    assert len(parser.found) == 3
    assert all(source.startswith("data:image/svg+xml;base64,") for source in parser.found)
    assert not {"script", "link", "iframe", "object"} & set(parser.tags)
    assert not re.search(r"url\(|@import", html)


def test_titles_cannot_become_markup() -> None:
    report = {
        "lists": [
            {
                "user": "<b>u</b>",
                "history": ["a | b"],
                "recommendations": [{"title": "<script>x()</script> *bold*", "reason": "[here](there)"}],
            }
        ]
    }
    html = render_html(report)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    markdown = render_markdown(report)
    assert "\\<script\\>" in markdown
    assert "\\[here\\]" in markdown
    assert "a \\| b" in markdown


def test_plots_are_drawn_only_from_what_there_is() -> None:
    assert len(plots(example_report())) == 3
    assert plots({}) == {}
    assert len(plots({"left_the_client": {"user_encoder": 0}})) == 1
    point = {"round": 0, "release": "statistics", "recall@10": {"value": 0.1}}
    assert len(plots({"series": [point, {"round": 1, "recall@10": {"value": None}}]})) == 1


@pytest.mark.parametrize("content", ["", "[1, 2]", "{", '"text"'])
def test_a_file_that_is_not_a_report_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(InputError, match=r"report\.json") as refusal:
        read_report(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (38_412_800, "38.4 MB"), (5 * 10**12, "5.0 TB")],
)
def test_sizes(n_bytes: int, text: str) -> None:
    assert size(n_bytes) == text


def test_metric_titles() -> None:
    assert [metric_title(m) for m in ("recall@10", "ndcg@10", "coverage@10")] == [
        "Recall@10",
        "NDCG@10",
        "coverage@10",
    ]
