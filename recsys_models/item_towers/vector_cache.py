"""Precomputed item vectors on disk, in safetensors files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

_NAME = "vectors"


def read_vectors(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """The vectors in ``path``; None where there is no file or it does not hold finite vectors of this shape."""
    try:
        vectors = load_file(path).get(_NAME)
    except (OSError, SafetensorError):
        return None
    if vectors is None or vectors.shape != shape or vectors.dtype != np.float32:
        return None
    return vectors if bool(np.isfinite(vectors).all()) else None


def write_vectors(path: Path, vectors: NDArray[np.float32]) -> None:
    """Write beside ``path``, then rename, so that no reader, and no second writer, sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(save({_NAME: np.ascontiguousarray(vectors)}))
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
