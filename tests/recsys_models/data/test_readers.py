from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_models.data.readers import read_catalogue, read_log
from recsys_models.data.schema import LogColumns
from recsys_models.errors import DataError

HEADER = "user_id,item_id,timestamp\n"
GOOD = HEADER + "u1,i1,100\nu2,i2,200.5\n"


def write(tmp_path: Path, text: str, name: str = "log.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, **options: object) -> str:
    """The one line that reading ``path`` fails with."""
    with pytest.raises(DataError) as caught:
        read_log(path, **options)  # pyright: ignore[reportArgumentType]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_csv_tsv_json_lines_and_parquet_give_the_same_frame(tmp_path: Path) -> None:
    rows = [
        {"user_id": "u1", "item_id": "7", "timestamp": 100.0, "event": "buy", "value": 2.5},
        {"user_id": "u2", "item_id": "8", "timestamp": 200.5, "event": None, "value": None},
    ]
    table = pl.DataFrame(rows)
    table.write_csv(tmp_path / "log.csv")
    table.write_csv(tmp_path / "log.tsv", separator="\t")
    table.write_parquet(tmp_path / "log.parquet")
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    expected = table.with_columns(pl.Series("row", [1, 2]))
    for name in ("log.csv", "log.tsv", "log.parquet", "log.jsonl"):
        assert read_log(tmp_path / name).equals(expected), name


def test_ids_are_text_whatever_type_the_file_gives_them(tmp_path: Path) -> None:
    table = pl.DataFrame({"user_id": [1, 2], "item_id": [10.0, 11.0], "timestamp": [1, 2]})
    table.write_parquet(tmp_path / "a.parquet")
    assert read_log(tmp_path / "a.parquet").get_column("item_id").to_list() == ["10", "11"]
    path = write(tmp_path, HEADER + " 007 ,i1,1\nu2, ,2\n,i1,3\n")
    log = read_log(path)
    assert log.get_column("user_id").to_list() == ["007", "u2", None]
    assert log.get_column("item_id").to_list() == ["i1", None, "i1"]
    lines = (
        '{"user_id": 7, "item_id": "a", "timestamp": 1}\n{"user_id": "8", "item_id": 3.0, "timestamp": "2"}\n'
    )
    log = read_log(write(tmp_path, lines, "mixed.jsonl"))
    assert log.rows() == [("7", "a", 1.0, 1), ("8", "3", 2.0, 2)]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("0", 0.0),
        ("1700000000", 1.7e9),
        ("1700000000.25", 1700000000.25),
        ("-5", -5.0),
        ("2023-11-14T22:13:20", 1.7e9),
        ("2023-11-14 22:13:20", 1.7e9),
        ("2023-11-14T22:13:20Z", 1.7e9),
        ("2023-11-14T23:13:20+01:00", 1.7e9),
        ("2023-11-14T22:13:20.500", 1.7e9 + 0.5),
        ("2023-11-14", 1699920000.0),
        ("", None),
    ],
)
def test_timestamps_as_people_write_them(tmp_path: Path, written: str, seconds: float | None) -> None:
    log = read_log(write(tmp_path, HEADER + f"u1,i1,{written}\nu2,i2,5\n"))
    assert log.get_column("timestamp").to_list() == [seconds, 5.0]


@given(st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.timezones()))
def test_every_iso_time_is_read_as_the_moment_it_means(moment: datetime) -> None:
    from recsys_models.data.readers import _unix_seconds

    read = _unix_seconds("log.csv", pl.Series("timestamp", [moment.isoformat()]))
    assert read[0] == pytest.approx(moment.timestamp(), abs=1e-5)


def test_times_typed_in_parquet(tmp_path: Path) -> None:
    moments = pl.Series("timestamp", [datetime(1970, 1, 2), datetime(1970, 1, 1, 0, 0, 1)])
    table = pl.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "y"], "timestamp": moments})
    table.write_parquet(tmp_path / "a.parquet")
    assert read_log(tmp_path / "a.parquet").get_column("timestamp").to_list() == [86400.0, 1.0]


@pytest.mark.parametrize("written", ["yesterday", "2023-13-01", "nan", "inf", "1e20", "1700000000000"])
def test_an_unreadable_timestamp_names_row_and_value(tmp_path: Path, written: str) -> None:
    message = refusal(write(tmp_path, HEADER + f"u1,i1,1\nu2,i2,{written}\n"))
    assert message == (
        f"log.csv, row 2: column 'timestamp' has {written!r}: "
        "write Unix seconds (not milliseconds) or ISO 8601, or leave it empty"
    )


def test_nan_in_a_column_of_numbers_is_missing_and_milliseconds_are_refused(tmp_path: Path) -> None:
    table = pl.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "y"], "timestamp": [float("nan"), 5.5]})
    table.write_parquet(tmp_path / "a.parquet")
    assert read_log(tmp_path / "a.parquet").get_column("timestamp").to_list() == [None, 5.5]
    table.with_columns(timestamp=pl.Series([1, 1_700_000_000_000])).write_parquet(tmp_path / "a.parquet")
    assert "row 2: column 'timestamp' has 1700000000000" in refusal(tmp_path / "a.parquet")


def test_a_byte_order_mark_does_not_hide_the_first_column(tmp_path: Path) -> None:
    assert read_log(write(tmp_path, "\ufeff" + GOOD)).height == 2


def test_ids_that_are_lists_are_refused(tmp_path: Path) -> None:
    table = pl.DataFrame({"user_id": ["a"], "item_id": [["x", "y"]], "timestamp": [1]})
    table.write_parquet(tmp_path / "a.parquet")
    assert "column 'item_id' holds List(String)" in refusal(tmp_path / "a.parquet")


def test_several_unreadable_timestamps_are_counted(tmp_path: Path) -> None:
    assert "row 1 and 1 more rows" in refusal(write(tmp_path, HEADER + "u1,i1,x\nu2,i2,1\nu3,i3,y\n"))


def test_an_unreadable_value(tmp_path: Path) -> None:
    text = "user_id,item_id,timestamp,value\nu1,i1,1,3\nu2,i2,2,many\n"
    assert "row 2: column 'value' has 'many'" in refusal(write(tmp_path, text))


def test_a_missing_column_is_named_with_those_found_and_the_cure(tmp_path: Path) -> None:
    assert refusal(write(tmp_path, "user_id,item_id,when\nu,i,1\n")) == (
        "log.csv has no column 'timestamp' (found: user_id, item_id, when): "
        "rename it or pass --timestamp-column"
    )


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    path = write(tmp_path, "who,what,when,stars\nu1,i1,1,5\nu2,i2,2,4\n")
    log = read_log(path, LogColumns("who", "what", "when", value="stars"))
    assert log.columns == ["user_id", "item_id", "timestamp", "value", "row"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.csv", "", "log.csv is empty"),
        ("log.csv", HEADER, "log.csv has no rows of data"),
        ("log.csv", HEADER + "u1,i1,1\nu1,i2,2\n", "log.csv has one user ('u1'), at least 2 are needed"),
        ("log.csv", HEADER + "u1,i1,1,9,9\nu2,i2,2\n", "log.csv is not a readable csv file"),
        ("log.xlsx", GOOD, "unknown file type '.xlsx': use one of .csv, .tsv, .parquet, .jsonl, .ndjson"),
        ("log.parquet", GOOD, "log.parquet is not a readable parquet file"),
        ("log.jsonl", '{"user_id": 1}\n{\n', "log.jsonl, line 2: not JSON"),
        ("log.jsonl", "[1, 2]\n", "is no object: write one object a line"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    assert message in refusal(write(tmp_path, text, name))


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "there is no file" in refusal(tmp_path / "none.csv")
    assert "is a folder, not a file" in refusal(tmp_path)


def test_a_client_with_one_user_may_say_so(tmp_path: Path) -> None:
    assert read_log(write(tmp_path, HEADER + "u1,i1,1\n"), minimum_users=1).height == 1


def test_a_catalogue_reads_the_same_from_csv_and_json_lines(tmp_path: Path) -> None:
    csv = 'item_id,title,text,genre,year\n2,"Two, again",t,War|Drama,1999\n10,,,,\n'
    lines = [
        {
            "item_id": 2,
            "title": "Two, again",
            "text": "t",
            "attributes": {"genre": ["War", "Drama"], "year": 1999},
        },
        {"item_id": "10", "attributes": {}},
    ]
    from_csv = read_catalogue(write(tmp_path, csv, "a.csv"))
    from_lines = read_catalogue(write(tmp_path, "\n".join(json.dumps(line) for line in lines), "a.jsonl"))
    assert from_csv == from_lines
    assert from_csv.titles == ["Two, again", "10"]
    assert from_csv.attributes == {"genre": [["War", "Drama"], []], "year": [["1999"], []]}
    pl.DataFrame({"item_id": [2], "genre": [["War", "Drama"]]}).write_parquet(tmp_path / "a.parquet")
    assert read_catalogue(tmp_path / "a.parquet").attributes == {"genre": [["War", "Drama"]]}
    from_csv.save(tmp_path / "a.json")
    assert read_catalogue(tmp_path / "a.json") == from_csv


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,title\n1,a\n", "no column 'item_id' (found: id, title)"),
        ("item_id,title\n", "has no items"),
        ("item_id,title\n1,a\n,b\n", "c.csv, row 2: no item_id"),
        ("item_id\n1\n1\n", "c.csv: catalogue: item '1' appears twice"),
        ("item_id,attributes\n1,War\n", "row 1: column 'attributes' is not a JSON object"),
    ],
)
def test_unusable_catalogues(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_catalogue(write(tmp_path, text, "c.csv"))
    assert message in str(caught.value)
