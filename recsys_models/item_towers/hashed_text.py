"""Text vectors without a pretrained model: hashed word and character n-grams, tf-idf, a truncated SVD.

Latent semantic analysis (Deerwester et al. 1990) of features that need no vocabulary: words, pairs of neighbouring words
and the character n-grams of each word (Bojanowski et al. 2017, section 3.2), hashed into buckets (Weinberger et al. 2009).
Everything is a function of the public texts alone; the random start of the SVD is a constant.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
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

_Features = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Buckets and a weight for each."""


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
    known: dict[str, _Features] = {}
    found = [_weights(document, known) for document in documents]
    row = np.repeat(np.arange(len(found)), [len(buckets) for buckets, _ in found])
    bucket = np.concatenate([np.zeros(0, np.int64), *(buckets for buckets, _ in found)])
    value = np.concatenate([np.zeros(0), *(values for _, values in found)])
    _, column, frequency = np.unique(bucket, return_inverse=True, return_counts=True)
    value = value * np.log(len(documents) / frequency)[column]
    kept = (frequency >= 2)[column] & (value > 0)
    names, column = np.unique(column[kept], return_inverse=True)
    row, value = row[kept], value[kept]
    norm = np.sqrt(np.bincount(row, weights=value**2, minlength=len(documents)))
    value = value / norm[row]
    at = torch.from_numpy(np.stack([row, column]))
    shape = (len(documents), len(names))
    return torch.sparse_coo_tensor(at, torch.from_numpy(value), shape, check_invariants=True).coalesce()


def _weights(document: str, known: dict[str, _Features]) -> _Features:
    """Each bucket once, in the order of the text, with (1 + log count) * weight of the kind of feature.

    Args:
        document: one text.
        known: features of words met before; added to.
    """
    words = words_of(document)
    for word in words:
        if word not in known:
            known[word] = _features_of_word(word)
    pairs = np.array([_bucket(f"{first} {second}") for first, second in pairwise(words)], dtype=np.int64)
    parts = [*(known[word] for word in words), (pairs, np.ones(len(pairs)))]
    buckets, first, place, count = np.unique(
        np.concatenate([part for part, _ in parts]),
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    kind = np.zeros(len(buckets))
    # Where features of two kinds share a bucket, the last one decides.
    kind[place] = np.concatenate([part for _, part in parts])
    in_text = np.argsort(first)
    return buckets[in_text], (kind * (1.0 + np.log(count)))[in_text]


def _features_of_word(word: str) -> _Features:
    marked = f"<{word}>"
    parts = [f"#{marked[start : start + _SUBWORD]}" for start in range(len(marked) - _SUBWORD + 1)]
    buckets = np.array([_bucket(word), *(_bucket(part) for part in parts)], dtype=np.int64)
    return buckets, np.array([1.0] + [_SUBWORD_WEIGHT] * len(parts))


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
    # Of basis^T matrix only its left singular vectors are needed, which are those of the triangle alone.
    _, triangle = torch.linalg.qr(across @ basis, mode="r")
    rotation, values, _ = torch.linalg.svd(triangle.T, full_matrices=False)
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
