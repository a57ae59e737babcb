"""Federations whose gradient rounds train a map of public content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from privacy.accounting.ledger import Ledger
from privacy.errors import InputError
from recsys_models.data.catalogue import Catalogue
from recsys_models.data.dataset import Dataset
from recsys_models.data.sequences import Sequences
from recsys_models.metrics.ranking import target_ranks
from server.federation import Unwatched
from server.run import content_of
from simulations.audits import inversion, sensitivity
from simulations.audits.canary_release import claimed_release
from simulations.audits.small_run import run_small
from simulations.run import build_simulation, simulate
from simulations.synthetic import synthetic_log
from tests.tiny_federation import SmallFederation, small_federation, small_scenario

ITEMS, CUT, SHORT_CUT = 120, 10, 2
NOISE = {"popularity": 4.0, "gradients": 4.0, "metrics-gradients": 6.0, "metrics-final": 6.0}


def log_with_cold_items(users: int = 500) -> tuple[Dataset, np.ndarray]:
    """The built-in log in which every sixth item is nowhere but at the end of a history, where it is the test item."""
    whole = synthetic_log(users, ITEMS, seed=3)
    cold = np.arange(ITEMS) % 6 == 0
    histories: list[np.ndarray] = []
    for user in range(users):
        events = whole.sequences.of(user)
        warm, missing = events[~cold[events]], events[cold[events]]
        if len(missing) and len(warm) >= 4:
            histories.append(np.append(warm, missing[-1]))
    offsets = np.concatenate([[0], np.cumsum([len(h) for h in histories])]).astype(np.int64)
    names = [f"u{k}" for k in range(len(histories))]
    sequences = Sequences(names, np.concatenate(histories), offsets, whole.catalogue)
    return Dataset("cold", sequences, whole.catalogue), cold


def cold_ranks(small: SmallFederation, cold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the test items by encoder and published item vectors alone: in the whole catalogue, and among the cold items."""
    ranks: list[list[np.ndarray]] = [[], []]
    for client in small.clients.values():
        items = torch.from_numpy(client.public.item_tower)
        seen, targets = client.log.seen("test"), client.log.targets("test")
        scores = (client.model.user_vectors(seen, items) @ items.T).numpy()
        ranks[0].append(target_ranks(scores, targets, seen))
        ranks[1].append(target_ranks(np.where(cold, scores, -1e30), targets, seen))
    whole, among = (np.concatenate(part) for part in ranks)
    return whole, among


@pytest.mark.parametrize("item_tower", ["ids", "content", "fusion"])
def test_items_without_events_are_found_by_content_and_never_by_their_index(
    item_tower: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, cold = log_with_cold_items()
    changes = {
        "privacy.mode": "off",
        "recipe": "gradients",
        "model.item_tower": item_tower,
        "statistics.head": ITEMS,
        "gradients.rounds": 12,
        "fit.epochs": 0,
    }
    small = small_federation(tmp_path, monkeypatch, changes, dataset=data)
    small.federation.run()
    whole, among = cold_ranks(small, cold)
    # Among the cold items alone: in the whole catalogue a model may know, without content, which items are new, not which
    # of them a user wants.
    chance = SHORT_CUT / cold.sum()
    error = np.sqrt(chance * (1.0 - chance) / len(among))
    found = np.mean(among <= SHORT_CUT)
    if item_tower == "ids":
        assert found < chance + 3.0 * error
    else:
        assert found > chance + 4.0 * error
    if item_tower == "content":
        assert np.mean(whole <= CUT) > 2.0 * CUT / ITEMS


def test_the_same_seed_gives_the_same_bytes_and_the_ledger_says_what_was_released(tmp_path: Path) -> None:
    changes = {"recipe": "gradients", "model.item_tower": "fusion", "privacy.noise_multipliers": NOISE}
    scenario = small_scenario(changes)
    reports: list[Any] = []
    for name in ("one", "two"):
        report = simulate(scenario, tmp_path / name, Unwatched())
        report.pop("seconds")
        reports.append(json.loads(json.dumps(report, default=str)))
    assert reports[0] == reports[1]
    towers = [(tmp_path / name / "item_tower.safetensors").read_bytes() for name in ("one", "two")]
    assert towers[0] == towers[1]
    ledger = Ledger.open(
        tmp_path / "one" / "ledger.sqlite",
        population="built-in",
        epsilon_budget=8.0,
        target_delta=1e-5,
        create=False,
    )
    (event,) = [entry.event for entry in ledger.entries() if entry.event.name == "gradients"]
    # 8 columns of content and 20 head items, 8 dimensions each.
    assert (event.detail["item_tower"], event.detail["content_width"]) == ("fusion", 8)
    assert event.detail["cells"] == (8 + 20) * 8


def test_a_catalogue_that_says_nothing_is_refused_before_anything_starts(tmp_path: Path) -> None:
    scenario = small_scenario({"recipe": "gradients", "model.item_tower": "content"})
    with pytest.raises(InputError, match=r"neither titles nor texts nor attributes: use 'ids'"):
        content_of(scenario, Catalogue([f"i{k}" for k in range(40)]))
    assert content_of(small_scenario({"recipe": "gradients"}), Catalogue(["i0", "i1"])) is None


@pytest.mark.parametrize("method", ["hooks", "ghost"])
@pytest.mark.parametrize("item_tower", ["content", "fusion"])
def test_the_audits_cover_the_map(item_tower: str, method: str) -> None:
    scenario = small_scenario(
        {
            "recipe": "gradients",
            "model.item_tower": item_tower,
            "privacy.per_user_gradients": method,
            "gradients.l2_clip_norm": 0.5,
            "privacy.noise_multipliers": NOISE,
        }
    )
    result = sensitivity.run(scenario, seed=1, random_users=2)
    assert result["ok"], result["findings"]
    (row,) = [row for row in result["releases"] if row["kind"] == "gradients"]
    assert 0.9 < row["of_bound"] <= 1.0 + sensitivity.ROUNDING
    if method == "hooks":
        stages = inversion.run(scenario, users=3, seed=1)["stages"]
        assert stages["unprotected update"] > stages["popularity guess"] > stages["noised sum"]


def test_the_other_audits_run_with_a_map(tmp_path: Path) -> None:
    scenario = small_scenario(
        {"recipe": "gradients", "model.item_tower": "content", "privacy.noise_multipliers": NOISE}
    )
    # The canaries of the statistics are of a recipe that trains no tower.
    canaries = claimed_release(scenario, "statistics", epsilon=8.0, items=20, seed=0, changes={})
    assert canaries.terms.l2_clip_norm == 1.0
    data = synthetic_log(40, 40, seed=0)
    simulation = build_simulation(scenario, data, tmp_path / "clients")
    assert run_small(scenario, simulation.clients, tmp_path, data.catalogue) == ""
    assert all(client.public.content.any() for client in simulation.clients.values())
