"""Text vectors without a pretrained model: hashed word and character n-grams, tf-idf, a truncated SVD.

Latent semantic analysis (Deerwester et al. 1990) of features that need no vocabulary: words, pairs of neighbouring words
and the character n-grams of each word (Bojanowski et al. 2017, section 3.2), hashed into buckets (Weinberger et al. 2009).
Everything is a function of the public texts alone; the random start of the SVD is a constant.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

_WORD = re.compile(r"[^\W_]+")
_BUCKETS = 1 << 20
_SUBWORD = 4
_SUBWORD_WEIGHT = 0.3
_OVERSAMPLING = 16
_POWER_STEPS = 1
_START = 20230911


def words_of(text: str) -> list[str]:
    """Lower-case runs of letters and digits, of any script."""
    return _WORD.findall(text.casefold())


def hashed_vectors(documents: Sequence[str], dim: int) -> NDArray[np.float32]:
    """One vector per document.

    Args:
        documents: N texts; may be empty strings.
        dim: width of the vectors.

    Returns:
        ``[N, dim]``, rows of norm 1; zero for a document that shares no feature with any other, columns of zeros beyond
        the rank of the texts.
    """
    features = tf_idf(documents)
    left, strength = truncated_svd(features, dim)
    # The square root lets rarer themes count too; it ranks neighbours better than the values themselves, which a few broad
    # themes dominate (Levy, Goldberg and Dagan 2015, section 3.3, eigenvalue weighting).
    return unit_rows(left * np.sqrt(strength)).astype(np.float32)


def tf_idf(documents: Sequence[str]) -> torch.Tensor:
    """Sparse ``[N, F]`` float64 with unit rows, over the features at least two documents share.

    A feature of one document alone says nothing about likeness, and its idf would be the largest of all.
    """
    known: dict[str, list[tuple[int, float]]] = {}
    rows: list[int] = []
    buckets: list[int] = []
    values: list[float] = []
    for row, document in enumerate(documents):
        for bucket, value in _weights(document, known).items():
            rows.append(row)
            buckets.append(bucket)
            values.append(value)
    row, value = np.array(rows, dtype=np.int64), np.array(values)
    _, column, frequency = np.unique(
        np.array(buckets, dtype=np.int64), return_inverse=True, return_counts=True
    )
    value = value * np.log(len(documents) / frequency)[column]
    kept = (frequency >= 2)[column] & (value > 0)
    names, column = np.unique(column[kept], return_inverse=True)
    row, value = row[kept], value[kept]
    norm = np.sqrt(np.bincount(row, weights=value**2, minlength=len(documents)))
    value = value / norm[row]
    at = torch.from_numpy(np.stack([row, column]))
    shape = (len(documents), len(names))
    return torch.sparse_coo_tensor(at, torch.from_numpy(value), shape, check_invariants=True).coalesce()


def _weights(document: str, known: dict[str, list[tuple[int, float]]]) -> dict[int, float]:
    """Bucket -> (1 + log count) * weight of the kind of feature."""
    words = words_of(document)
    counts: Counter[int] = Counter()
    kind: dict[int, float] = {}
    for word in words:
        if word not in known:
            known[word] = list(_features_of_word(word))
        for bucket, weight in known[word]:
            counts[bucket] += 1
            kind[bucket] = weight
    for first, second in pairwise(words):
        bucket = _bucket(f"{first} {second}")
        counts[bucket] += 1
        kind[bucket] = 1.0
    return {bucket: kind[bucket] * (1.0 + np.log(count)) for bucket, count in counts.items()}


def _features_of_word(word: str) -> Iterator[tuple[int, float]]:
    yield _bucket(word), 1.0
    marked = f"<{word}>"
    for start in range(len(marked) - _SUBWORD + 1):
        yield _bucket(f"#{marked[start : start + _SUBWORD]}"), _SUBWORD_WEIGHT


def _bucket(feature: str) -> int:
    # Python's own hash changes from process to process.
    return zlib.crc32(feature.encode()) % _BUCKETS


def truncated_svd(matrix: torch.Tensor, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Left singular vectors and singular values, by subspace iteration (Halko et al. 2011, algorithms 4.4 and 5.1).

    Args:
        matrix: sparse or dense ``[N, F]`` float64.
        rank: how many are wanted.

    Returns:
        ``[N, rank]`` and ``[rank]``; zeros beyond the rank of the matrix. Signs are fixed, so that the same matrix gives
        the same vectors.
    """
    n_rows, n_columns = matrix.shape
    left, strength = np.zeros((n_rows, rank)), np.zeros(rank)
    width = min(rank + _OVERSAMPLING, n_rows, n_columns)
    if width == 0:
        return left, strength
    along, across = matrix, matrix.t()
    if matrix.is_sparse:
        # Products go by rows, so the transpose is sorted by rows of its own.
        across = across.coalesce()
    start = np.random.default_rng(_START).normal(size=(n_columns, width))
    basis, _ = torch.linalg.qr(along @ torch.from_numpy(start))
    for _ in range(_POWER_STEPS):
        inner, _ = torch.linalg.qr(across @ basis)
        basis, _ = torch.linalg.qr(along @ inner)
    small = (across @ basis).T
    rotation, values, _ = torch.linalg.svd(small, full_matrices=False)
    kept = min(rank, width)
    vectors = (basis @ rotation[:, :kept]).numpy()
    signs = np.sign(vectors[np.argmax(np.abs(vectors), axis=0), np.arange(kept)])
    known = values[:kept].numpy() > 1e-9 * max(float(values[0]), 1e-300)
    left[:, :kept] = vectors * np.where(signs == 0, 1.0, signs) * known
    strength[:kept] = values[:kept].numpy() * known
    return left, strength


def unit_rows(matrix: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rows of norm 1; rows that are (nearly) zero become zero."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.where(norms > 1e-9, matrix / np.maximum(norms, 1e-9), 0.0).astype(np.float64)
