"""Where the real data sets lie that some tests need, and the skip when they do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[3]


def real_data(name: str) -> Path:
    """The folder of a real data set; skips the calling test if it is absent."""
    folder = Path(os.environ.get("FEDTOWER_DATA", _ROOT / "../shared/data")) / name
    if not folder.is_dir():
        pytest.skip(f"no data set at {folder}: set FEDTOWER_DATA to the folder that holds {name}")
    return folder
