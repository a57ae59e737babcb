from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys_models.data.adapters import load
from recsys_models.data.catalogue import Catalogue
from recsys_models.data.dataset import Dataset
from recsys_models.data.sequences import Sequences
from recsys_models.data.writers import write_csv
from recsys_models.errors import DataError


def dataset(times: np.ndarray | None, genre: str = "War") -> Dataset:
    catalogue = Catalogue(
        ["1", "2", "10"],
        ['Say "no", twice', "Zwei\nZeilen", "ten"],
        ["", "t", ""],
        {"genre": [[genre, "Drama"], [], ["War"]]},
    )
    items = np.array([2, 0, 1, 1, 0])
    return Dataset("toy", Sequences(["a,b", "c"], items, np.array([0, 3, 5]), catalogue, times), catalogue)


@pytest.mark.parametrize("times", [None, np.array([1e9, 1e9, 1e9 + 0.25, 1.5e9, 1.6e9])])
def test_what_is_written_is_read_back(tmp_path: Path, times: np.ndarray | None) -> None:
    written = dataset(times)
    log, catalogue = write_csv(written, tmp_path / "out")
    assert (log.name, catalogue.name) == ("log.csv", "catalogue.csv")
    read = load(tmp_path / "out")
    assert read.catalogue == written.catalogue
    assert read.split_checksum == written.split_checksum
    assert np.array_equal(read.sequences.items, written.sequences.items)
    if times is not None:
        assert read.sequences.timestamps is not None
        assert read.sequences.timestamps.tolist() == times.tolist()


def test_a_value_with_the_separator_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"item '1': attribute value 'War\|Peace' contains"):
        write_csv(dataset(None, "War|Peace"), tmp_path)
