"""The parts of hashed text vectors against plain computations of the same."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from recsys_models.item_towers.hashed_text import tf_idf, truncated_svd, words_of

DOCUMENTS = ["red nail polish", "Red, red shampoo", "", "argan shampoo for a red nail", "nowhere else"]


def plain_weights(document: str) -> dict[str, float]:
    words = words_of(document)
    counts: Counter[str] = Counter()
    kind: dict[str, float] = {}
    for word in words:
        marked = f"<{word}>"
        parts = [f"#{marked[k : k + 4]}" for k in range(len(marked) - 3)]
        counts.update([word, *parts])
        kind |= {word: 1.0} | dict.fromkeys(parts, 0.3)
    pairs = [f"{first} {second}" for first, second in pairwise(words)]
    counts.update(pairs)
    kind |= dict.fromkeys(pairs, 1.0)
    return {name: kind[name] * (1.0 + math.log(count)) for name, count in counts.items()}


def test_features_are_counted_weighted_and_kept_where_two_documents_share_them() -> None:
    plain = [plain_weights(document) for document in DOCUMENTS]
    frequency = Counter(name for row in plain for name in row)
    shared = [
        {name: value * math.log(5 / frequency[name]) for name, value in row.items() if frequency[name] >= 2}
        for row in plain
    ]
    matrix = tf_idf(DOCUMENTS).to_dense().numpy()
    assert matrix.shape == (5, sum(1 for count in frequency.values() if count >= 2))
    assert not matrix[[2, 4]].any()
    for row, values in zip(matrix, shared, strict=True):
        norm = math.sqrt(sum(value**2 for value in values.values()))
        np.testing.assert_allclose(np.sort(row[row > 0]), np.sort([v / norm for v in values.values()]))
    likeness = sum(shared[0][name] * shared[3].get(name, 0.0) for name in shared[0])
    norms = [math.sqrt(sum(value**2 for value in shared[row].values())) for row in (0, 3)]
    assert matrix[0] @ matrix[3] == pytest.approx(likeness / norms[0] / norms[1])


@pytest.mark.parametrize("shape", [(30, 80), (80, 30), (5, 3)])
def test_singular_vectors_are_those_of_a_whole_decomposition(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    matrix = random.normal(size=(shape[0], 3)) @ random.normal(size=(3, shape[1]))
    left, strength = truncated_svd(torch.from_numpy(matrix), 4)
    whole, values, _ = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(strength, [*values[:3], 0.0], atol=1e-9)
    np.testing.assert_allclose(np.abs(left[:, :3]), np.abs(whole[:, :3]), atol=1e-9)
    assert not left[:, 3].any()
    assert (left[np.argmax(np.abs(left[:, :3]), axis=0), np.arange(3)] > 0).all()
    sparse_left, _ = truncated_svd(torch.from_numpy(matrix).to_sparse_coo(), 4)
    np.testing.assert_allclose(sparse_left, left, atol=1e-9)
