"""Text vectors from a static table of pretrained token vectors, the one in the wheel of ``wordllama`` (MIT licence).

The extra ``fedtower[text]`` installs it. Only its two files are read, the table with safetensors and the tokenizer with
``tokenizers``: the package's own loader asks the network first.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys_models.errors import DataError
from recsys_models.item_towers.hashed_text import unit_rows

_TABLE = "weights/l2_supercat_256.safetensors"
_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
_LONGEST_TEXT = 512


def wordllama_is_installed() -> bool:
    """Whether the table and a tokenizer are there."""
    return importlib.util.find_spec("tokenizers") is not None and _folder() is not None


def wordllama_vectors(documents: Sequence[str], dim: int) -> NDArray[np.float32]:
    """One vector per document: the mean of its token vectors weighted by idf, then its main directions.

    The common direction of all texts is dropped (Arora et al. 2017, algorithm 1), for it makes every pair alike.

    Args:
        documents: N texts; may be empty strings.
        dim: width of the vectors; at most 256 carry anything.

    Returns:
        ``[N, dim]``, rows of norm 1; zero for a text without tokens.

    Raises:
        DataError: if the extra is not installed.
    """
    folder = _folder()
    if folder is None or not wordllama_is_installed():
        raise DataError(
            "pretrained text vectors (wordllama) are not installed: pip install 'fedtower[text]', or use hashed n-grams "
            "(content = 'auto', --text hashed)"
        )
    from safetensors.numpy import load_file

    table = next(iter(load_file(folder / _TABLE).values())).astype(np.float32)
    # By name: the extra may be missing.
    tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(folder / _TOKENIZER))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_LONGEST_TEXT)
    encoded = tokenizer.encode_batch(list(documents), add_special_tokens=False)
    means = _weighted_means([np.array(one.ids, dtype=np.int64) for one in encoded], table)
    return _main_directions(means, dim)


def _folder() -> Path | None:
    spec = importlib.util.find_spec("wordllama")
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    return next((Path(place) for place in places if (Path(place) / _TABLE).is_file()), None)


def _weighted_means(tokens: Sequence[NDArray[np.int64]], table: NDArray[np.float32]) -> NDArray[np.float64]:
    """Unit rows ``[N, 256]``: token vectors by idf over these texts."""
    frequency = np.zeros(len(table))
    for ids in tokens:
        frequency[np.unique(ids)] += 1.0
    weights = np.log((1.0 + len(tokens)) / (1.0 + frequency)) + 1e-3
    means = np.zeros((len(tokens), table.shape[1]))
    for row, ids in enumerate(tokens):
        if ids.size:
            means[row] = weights[ids] @ table[ids]
    return unit_rows(means)


def _main_directions(means: NDArray[np.float64], dim: int) -> NDArray[np.float32]:
    filled = np.linalg.norm(means, axis=1) > 0
    centred = np.where(filled[:, None], means - means[filled].mean(axis=0) if filled.any() else means, 0.0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    strongest = vectors[:, np.argsort(-values)[:dim]]
    signs = np.sign(strongest[np.argmax(np.abs(strongest), axis=0), np.arange(strongest.shape[1])])
    projected = np.zeros((len(means), dim))
    projected[:, : strongest.shape[1]] = centred @ (strongest * np.where(signs == 0, 1.0, signs))
    return unit_rows(projected).astype(np.float32)
