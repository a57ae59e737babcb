"""Towers that start from something: what is carried over, what is refused, and whose epsilon it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from privacy.accounting.ledger import Ledger
from privacy.errors import BudgetExceeded, InputError
from recsys_models.data.catalogue import Catalogue
from recsys_models.retrieval.transitions import TRANSITION_ARRAYS, TransitionReadings
from server.certificate import certificate
from server.disclosure import disclosure, to_markdown
from server.federation import Unwatched
from server.published import read_published
from server.resume import resumed
from server.scenario import Scenario, load_scenario, override, parse_scenario
from server.tower_start import make_start
from simulations.run import simulate
from tests.tiny_federation import small_scenario

NOISE = {"popularity": 2.0, "gradients": 4.0, "metrics-gradients": 6.0, "metrics-final": 6.0}
GRADIENTS = {
    "recipe": "gradients",
    "gradients.sampling_probability": 1.0,
    "privacy.noise_multipliers": NOISE,
    "privacy.epsilon": 2.8,
}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without privacy, so that its tower is worth starting from."""
    folder = tmp_path_factory.mktemp("earlier") / "run"
    simulate(
        small_scenario({"privacy.mode": "off", "simulation.users": 300, "statistics.head": 40}),
        folder,
        Unwatched(),
    )
    return folder


def grown(catalogue: Catalogue, more: int) -> Catalogue:
    """The catalogue with items whose ids sort before and among the others."""
    return Catalogue(
        [*catalogue.item_ids, *(f"{'a' if k % 2 else 'item-0010'}-new-{k}" for k in range(more))],
        [*catalogue.titles, *catalogue.titles[:more]],
        [*catalogue.texts, *catalogue.texts[:more]],
        {name: [*column, *column[:more]] for name, column in catalogue.attributes.items()},
    )


def start_of(folder: Path, catalogue: Catalogue, changes: dict[str, Any] | None = None) -> Any:
    asked = {"item_tower.init": "release", "item_tower.from": str(folder)}
    return make_start(small_scenario(asked | (changes or {})), catalogue, None)


def test_a_grown_catalogue_keeps_the_old_rows_bit_for_bit_and_fills_the_new_ones(released: Path) -> None:
    earlier = read_published(released)
    larger = grown(earlier.catalogue, 6)
    assert larger.item_ids[:40] != earlier.catalogue.item_ids
    start = start_of(released, larger, {"model.dim": 10})
    old = larger.indices_of(earlier.catalogue.item_ids)
    assert start.tower[old, :8].tobytes() == earlier.arrays["item_tower"].tobytes()
    assert not start.tower[:, 8:].any()
    assert start.provenance["items"] == {"by id": 40, "by content": 6, "without a vector": 0}
    new = [i for i in range(46) if i not in set(old.tolist())]
    twins = [larger.titles.index(larger.titles[i]) for i in new]
    likeness = [
        np.dot(start.tower[i], start.tower[j])
        / np.linalg.norm(start.tower[i])
        / np.linalg.norm(start.tower[j])
        for i, j in zip(new, [t if t != i else old[0] for i, t in zip(new, twins, strict=True)], strict=True)
    ]
    assert np.mean(likeness) > 0.3


def test_items_outside_the_head_keep_their_place_among_the_new_ones(released: Path) -> None:
    earlier = read_published(released)
    start = start_of(released, earlier.catalogue)
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    wanted = (start.tower.astype(np.float64) @ turned).astype(np.float32)
    head = np.arange(0, 40, 2)
    tower = np.zeros_like(wanted)
    tower[head] = wanted[head]
    whole = start.completing(tower, head)
    assert np.array_equal(whole[head], tower[head])
    np.testing.assert_allclose(whole, wanted, atol=0.1)


def test_ids_that_mean_other_items_are_not_taken_for_the_same(released: Path) -> None:
    earlier = read_published(released).catalogue
    other = Catalogue(earlier.item_ids, [f"Cream {k}" for k in range(40)], earlier.texts, earlier.attributes)
    with pytest.raises(InputError, match=r"40 of them have another title there.*link = 'content'"):
        start_of(released, other)
    linked = start_of(released, other, {"item_tower.link": "content"})
    assert linked.provenance["items"]["by id"] == 0
    assert linked.tower.any()
    elsewhere = Catalogue([f"b{k}" for k in range(9)])
    with pytest.raises(InputError, match="no item id in common"):
        start_of(released, elsewhere)
    with pytest.raises(InputError, match="nothing links them"):
        start_of(released, elsewhere, {"item_tower.link": "content"})


def test_a_resumed_run_keeps_what_followed_what_in_a_grown_catalogue(released: Path) -> None:
    earlier = read_published(released)
    larger = grown(earlier.catalogue, 6)
    scenario = override(resumed(released, None), {"recipe": "gradients"})
    start = make_start(scenario, larger, None)
    assert start is not None
    assert "popularity" not in start.kept  # of another catalogue
    before = TransitionReadings.from_arrays(earlier.arrays, 40)
    after = TransitionReadings.from_arrays(start.transitions, 46)
    assert before is not None and after is not None
    old = larger.indices_of(earlier.catalogue.item_ids)
    wanted = np.zeros((46, 46), dtype=np.float32)
    wanted[np.ix_(old, old)] = before.sparse.matrix.toarray()
    assert wanted.any()
    assert np.array_equal(after.sparse.matrix.toarray(), wanted)
    assert np.array_equal(after.smooth.left[old], before.smooth.left)
    same = make_start(scenario, earlier.catalogue, None)
    assert same is not None
    for name in TRANSITION_ARRAYS:
        assert np.array_equal(same.transitions[name], earlier.arrays[name])
    # Statistics of its own replace them.
    statistics = make_start(override(scenario, {"recipe": "hybrid"}), larger, None)
    assert statistics is not None and not statistics.transitions


def _without_tower(folder: Path) -> None:
    (folder / "item_tower.safetensors").unlink()


def _not_safetensors(folder: Path) -> None:
    (folder / "item_tower.safetensors").write_text("weights")


def _of_others(folder: Path) -> None:
    save_file({"item_tower": np.zeros((40, 8), np.float32)}, folder / "item_tower.safetensors")


def _other_catalogue(folder: Path) -> None:
    Catalogue([f"i{k}" for k in range(40)]).save(folder / "catalogue.json")


def _no_catalogue(folder: Path) -> None:
    (folder / "catalogue.json").unlink()


def _changed(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    path = folder / "item_tower.safetensors"
    arrays = load_file(path)
    change(arrays)
    facts = {"catalogue_sha256": (folder / "catalogue.sha256").read_text().strip()}
    save_file(arrays, path, metadata={"fedtower": json.dumps(facts)})


def _poisoned(folder: Path) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["item_tower"][3, 3] = np.nan

    _changed(folder, change)


def _half_the_transitions(folder: Path) -> None:
    _changed(folder, lambda arrays: arrays.__delitem__("transition_items"))


def _transitions_from_elsewhere(folder: Path) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["transition_items"][0] = 40

    _changed(folder, change)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_tower, "holds no item_tower.safetensors"),
        (_not_safetensors, "is no safetensors file"),
        (_of_others, "fedtower did not publish it"),
        (_other_catalogue, "has SHA-256"),
        (_no_catalogue, "there is no file"),
        (_poisoned, "not finite"),
        (_half_the_transitions, "of the transitions only transition_starts, transition_weights"),
        (_transitions_from_elsewhere, "a transition leads outside the catalogue of 40 items"),
    ],
)
def test_a_wrong_release_is_one_line(released: Path, tmp_path: Path, damage: Any, message: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(released, folder)
    damage(folder)
    with pytest.raises(InputError, match=message) as refused:
        start_of(folder, Catalogue(["a"]))
    assert "\n" not in str(refused.value)


def test_a_wider_release_and_half_a_setting_are_refused(released: Path) -> None:
    with pytest.raises(InputError, match=r"width 8, the scenario model.dim = 4: set model.dim = 8"):
        start_of(released, read_published(released).catalogue, {"model.dim": 4})
    for document in ({"init": "release"}, {"from": "x"}):
        with pytest.raises(InputError, match="belong together"):
            parse_scenario({"item_tower": document}, source="test")
    with pytest.raises(InputError, match="neither texts nor attributes"):
        make_start(override(Scenario(), {"item_tower.init": "text"}), Catalogue(["a", "b"]), None)


def test_a_release_is_found_from_the_scenarios_own_folder(tmp_path: Path) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text('[item_tower]\ninit = "release"\nfrom = "runs/first"\n')
    scenario = load_scenario(path)
    assert scenario.item_tower.from_run == str(tmp_path / "runs/first")
    assert parse_scenario(scenario.model_dump(exclude_none=True), source="dump") == scenario


def test_starting_from_a_release_beats_starting_at_random(released: Path, tmp_path: Path) -> None:
    few = {
        "privacy.mode": "off",
        "recipe": "gradients",
        "simulation.users": 120,
        "gradients.rounds": 1,
        "seed": 6,
    }
    recalls: dict[str, float] = {}
    data_of = {"random": {}, "release": {"item_tower.init": "release", "item_tower.from": str(released)}}
    for name, start in data_of.items():
        # Same world of items: the built-in log is a function of its seed.
        report = simulate(small_scenario(few | start | {"seed": 5}), tmp_path / name, Unwatched())
        recalls[name] = report["simulation"]["exact_metrics"]["ndcg@10"]
        assert ("started_from" in report) == (name == "release")
    assert recalls["release"] > recalls["random"]
    text = (tmp_path / "release" / "report.md").read_text()
    assert "WITHOUT privacy" in text


def test_a_resumed_run_is_charged_to_the_same_ledger_and_says_so(tmp_path: Path) -> None:
    first = simulate(small_scenario(GRADIENTS), tmp_path / "first", Unwatched())
    scenario = resumed(tmp_path / "first", None)
    noise = {name: z for name, z in NOISE.items() if name != "popularity"}
    changes = {"privacy.noise_multipliers": noise}
    scenario = override(scenario, changes)
    with pytest.raises(BudgetExceeded, match=r"'gradients' would raise epsilon .* budget 2.8"):
        simulate(scenario, tmp_path / "refused", Unwatched())
    ledger = tmp_path / "first" / "ledger.sqlite"
    Ledger.open(ledger, population="built-in", epsilon_budget=6.0, target_delta=1e-5)
    again = override(resumed(tmp_path / "first", None), changes)
    assert (scenario.resume.number, again.resume.number) == (2, 3)
    second = simulate(again, tmp_path / "second", Unwatched())
    names = [release["name"] for release in second["privacy"]["releases"]]
    assert names[-3:] == [
        "gradients",
        "metrics-gradients",
        "metrics-final",
    ]  # popularity was not released again
    assert second["privacy"]["epsilon"] > first["privacy"]["epsilon"]
    one, two = (load_file(tmp_path / run / "item_tower.safetensors") for run in ("first", "second"))
    assert np.array_equal(one["popularity"], two["popularity"])
    assert not np.array_equal(one["item_tower"], two["item_tower"])
    own = Ledger.open(
        tmp_path / "first" / "clients" / "client-01" / "ledger.sqlite",
        population="client-01", epsilon_budget=6.0, target_delta=1e-5, create=False,
    )  # fmt: skip
    assert own.epsilon_spent() == pytest.approx(second["privacy"]["epsilon"])
    assert not (tmp_path / "second" / "clients").exists()
    stated = certificate(tmp_path / "second")
    assert stated["stands_on"]["earlier"]["in_this_ledger"] is True
    assert "charged to the same ledger" in to_markdown(disclosure(stated))
    third = resumed(tmp_path / "second", None)
    assert third.resume.number == 4


def test_resuming_needs_a_run_with_its_report(released: Path, tmp_path: Path) -> None:
    folder = tmp_path / "published-only"
    folder.mkdir()
    for name in ("item_tower.safetensors", "catalogue.json"):
        shutil.copy(released / name, folder / name)
    with pytest.raises(InputError, match=r"holds no report.json"):
        resumed(folder, None)
    statement = start_of(folder, read_published(folder).catalogue).provenance["statements"][0]
    assert "not known here" in statement
