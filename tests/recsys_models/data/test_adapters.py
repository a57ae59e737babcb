from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys_models.data.adapters import load
from recsys_models.data.catalogue import Catalogue
from recsys_models.data.cleaning import CleaningRules
from recsys_models.errors import DataError
from tests.recsys_models.data.real_data import real_data

RATINGS = [  # user, item, rating, seconds after some day in 1997
    ("1", "20", "5", 200),
    ("2", "3", "4", 100),
    ("1", "3", "3", 100),
    ("1", "100", "1", 200),
    ("2", "20", "1", 90),
    ("2", "100", "1", 95),
]
U_ITEM = "".join(
    f"{item}|{title}|01-Jan-1995||http://x|{'|'.join(flags)}\n"
    for item, title, flags in [
        ("3", "Léon (1994)", "0100000000000000000"),
        ("20", "Angels, The", "0000000010000000001"),
        ("100", "Fargo (1996)", "0" * 19),
    ]
)
ITEMS_BY_TIME = {"1": ["3", "20", "100"], "2": ["20", "100", "3"]}


def ratings(separator: str) -> str:
    return "".join(separator.join([*row[:3], str(881_250_000 + row[3])]) + "\n" for row in RATINGS)


def items_by_user(path: Path, **options: object) -> dict[str, list[str]]:
    sequences = load(path, **options).sequences  # pyright: ignore[reportArgumentType]
    ids = np.array(sequences.catalogue.item_ids)
    return {user: ids[sequences.of(index)].tolist() for index, user in enumerate(sequences.user_ids)}


def movielens_100k(folder: Path) -> Path:
    (folder / "u.data").write_text(ratings("\t"))
    (folder / "u.item").write_text(U_ITEM, encoding="iso-8859-1")
    (folder / "u.user").write_text("1|24|M|technician|85711\n2|53|F|other|94043\n")
    return folder


def movielens_1m(folder: Path) -> Path:
    (folder / "ratings.dat").write_text(ratings("::"))
    films = (
        "3::Léon (1994)::Action\n20::Angels, The::Drama|Western\n100::Fargo (1996)::\n9::Unseen (1990)::War\n"
    )
    (folder / "movies.dat").write_text(films, encoding="iso-8859-1")
    (folder / "users.dat").write_text("1::M::25::10::48067\n2::F::56::16::70072\n")
    return folder


def recbole(folder: Path) -> Path:
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "toy.inter").write_text(header + ratings("\t"))
    (folder / "toy.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "3\tLéon\t1994\tAction\n20\tAngels, The\t\tDrama Western\n100\tFargo\t1996\t\n",
        encoding="utf-8",
    )
    (folder / "toy.user").write_text("user_id:token\tage:token\n1\t24\n2\t53\n")
    return folder


@pytest.mark.parametrize("write", [movielens_100k, movielens_1m, recbole])
def test_the_same_ratings_in_three_formats(write, tmp_path: Path) -> None:
    dataset = load(write(tmp_path))
    assert items_by_user(tmp_path) == ITEMS_BY_TIME, "ties of user 1 at time 200 are in file order"
    assert dataset.catalogue.item_ids == ["3", "20", "100"]
    assert dataset.catalogue.titles == ["Léon (1994)", "Angels, The", "Fargo (1996)"]
    assert dataset.catalogue.attributes["genre"] == [["Action"], ["Drama", "Western"], []]
    assert dataset.catalogue.attributes["year"] == [["1994"], [], ["1996"]]
    assert dataset.catalogue.texts[1] == "Angels, The. Genres: Drama, Western."
    assert dataset.user_attributes is not None
    assert len(dataset.user_attributes["age"]) == 2
    assert dataset.name == tmp_path.name
    assert (dataset.cleaning.rows_in, dataset.cleaning.dropped) == (6, 0)


def test_a_file_is_read_like_its_folder(tmp_path: Path) -> None:
    movielens_100k(tmp_path)
    assert items_by_user(tmp_path / "u.data") == ITEMS_BY_TIME


def test_one_user_a_line_with_titles_and_attributes(tmp_path: Path) -> None:
    (tmp_path / "Toys.txt").write_text("1 3 20 100\n2 20 100 3 3\n")
    (tmp_path / "titles.tsv").write_text("3\tB003\tDoll, red\n20\tB020\t\n")
    (tmp_path / "Toys_item2attributes.json").write_text('{"3": [1, 2], "100": [2]}')
    (tmp_path / "README.txt").write_text("not data")
    dataset = load(tmp_path)
    assert items_by_user(tmp_path) == {"1": ["3", "20", "100"], "2": ["20", "100", "3", "3"]}
    assert dataset.catalogue.titles == ["Doll, red", "20", "100"]
    assert dataset.catalogue.attributes == {
        "asin": [["B003"], ["B020"], []],
        "category": [["1", "2"], [], ["2"]],
    }
    assert dataset.sequences.timestamps is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n3\n", "row 2: user '3' has no items"),
        ("1 2\n1 3\n", "row 2: user '1' has a second line"),
        ("\n", "no rows"),
    ],
)
def test_unusable_sequence_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "a.txt")


def own_format(folder: Path) -> Path:
    (folder / "log.csv").write_text("user_id,item_id,value,timestamp\n" + ratings(","))
    return folder


def test_own_format_with_and_without_a_catalogue(tmp_path: Path) -> None:
    own_format(tmp_path)
    assert load(tmp_path).catalogue.titles == ["3", "20", "100"]
    (tmp_path / "catalogue.csv").write_text("item_id,title\n3,a\n20,b\n100,c\n7,d\n")
    assert load(tmp_path).catalogue.item_ids == ["3", "7", "20", "100"], "unseen items stay"
    (tmp_path / "catalogue.csv").write_text("item_id,title\n3,a\n20,b\n")
    with pytest.raises(
        DataError, match=r"item '100' is not in the catalogue of 2 items \(2 events, 1 unknown"
    ):
        load(tmp_path)
    dataset = load(tmp_path, unknown_items="drop")
    assert dataset.cleaning.step("unknown-items").dropped == 2
    assert load(tmp_path, catalogue=Catalogue(["3", "20", "100"])).sequences.n_events == 6


def test_cleaning_that_leaves_nothing_says_which_rule_it_was(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cleaning left no events; rule 'too-early' dropped 6 of 6"):
        load(own_format(tmp_path), rules=CleaningRules(earliest=1e9))


def test_one_user_left_is_refused_unless_it_is_meant(tmp_path: Path) -> None:
    own_format(tmp_path)
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,i,1e9\n")
    with pytest.raises(DataError, match=r"has one user \('u'\), at least 2 are needed"):
        load(tmp_path)
    assert load(tmp_path, minimum_users=1).sequences.n_users == 1


def test_a_folder_without_data_and_one_with_two_candidates(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no data set \(found: nothing\)"):
        load(tmp_path)
    (tmp_path / "a.txt").write_text("1 2\n")
    (tmp_path / "b.txt").write_text("1 2\n")
    with pytest.raises(DataError, match=r"several \*.txt files \(a.txt, b.txt\): name the one"):
        load(tmp_path)
    with pytest.raises(DataError, match="there is no file or folder"):
        load(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\t2\t3\n", "u.data, row 1: 3 fields"),
        ("1\t2\t3\tx\n", "u.data, row 1: timestamp 'x'"),
        ("", "no rows of data"),
    ],
)
def test_a_damaged_native_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "u.data").write_text(text)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "users", "items", "events", "checksum"),
    [
        ("ml-100k", 943, 1682, 100_000, "4b377495fdf7"),
        ("ml-1m", 6040, 3416, 999_611, "12025c70426e"),
        ("amazon-beauty", 22_363, 12_101, 198_502, "364bcd9b1fa9"),
    ],
)
def test_real_data_has_the_published_counts(
    name: str, users: int, items: int, events: int, checksum: str
) -> None:
    dataset = load(real_data(name))
    counts = (dataset.sequences.n_users, dataset.catalogue.n_items, dataset.sequences.n_events)
    assert counts == (users, items, events)
    assert dataset.cleaning.dropped == 0
    assert dataset.split_checksum.startswith(checksum), (
        "the split every published figure of ours was measured on"
    )


def test_movielens_100k_has_titles_genres_users_and_the_known_ties() -> None:
    dataset = load(real_data("ml-100k"))
    assert dataset.catalogue.titles[0] == "Toy Story (1995)"
    assert dataset.catalogue.attributes["genre"][0] == ["Animation", "Children's", "Comedy"]
    assert dataset.user_attributes is not None
    assert dataset.user_attributes["occupation"][0] == "technician"
    sequences = dataset.sequences
    assert sequences.timestamps is not None
    ends = sequences.offsets[1:]
    tied = sequences.timestamps[ends - 1] == sequences.timestamps[ends - 2]
    assert int(tied.sum()) == 415
