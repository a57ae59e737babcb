"""Invented pictures and sounds, the networks that read them, and the page that shows how."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from privacy.errors import InputError
from recsys_models.data.catalogue import Catalogue
from simulations.bench_cold_items import run
from simulations.invented_media import invent_media
from simulations.synthetic import synthetic_log

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_what_is_missing_is_nan_and_what_is_there_tells_genres_apart() -> None:
    catalogue = synthetic_log(50, 80, seed=0).catalogue
    media, again = invent_media(catalogue, 0), invent_media(catalogue, 0)
    assert torch.equal(media.images.nan_to_num(), again.images.nan_to_num())
    assert media.images.shape == (80, 3, 16, 16) and media.sounds.shape[:2] == (80, 20)
    for values, present in ((media.images, media.has_image), (media.sounds, media.has_sound)):
        assert 0.4 < float(present.float().mean()) < 1.0
        assert values[present].isfinite().all() and values[~present].isnan().all()
    genre = [of_item[0] for of_item in catalogue.attributes["genre"]]
    loudest = media.sounds.mean(dim=2).argmax(dim=1)
    for name in set(genre):
        own = [int(loudest[i]) for i in range(80) if genre[i] == name and media.has_sound[i]]
        assert max(own, default=0) - min(own, default=0) <= 1


def test_other_catalogues_have_none() -> None:
    with pytest.raises(InputError, match="built-in log alone"):
        invent_media(Catalogue(["1", "2"], attributes={"genre": [["Drama"], []]}), 0)


def test_networks_stand_in_the_table() -> None:
    result = run(synthetic_log(200, 100, seed=0), epochs=1, networks=True)
    names = [row["model"] for row in result["rows"]]
    assert names[-4:] == [
        "trained network over words",
        "trained network over invented pictures",
        "trained network over invented sounds",
        "fusion of index, content, words, pictures, sounds",
    ]


def test_the_example_on_the_page_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["vectors"].shape == (100, 32)
    assert found["vectors"].isfinite().all() and found["vectors"].any(dim=1).all()
