from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_models.data.catalogue import Catalogue, natural_order
from recsys_models.errors import DataError

IDS = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=20, unique=True)


def small() -> Catalogue:
    return Catalogue(
        ["10", "2", "1"], ["Ten", "", "One"], ["t10", "", "t1"], {"genre": [["War", "Drama"], [], ["War"]]}
    )


def test_numeric_ids_are_ordered_as_numbers_and_all_fields_move_together() -> None:
    catalogue = small()
    assert catalogue.item_ids == ["1", "2", "10"]
    assert catalogue.titles == ["One", "2", "Ten"], "the id stands in for a missing title"
    assert catalogue.texts == ["t1", "", "t10"]
    assert catalogue.attributes == {"genre": [["War"], [], ["War", "Drama"]]}


def test_one_id_that_is_no_number_makes_the_order_textual() -> None:
    assert Catalogue(["10", "2", "b"]).item_ids == ["10", "2", "b"]


def test_superscripts_and_other_digits_are_text() -> None:
    assert [["²", "1"][k] for k in natural_order(["²", "1"])] == ["1", "²"]


@given(IDS, st.randoms())
def test_order_and_hash_do_not_depend_on_the_order_of_the_input(ids: list[str], random) -> None:
    shuffled = random.sample(ids, len(ids))
    assert Catalogue(ids).item_ids == Catalogue(shuffled).item_ids
    assert Catalogue(ids).sha256 == Catalogue(shuffled).sha256


@given(IDS)
def test_index_of_inverts_item_ids(ids: list[str]) -> None:
    catalogue = Catalogue(ids)
    assert [catalogue.index_of(item) for item in catalogue.item_ids] == list(range(len(ids)))
    assert catalogue.indices_of(ids).tolist() == [catalogue.item_ids.index(item) for item in ids]


@pytest.mark.parametrize(
    "other",
    [
        Catalogue(["1", "2"], ["a", "c"]),
        Catalogue(["1", "3"], ["a", "b"]),
        Catalogue(["1", "2"], ["a", "b"], ["", "x"]),
        Catalogue(["1", "2"], ["a", "b"], attributes={"genre": [[], []]}),
    ],
)
def test_any_difference_in_content_changes_the_hash(other: Catalogue) -> None:
    assert other.sha256 != Catalogue(["1", "2"], ["a", "b"]).sha256


def test_the_hash_of_this_content_never_changes() -> None:
    # Written down when the format was fixed: a deployment compares hashes across versions of this code.
    assert small().canonical_bytes() == (
        b'{"attributes":{"genre":[["War"],[],["War","Drama"]]},"format":"fedtower-catalogue",'
        b'"item_ids":["1","2","10"],"texts":["t1","","t10"],"titles":["One","2","Ten"],"version":1}\n'
    )
    assert small().sha256 == "749a4888570402afc6e98a3e356acb0ba30b395109a2ca60edaf8bc683b3b6fa"


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "catalogue.json"
    small().save(path)
    assert Catalogue.load(path, expected_sha256=small().sha256) == small()
    assert [one.name for one in path.parent.iterdir()] == ["catalogue.json"], "no temporary file is left"


def test_unknown_items_are_named_and_counted() -> None:
    with pytest.raises(DataError, match="item '7' is not in the catalogue"):
        small().index_of("7")
    with pytest.raises(DataError, match=r"item '8' .* of 3 items \(3 events, 2 unknown items\)"):
        small().indices_of(["1", "8", "9", "8"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", "b", "a"],), "item 'a' appears twice"),
        ((["a", ""],), "item 2 of 2 has no id"),
        ((["a", "b"], ["only one"]), "titles has 1 entries for 2 items"),
        ((["a"], [], [], {"genre": [[], []]}), "attribute 'genre' has 2 entries for 1 items"),
    ],
)
def test_unusable_content_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Catalogue(*arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not an object"),
        ("{", "is not JSON"),
        ('{"format": "other"}', "no fedtower-catalogue file"),
        ("VERSION", "version 2"),
        ("TITLES", "'titles' is not a list of strings"),
        ("GENRE", "attribute 'genre' is no list"),
    ],
)
def test_unusable_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    good = json.loads(small().canonical_bytes())
    changed = {
        "VERSION": {"version": 2},
        "TITLES": {"titles": [1, 2, 3]},
        "GENRE": {"attributes": {"genre": ["x"]}},
    }
    path = tmp_path / "catalogue.json"
    path.write_text(json.dumps(good | changed[content]) if content in changed else content)
    with pytest.raises(DataError, match=message):
        Catalogue.load(path)


def test_another_hash_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    small().save(tmp_path / "catalogue.json")
    with pytest.raises(DataError, match="fetch the catalogue this deployment uses"):
        Catalogue.load(tmp_path / "catalogue.json", expected_sha256="00")
    with pytest.raises(DataError, match="there is no file"):
        Catalogue.load(tmp_path / "none.json")


def test_restricted_to_keeps_what_is_known() -> None:
    smaller = small().restricted_to(["10", "1"])
    assert (smaller.item_ids, smaller.titles) == (["1", "10"], ["One", "Ten"])
    assert smaller.attributes == {"genre": [["War"], ["War", "Drama"]]}
