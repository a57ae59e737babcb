from __future__ import annotations

from pathlib import Path

import pytest

from privacy.errors import InputError
from simulations import bench_secagg, demo_secagg


def test_demo_is_exact_or_ends_cleanly(tmp_path: Path):
    figure = tmp_path / "secagg.png"
    result = demo_secagg.run(clients=5, dropout=0.3, schedules=15, words=50, figure=figure)
    assert result["ok"]
    assert result["wrong"] == result["unexpected"] == 0
    assert result["exact"] > 0
    assert result["aborted"] > 0
    assert figure.stat().st_size > 1000
    assert "clean aborts" in demo_secagg.format_table(result)


def test_demo_without_dropouts_always_succeeds():
    assert demo_secagg.run(clients=3, dropout=0.0, schedules=3, words=10)["exact"] == 3


def test_bench_measures_an_exact_round():
    result = bench_secagg.run(clients=[4], words=[1000, 2000], dropout=0.25)
    assert result["ok"]
    assert [row["dropped"] for row in result["rows"]] == [1, 1]
    assert result["rows"][0]["upload_bytes"] > 4000
    assert result["mask_stream"]["fused_gb_per_s"] > 0.1
    assert "client ms" in bench_secagg.format_table(result)


def test_bench_against_flower_measures_a_right_mean():
    row = bench_secagg.run(clients=[4], words=[1000], dropout=0.25, against_flower=True)["rows"][0]
    assert row["flower_max_error"] < 1e-4
    assert row["flower_client_ms"] > 0
    assert row["client_speedup"] > 0


@pytest.mark.parametrize("dropout", [-0.1, float("nan"), 1.5])
def test_impossible_dropouts_are_refused(dropout: float):
    with pytest.raises(InputError):
        demo_secagg.run(dropout=dropout)
    with pytest.raises(InputError):
        bench_secagg.run(dropout=dropout)
