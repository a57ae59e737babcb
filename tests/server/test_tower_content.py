"""``model.content``: items outside the statistics get a row from their content, at no cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from recsys_models.data.catalogue import Catalogue
from recsys_models.errors import DataError
from recsys_models.item_towers.cold_start import fill_from_content
from recsys_models.item_towers.text import content_vectors
from recsys_models.release_shapes import content_width
from server.federation import Unwatched
from server.run import content_of
from server.tower_start import make_start
from simulations.run import Report, simulate
from tests.tiny_federation import small_scenario


def published(content: str, out: Path) -> tuple[Report, dict[str, np.ndarray], Catalogue]:
    report = simulate(small_scenario({"model.content": content}), out, Unwatched())
    return report, load_file(out / "item_tower.safetensors"), Catalogue.load(out / "catalogue.json")


def test_items_outside_the_head_get_a_row_and_nothing_else_changes(tmp_path: Path) -> None:
    without, before, catalogue = published("off", tmp_path / "off")
    with_content, after, _ = published("auto", tmp_path / "auto")
    head = np.isin(np.arange(40), before["head"])
    assert head.sum() == 20
    assert not before["item_tower"][~head].any()
    assert after["item_tower"][~head].any(axis=1).all()
    for name, array in before.items():
        # Content is a channel of the blends that users vote on, so their recall is another one.
        if name not in ("item_tower", "blend_recall"):
            assert np.array_equal(after[name], array)
    content = content_vectors(catalogue, content_width(40))
    assert np.array_equal(after["item_tower"], fill_from_content(before["item_tower"], head, content))
    assert with_content["privacy"] == without["privacy"], "post-processing costs nothing"


def test_pretrained_vectors_are_what_the_server_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = Catalogue(["1", "2", "3"], ["red hat", "red shoe", "blue sea"])
    fixed = np.eye(3, 256, dtype=np.float32)
    monkeypatch.setattr("recsys_models.item_towers.text.wordllama_vectors", lambda _, dim: fixed[:, :dim])
    scenario = small_scenario({"model.content": "pretrained"})
    content = content_of(scenario, catalogue)
    assert content is not None
    assert np.array_equal(content @ content.T, np.eye(3))
    plain = content_of(small_scenario({"model.content": "auto"}), catalogue)
    assert plain is not None and plain[0] @ plain[1] > 0.0
    start = make_start(
        small_scenario({"model.content": "pretrained", "item_tower.init": "text"}), catalogue, None
    )
    assert start is not None
    assert (start.tower[0] @ start.tower[1]) == 0.0


def test_pretrained_vectors_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys_models.item_towers.pretrained_text._folder", lambda: None)
    catalogue = Catalogue(["1", "2"], ["no such words before", "nor these"])
    with pytest.raises(DataError, match=r"pip install 'fedtower\[text\]'.*content = 'auto'"):
        content_of(small_scenario({"model.content": "pretrained"}), catalogue)
