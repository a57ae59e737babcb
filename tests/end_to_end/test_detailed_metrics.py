"""The detailed metrics of a whole federation beside a plain computation over all users."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.detail_evaluation import user_detail
from recsys_models.metrics.calibration import log_loss_cap
from recsys_models.metrics.detail import KS
from recsys_models.metrics.lists import gini, novelty_cap
from server.federation import Unwatched
from simulations.run import simulate
from tests.tiny_federation import dataset_of, small_federation, small_scenario

BOUNDS = (5, 8, 12, 16)
ON: dict[str, Any] = {
    "evaluation.detail": "on",
    "evaluation.group_bounds": list(BOUNDS),
    "evaluation.min_group_users": 5,
}


def test_the_released_figures_are_those_of_all_users_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(4)
    histories = [generator.permutation(40)[: generator.integers(3, 26)].tolist() for _ in range(80)]
    small = small_federation(
        tmp_path, monkeypatch, ON | {"privacy.mode": "off"}, dataset=dataset_of(histories)
    )
    detail = small.federation.run().detail
    assert detail is not None
    everybody = [
        user_detail(c.model, c.log, c.public, "test", diversity="item-tower") for c in small.clients.values()
    ]
    events, ranks, lists, properties = (
        np.concatenate([getattr(each, name) for each in everybody])
        for name in ("events", "ranks", "lists", "properties")
    )
    group_of = np.digitize(events, BOUNDS)
    shown = {group["events"]: group for group in detail["groups"] if "suppressed" not in group}
    assert len(shown) >= 4
    names = ["0-4", "5-7", "8-11", "12-15", "16+"]
    for g, name in enumerate(names):
        if name in shown:
            _compare(shown[name], ranks[group_of == g], properties[group_of == g])
    _compare(detail["all"], ranks, properties)

    exposure = np.bincount(lists.ravel(), minlength=40)
    assert detail["coverage@10"]["covered"] == int((exposure > 0).sum())
    assert detail["gini@10"]["value"] == pytest.approx(gini(exposure.astype(float)), abs=1e-9)
    recalls = {name: float(np.mean(ranks[group_of == names.index(name)] <= 10)) for name in shown}
    gap = detail["recall_gap@10"]
    assert gap["value"] == pytest.approx(max(recalls.values()) - min(recalls.values()), abs=1e-9)
    assert recalls[gap["largest"]] == max(recalls.values())


def _compare(found: dict[str, Any], ranks: np.ndarray, properties: np.ndarray) -> None:
    assert found["users"] == len(ranks)
    assert found["hits"] == {str(k): int((ranks <= k).sum()) for k in KS}
    plain = {f"recall@{k}": float(np.mean(ranks <= k)) for k in KS}
    plain |= {f"ndcg@{k}": float(np.mean((ranks <= k) / np.log2(ranks + 1))) for k in KS}
    plain |= {"mrr": float(np.mean(1 / ranks)), "map@10": float(np.mean((ranks <= 10) / ranks))}
    novelty, new, diversity, loss = properties.mean(axis=0)
    plain |= {"novelty": novelty * novelty_cap(40), "new_to_user": new, "diversity": diversity}
    plain["log_loss"] = loss * log_loss_cap(40)
    assert {name: e["value"] for name, e in found["metrics"].items()} == pytest.approx(plain, abs=1e-6)


def test_a_private_run_charges_the_detail_and_says_what_noise_left_of_it(tmp_path: Path) -> None:
    scenario = small_scenario(ON | {"simulation.users": 400, "privacy.epsilon": 50.0})
    report = simulate(scenario, tmp_path / "run", Unwatched())
    releases = {release["name"]: release for release in report["privacy"]["releases"]}
    assert releases["metrics-detail"]["epsilon_alone"] > 0.0
    assert report["privacy"]["epsilon"] <= 50.0
    detail = json.loads((tmp_path / "run" / "report.json").read_text())["detail"]
    margin = 1.96 * detail["noise_sd"] / 4  # exposure cells carry a quarter of a showing
    assert abs(detail["all"]["users"] - 400) < 3 * margin * math.sqrt(5)
    assert any("not surely 5 users" in group.get("suppressed", "") for group in detail["groups"])
    core, same = report["metrics"]["recall@10"], detail["all"]["metrics"]["recall@10"]
    assert core["low"] <= same["high"]
    assert same["low"] <= core["high"]
    for name in ("report.md", "report.html"):
        assert "Quality by activity" in (tmp_path / "run" / name).read_text()
