"""``model.content``: items outside the statistics get a row from their content, at no cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from recsys_models.data.catalogue import Catalogue
from recsys_models.item_towers.cold_start import fill_from_content
from recsys_models.item_towers.text import content_vectors
from recsys_models.release_shapes import content_width
from server.federation import Unwatched
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
        if name != "item_tower":
            assert np.array_equal(after[name], array)
    content = content_vectors(catalogue, content_width(40))
    assert np.array_equal(after["item_tower"], fill_from_content(before["item_tower"], head, content))
    assert with_content["privacy"] == without["privacy"], "post-processing costs nothing"
