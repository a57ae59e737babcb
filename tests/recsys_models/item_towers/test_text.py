"""Text, attribute and content vectors: public, repeatable, and near for items that are alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recsys_models.data.catalogue import Catalogue
from recsys_models.errors import DataError
from recsys_models.item_towers import text
from recsys_models.item_towers.hashed_text import hashed_vectors
from recsys_models.item_towers.pretrained_text import wordllama_is_installed
from recsys_models.item_towers.text import (
    attribute_vectors,
    content_vectors,
    documents_of,
    text_vectors,
)

TITLES = [
    "Red nail polish",
    "Blue nail polish",
    "Argan shampoo for dry hair",
    "Shampooing for oily hair",
    "e",
    "",
]


@pytest.fixture
def catalogue() -> Catalogue:
    brands = [["OPI"], ["OPI"], ["Moro"], ["Moro"], [], []]
    codes = [[str(100 + i)] for i in range(6)]
    return Catalogue(
        [str(i) for i in range(6)],
        TITLES,
        attributes={"brand": brands, "code": codes, "sort": [["all"]] * 5 + [[]]},
    )


METHODS = ["hashed"] + (["wordllama"] if wordllama_is_installed() else [])


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_rows_are_unit_or_zero(self, catalogue: Catalogue, method: str) -> None:
        vectors = text_vectors(catalogue, method=method, dim=3)
        assert vectors.shape == (6, 3) and vectors.dtype == np.float32
        norms = np.linalg.norm(vectors, axis=1)
        np.testing.assert_allclose(norms[:4], 1.0, rtol=1e-5)
        assert norms[5] == 0.0, "nothing is known of the item without a title"

    def test_like_texts_are_near(self, catalogue: Catalogue, method: str) -> None:
        vectors = text_vectors(catalogue, method=method, dim=3)
        alike = vectors @ vectors.T
        assert alike[0, 1] > alike[0, 2] + 0.3
        assert alike[2, 3] > alike[1, 3] + 0.3

    def test_pads_beyond_the_rank(self, catalogue: Catalogue, method: str) -> None:
        vectors = text_vectors(catalogue, method=method, dim=300)
        assert vectors.shape == (6, 300)
        assert np.isfinite(vectors).all() and not vectors[:, 260:].any()


def test_subwords_make_forms_of_a_word_alike() -> None:
    vectors = hashed_vectors(["shampoo", "shampooing", "lipstick", "lipsticks"], 4)
    assert vectors[0] @ vectors[1] > 0.5 > 0.01 > abs(vectors[0] @ vectors[2])


def test_vectors_do_not_depend_on_the_process(catalogue: Catalogue, tmp_path: Path) -> None:
    here = content_vectors(catalogue, 8, method="hashed")
    program = (
        "import sys; from recsys_models.data.catalogue import Catalogue;"
        "from recsys_models.item_towers.text import content_vectors;"
        "from pathlib import Path; c = Catalogue.load(Path(sys.argv[1]));"
        "print(content_vectors(c, 8, method='hashed').tobytes().hex())"
    )
    file = tmp_path / "catalogue.json"
    catalogue.save(file)
    there = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here.tobytes().hex()


def test_a_document_says_everything_once() -> None:
    catalogue = Catalogue(
        ["a", "b", "c"],
        ["Heist (1995)", "Alibi", ""],
        ["Heist (1995). Genres: Crime.", "A story.", ""],
        {"genre": [["Crime"], ["Crime", "Rare"], []], "year": [["1995"], ["1995"], []]},
    )
    assert documents_of(catalogue) == ["Heist (1995). Genres: Crime.", "Alibi. Crime. A story.", ""]


def test_attributes_of_one_item_alone_do_not_count(catalogue: Catalogue) -> None:
    vectors = attribute_vectors(catalogue)
    assert vectors.shape == (6, 3), "brands Moro and OPI, sort all; every code belongs to one item"
    assert vectors[0] @ vectors[1] == pytest.approx(1.0)
    assert vectors[0, 1] > 0.9 > vectors[0, 2] > 0.0, "the rarer value weighs more"
    assert not vectors[5].any()


def test_content_weighs_text_and_attributes(catalogue: Catalogue) -> None:
    vectors = content_vectors(catalogue, 12, method="hashed")
    assert vectors.shape == (6, 12)
    np.testing.assert_allclose(np.linalg.norm(vectors[:5], axis=1), 1.0, rtol=1e-5)
    assert not vectors[5].any()
    only_text = Catalogue(catalogue.item_ids, catalogue.titles)
    np.testing.assert_array_equal(
        content_vectors(only_text, 12, method="hashed"), text_vectors(only_text, method="hashed", dim=12)
    )


def test_same_whether_cached_or_not_and_bad_caches_are_replaced(catalogue: Catalogue, tmp_path: Path) -> None:
    fresh = text_vectors(catalogue, method="hashed", dim=4)
    np.testing.assert_array_equal(text_vectors(catalogue, method="hashed", dim=4, cache=tmp_path), fresh)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    np.testing.assert_array_equal(text_vectors(catalogue, method="hashed", dim=4, cache=tmp_path), fresh)
    assert file.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [file], "no half file is left beside it"


def test_the_cache_is_read(catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = text_vectors(catalogue, method="hashed", dim=4, cache=tmp_path)
    monkeypatch.setattr("recsys_models.item_towers.text.hashed_vectors", None)
    np.testing.assert_array_equal(text_vectors(catalogue, method="hashed", dim=4, cache=tmp_path), first)
    other = Catalogue(catalogue.item_ids, TITLES[::-1])
    with pytest.raises(TypeError):
        text_vectors(other, method="hashed", dim=4, cache=tmp_path)


def test_nothing_known_gives_zeros() -> None:
    catalogue = Catalogue(["1", "2", "3"])
    assert not content_vectors(catalogue, 4).any()
    assert attribute_vectors(catalogue).shape == (3, 0)


def test_refuses_what_is_out_of_range(catalogue: Catalogue) -> None:
    with pytest.raises(DataError, match="unknown text method 'bert'"):
        text_vectors(catalogue, method="bert", dim=4)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="dim=0"):
        text_vectors(catalogue, dim=0)


def test_a_missing_extra_is_named(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys_models.item_towers.pretrained_text._folder", lambda: None)
    with pytest.raises(DataError, match=r"pip install 'fedtower\[text\]'"):
        text_vectors(catalogue, method="wordllama", dim=4)
    assert text_vectors(catalogue, method="auto", dim=4).shape == (6, 4)


def test_content_is_computed_once_a_process_and_nobody_changes_anothers(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = content_vectors(catalogue, 6)
    kept = first.copy()
    first[:] = 0.0
    monkeypatch.setattr(text, "_content_vectors", lambda *_: pytest.fail("computed again"))
    again = Catalogue(catalogue.item_ids, catalogue.titles, attributes=catalogue.attributes)
    np.testing.assert_array_equal(content_vectors(again, 6), kept)
    monkeypatch.undo()
    assert content_vectors(catalogue, 5).shape == (6, 5)
    other = Catalogue(catalogue.item_ids, TITLES[::-1], attributes=catalogue.attributes)
    assert not np.array_equal(content_vectors(other, 6), kept)
    for number in range(6):
        content_vectors(Catalogue(["a", "b"], [f"red {number}", "red"]), 3)
    assert len(text._computed) == text._REMEMBERED
