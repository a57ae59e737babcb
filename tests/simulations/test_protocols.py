"""Protocols, central rows and a federation measured by time, on a small built-in log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.errors import InputError
from recsys_models.data.dataset import Dataset
from recsys_models.data.splits import global_time_split
from recsys_models.encoder_sizes import EncoderSize
from recsys_models.training import TrainingSettings
from server.scenario import Scenario, override
from simulations import central_rows, twin_rows
from simulations.protocols import PROTOCOLS, Protocol
from simulations.run import build_simulation
from simulations.synthetic import synthetic_log


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthetic_log(150, 260, seed=0)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_gives_every_baseline_its_figures_once(
    name: str, data: Dataset, tmp_path: Path
) -> None:
    said: list[str] = []
    first = central_rows.baseline_rows(Protocol(data, name), tmp_path, said.append)
    assert [row["method"].split(" (")[0] for row in first][:2] == ["random", "popularity"]
    assert all(0.0 <= row[metric] <= 1.0 for row in first for metric in Protocol(data, name).metrics)
    assert len(said) == len(first) == 8
    again = central_rows.baseline_rows(Protocol(data, name), tmp_path, said.append)
    assert again == first
    assert len(said) == 8, "kept rows are not fitted again"


def test_ials_is_the_better_of_its_settings_by_validation(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    poor, sound = (0.3, 30.0), (0.3, 0.001)
    figures = {}
    for grid in ((poor,), (sound,), (poor, sound)):
        monkeypatch.setattr(central_rows, "IALS_GRID", grid)
        rows = central_rows.baseline_rows(Protocol(data), tmp_path, lambda _line: None)
        figures[grid] = rows[-1]["recall@10"]
    assert figures[(poor, sound)] == figures[(sound,)] != figures[(poor,)]


def test_checksums_tell_protocols_apart(data: Dataset) -> None:
    assert len({Protocol(data, name).checksum for name in PROTOCOLS}) == len(PROTOCOLS)


def test_refuses_an_unknown_protocol_and_a_pick_without_validation(data: Dataset) -> None:
    with pytest.raises(InputError, match="unknown protocol 'loo'"):
        Protocol(data, "loo")
    with pytest.raises(InputError, match="no validation item"):
        Protocol(data, "lightgcn").validation(lambda h: np.zeros((len(h), 260)))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_everything_dpals_releases_costs_its_budget(epsilon: float, steps: int) -> None:
    noise, spent = central_rows.noise_of(epsilon, central_rows.DPALS_SHARES, steps, draw=1)
    assert spent <= epsilon
    assert spent == pytest.approx(epsilon, rel=1e-5)
    assert sum(central_rows.DPALS_SHARES.values()) == pytest.approx(1.0)
    assert noise("counts", (10_000,)).std() < noise("gram", (10_000,)).std()


def test_private_rows_stand_at_their_budget(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(central_rows, "DPALS_GRID", ({"head": (20, 60)}, {"dim": (4,)}))
    rows = central_rows.private_rows(Protocol(data), [float("inf"), 8.0], tmp_path, lambda _line: None)
    assert [(row["method"], row["epsilon"]) for row in rows] == [
        ("popularity (central, DP)", 8.0),
        ("DPALS (central, DP)", 8.0),
    ]
    assert all(row["epsilon_spent"] <= 8.0 for row in rows)


def test_a_twin_learns_and_says_its_epochs(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TrainingSettings(
        epochs=3, batch_size=16, learning_rate=5e-3, warm_up_steps=5, look_every=3, device="cpu"
    )
    monkeypatch.setattr(twin_rows, "TWIN_SETTINGS", settings)
    said: list[str] = []
    size = EncoderSize(dim=16, blocks=1, heads=1)

    def rows(encoders: list[str], seeds: int = 1) -> list[dict[str, Any]]:
        return twin_rows.twin_rows(
            Protocol(data), encoders, tmp_path, said.append, size=size, length=20, seeds=seeds
        )

    row = rows(["mean-pool"])[0]
    floor = central_rows.baseline_rows(Protocol(data), tmp_path, lambda _line: None)[0]
    assert row["method"] == "mean-pool (central, no privacy)"
    assert row["recall@10"] > 1.5 * floor["recall@10"]
    assert said[0].startswith("mean-pool (central), seed 1: epoch 3 of at most 3: loss")
    assert rows(["none"]) == []
    looks = len(said)
    two = rows(["mean-pool"], seeds=2)[0]
    assert len(said) == 2 * looks, "the first seed's row was kept"
    other = 2 * two["recall@10"] - row["recall@10"]
    assert two["seeds"] == 2 and two["spread"] == pytest.approx(abs(other - row["recall@10"]))


def test_clients_measured_by_time_hold_their_users_part_of_one_split(data: Dataset, tmp_path: Path) -> None:
    scenario = override(Scenario(), {"simulation.protocol": "time", "simulation.clients": 3, "seed": 0})
    simulation = build_simulation(scenario, data, tmp_path)
    whole = global_time_split(data.sequences)
    names = {user: index for index, user in enumerate(data.sequences.user_ids)}
    for client in simulation.clients.values():
        users = [names[user] for user in client.log.sequences.user_ids]
        assert client.log.targets("test").tolist() == whole.test[users].tolist()
        assert client.log.targets("validation").tolist() == whole.validation[users].tolist()
        for mine, pooled in zip(client.log.training, users, strict=True):
            assert mine.tolist() == whole.train.of(pooled).tolist()
