"""An earlier run's published folder, read back: its arrays, its catalogue, and what they cost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from privacy.errors import InputError
from privacy.wire.federation import Arrays
from recsys_models.data.catalogue import Catalogue
from recsys_models.errors import DataError
from recsys_models.published_arrays import check_published_array
from recsys_models.retrieval.transitions import TRANSITION_ARRAYS, TransitionReadings
from server.report import read_report

ARRAYS_FILE = "item_tower.safetensors"
CATALOGUE_FILE = "catalogue.json"

# Of what was published, what another run builds on.
_READ = ("item_tower", "popularity", "head", *TRANSITION_ARRAYS)


@dataclass(frozen=True)
class PublishedRun:
    """What a run folder holds for whoever builds on it.

    Attributes:
        folder: where it lies.
        catalogue: the items its arrays are about; its hash is the one the arrays were saved with.
        arrays: as published; ``item_tower`` is always there.
        report: its ``report.json``; empty where only the published files were handed on.
    """

    folder: Path
    catalogue: Catalogue
    arrays: Arrays
    report: dict[str, Any]

    @property
    def ledger_path(self) -> Path:
        """The ledger the run was charged to: its population's, or the one in its folder."""
        asked = ((self.report.get("scenario") or {}).get("ledger") or {}).get("path")
        return (Path(asked) if asked else self.folder / "ledger.sqlite").resolve()


def read_published(folder: Path) -> PublishedRun:
    """Read a run folder's published files, trusting none of them.

    Raises:
        InputError: a file is missing, is of something else, or does not belong to the others; one line that names it.
    """
    path = folder / ARRAYS_FILE
    if not path.is_file():
        raise InputError(
            f"{folder} holds no {ARRAYS_FILE}: give the folder of a run that published its tower"
        )
    facts, arrays = _read_arrays(path)
    try:
        catalogue = Catalogue.load(folder / CATALOGUE_FILE, expected_sha256=facts.get("catalogue_sha256"))
    except DataError as error:
        raise InputError(f"{folder} is no usable release: {error}") from None
    _check(arrays, catalogue.n_items, path)
    report = read_report(folder) if (folder / "report.json").is_file() else {}
    return PublishedRun(folder, catalogue, arrays, report)


def _read_arrays(path: Path) -> tuple[dict[str, Any], Arrays]:
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads((file.metadata() or {}).get("fedtower", "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys() if name in _READ}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(f"{path} is no safetensors file of fedtower's: {error}") from None
    if not isinstance(facts, dict) or not isinstance(facts.get("catalogue_sha256"), str):
        raise InputError(f"{path} does not say which catalogue it is for: fedtower did not publish it")
    return facts, arrays


def _check(arrays: Arrays, n_items: int, path: Path) -> None:
    if "item_tower" not in arrays:
        raise InputError(f"{path} holds no item tower: its run was stopped before it had one")
    try:
        for name, array in arrays.items():
            check_published_array(name, array, n_items=n_items)
        TransitionReadings.from_arrays(arrays, n_items)
    except DataError as error:
        raise InputError(f"{path}: {error}") from None
