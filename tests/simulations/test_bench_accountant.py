from __future__ import annotations

from dataclasses import replace

import pytest

from privacy.accounting.accountant import epsilon
from simulations import bench_accountant
from simulations.bench_accountant import SETTINGS


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two settings with sampling and one without: the whole table takes half a minute."""
    monkeypatch.setattr(bench_accountant, "SETTINGS", (SETTINGS[0], SETTINGS[7], SETTINGS[9]))


@pytest.mark.usefixtures("cheap")
def test_ours_is_sound_and_close() -> None:
    result = bench_accountant.run()
    assert result["ok"], result
    for row in result["rows"]:
        assert row["floor"] - 1e-9 <= row["ours"] <= row["floor"] * 1.005
    assert "0 below the floor" in bench_accountant.format_table(result).splitlines()[-1]


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize(("factor", "found"), [(0.995, "below"), (1.3, "above_renyi"), (1.1, "off_record")])
def test_an_accountant_that_is_off_is_found(
    monkeypatch: pytest.MonkeyPatch, factor: float, found: str
) -> None:
    monkeypatch.setattr(bench_accountant, "epsilon", lambda events, delta: factor * epsilon(events, delta))
    result = bench_accountant.run()
    assert result[found]
    assert not result["ok"]


def test_ten_different_settings() -> None:
    assert len({replace(s, name="") for s in SETTINGS}) == 10
