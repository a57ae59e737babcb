"""Writing a data set as the two tables that ``adapters.load`` reads back."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from recsys_models.data.dataset import Dataset
from recsys_models.data.schema import ITEM, TEXT, TIMESTAMP, TITLE, USER
from recsys_models.errors import DataError

_VALUE_SEPARATOR = "|"


def write_csv(dataset: Dataset, folder: Path) -> tuple[Path, Path]:
    """Write ``log.csv`` and ``catalogue.csv`` into ``folder``, which is made if need be.

    The log is in order of user, then time. Timestamps are whole seconds where they are whole; a data set
    without times gets positions counted from 1990, which keeps the order.

    Returns:
        The paths of the log and the catalogue. ``load(folder)`` gives equal sequences and an equal catalogue.

    Raises:
        DataError: if an attribute value contains ``|``, which separates values in a cell.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log, catalogue = folder / "log.csv", folder / "catalogue.csv"
    sequences = dataset.sequences
    times = sequences.timestamps
    if times is None:
        times = 631_152_000.0 + np.arange(sequences.n_events)
    with log.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([USER, ITEM, TIMESTAMP])
        item_ids = dataset.catalogue.item_ids
        for user, item, time in zip(sequences.user_of_event(), sequences.items, times, strict=True):
            rows.writerow(
                [
                    sequences.user_ids[user],
                    item_ids[item],
                    f"{time:.0f}" if time == int(time) else repr(float(time)),
                ]
            )
    _write_catalogue(dataset, catalogue)
    return log, catalogue


def _write_catalogue(dataset: Dataset, path: Path) -> None:
    items = dataset.catalogue
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([ITEM, TITLE, TEXT, *items.attributes])
        for index, item in enumerate(items.item_ids):
            cells = [_cell(item, column[index]) for column in items.attributes.values()]
            rows.writerow([item, items.titles[index], items.texts[index], *cells])


def _cell(item: str, values: list[str]) -> str:
    for value in values:
        if _VALUE_SEPARATOR in value:
            raise DataError(
                f"item '{item}': attribute value {value!r} contains '{_VALUE_SEPARATOR}': "
                "save the catalogue as JSON"
            )
    return _VALUE_SEPARATOR.join(values)
