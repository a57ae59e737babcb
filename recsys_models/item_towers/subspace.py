"""The main directions of the item-item Gram matrix without ever forming it: the noisy power method, for large catalogues.

Hardt and Price 2014, "The Noisy Power Method: A Meta Algorithm with Applications", Algorithm 1: ``Y = A V + noise``, then ``V``
becomes an orthonormal basis of ``Y``. A release costs ``n_items * r`` cells a round instead of ``n_items^2 / 2``.

``A`` is the sum over users of ``x x^T`` with ``|x| = 1``, so a user adds ``x (V^T x)^T`` to ``A V``. With orthonormal columns
``|V^T x| <= |x| = 1``, and the Frobenius norm of an outer product is the product of the norms: at most 1 for every user.

Everything but ``subspace_blocks`` is post-processing of released sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from recsys_models.errors import DataError

Int = NDArray[np.int64]
Float = NDArray[np.float64]

ORTHONORMAL_WITHIN = 1e-3
"""How far ``V^T V`` may be from the identity, entry by entry: a published basis is rounded to 32 bits."""


def start_basis(
    popularity: NDArray[np.floating], rank: int, seed: int, known: NDArray[np.floating] | None = None
) -> NDArray[np.float32]:
    """A first basis that already leans toward what is popular.

    A random basis of a large catalogue has almost no part in the few directions users span, and noise then drowns the first
    product. Leading eigenvectors of a co-occurrence matrix live on popular items, so random rows are weighted by the root of
    the released popularity, and popularity itself is the first column.

    Args:
        popularity: ``[n_items]`` as released; negative entries count as 0.
        rank: number of columns.
        seed: of the random directions; public.
        known: ``[n_items, d]`` an earlier tower, whose columns come before random ones.

    Returns:
        ``[n_items, rank]`` with orthonormal columns.

    Raises:
        DataError: the rank is not between 1 and the number of items.
    """
    n_items = len(popularity)
    if not 1 <= rank <= n_items:
        raise DataError(f"rank={rank} for {n_items} items: use 1 to {n_items}")
    weight = np.sqrt(np.maximum(popularity.astype(np.float64), 0.0))
    # A little everywhere: no item is shut out, and the columns stay independent.
    weight += max(1e-3 * float(weight.max(initial=0.0)), 1e-9)
    columns = [weight[:, None] ** 2]
    if known is not None:
        columns.append(known.astype(np.float64)[:, : rank - 1])
    width = rank - sum(c.shape[1] for c in columns)
    columns.append(np.random.default_rng(seed).normal(size=(n_items, max(width, 0))) * weight[:, None])
    return orthonormal(np.concatenate(columns, axis=1)[:, :rank])


def orthonormal(matrix: Float) -> NDArray[np.float32]:
    """An orthonormal basis of the columns, with fixed signs: the same sum gives the same basis."""
    columns, upper = np.linalg.qr(matrix / max(float(np.abs(matrix).max(initial=0.0)), 1e-300))
    return np.ascontiguousarray(columns * np.where(np.diag(upper) < 0.0, -1.0, 1.0), dtype=np.float32)


def is_orthonormal(basis: NDArray[np.floating]) -> bool:
    """Whether the columns are orthonormal, up to rounding. A fact about public numbers alone."""
    if basis.shape[1] > basis.shape[0]:
        return False
    wide = basis.astype(np.float64)
    return bool(np.abs(wide.T @ wide - np.eye(basis.shape[1])).max(initial=0.0) <= ORTHONORMAL_WITHIN)


def subspace_blocks(histories: Sequence[Int], basis: NDArray[np.floating]) -> Iterator[tuple[Int, Float]]:
    """What each user adds to ``A V``: places in the ``[n_items * r]`` vector and values, norm at most 1 if V is orthonormal.

    Args:
        histories: item indices, one array per user.
        basis: ``[n_items, r]`` the published V.
    """
    rank = basis.shape[1]
    columns = np.arange(rank, dtype=np.int64)
    for history in histories:
        items = np.unique(history)
        weight = 1.0 / np.sqrt(max(len(items), 1))
        coordinates = basis[items].astype(np.float64).sum(axis=0) * weight
        places = (items[:, None] * rank + columns).ravel()
        yield places, np.tile(coordinates * weight, len(items))


def shrink_rows(product: Float, noise_sd: float) -> Float:
    """Each item's row moved toward zero by what noise alone would make of it.

    Positive-part James-Stein (Baranchik 1964) with the known noise level: rows of items nobody chose vanish, popular ones stay
    as they are, and no threshold is tuned.
    """
    if noise_sd == 0.0:
        return product
    energy = np.maximum(np.sum(product**2, axis=1), 1e-300)
    keep = np.maximum(1.0 - max(product.shape[1] - 2, 1) * noise_sd**2 / energy, 0.0)
    return product * keep[:, None]


def next_basis(product: Float, noise_sd: float) -> NDArray[np.float32]:
    """The basis for the next round, from a released ``A V + noise`` of shape ``[n_items, r]``."""
    return orthonormal(shrink_rows(product, noise_sd))


def tower_from_product(product: Float, noise_sd: float, dim: int, *, score_norm: float) -> Float:
    """Item vectors from the last released product: its left singular vectors above the noise.

    The singular values of an ``m`` by ``r`` matrix of noise stay below ``sd (sqrt m + sqrt r)`` (Davidson and Szarek 2001,
    Theorem 2.13), with ``m`` the rows that shrinking left. As in ``factorisation.tower_from_gram`` columns beyond the signal
    are zero, one is always kept, and the mean norm of the rows that are not zero is ``score_norm``.

    Returns:
        ``[n_items, dim]``.
    """
    shrunk = shrink_rows(product, noise_sd)
    left, strength, _ = np.linalg.svd(shrunk, full_matrices=False)
    used: NDArray[np.bool_] = np.any(shrunk != 0.0, axis=1)
    edge = noise_sd * (np.sqrt(used.sum()) + np.sqrt(product.shape[1]))
    above = int(np.sum(strength > max(edge, 1e-9)))
    rank = max(1, min(above, dim, product.shape[1]))
    columns = left[:, :rank]
    signs = np.sign(columns[np.argmax(np.abs(columns), axis=0), np.arange(rank)])
    # The factorisation leaves rounding where there was nothing.
    columns = columns[used] * np.where(signs == 0, 1.0, signs)
    mean_norm = float(np.linalg.norm(columns, axis=1).mean()) if len(columns) else 0.0
    tower = np.zeros((len(product), dim))
    tower[used, :rank] = columns * (score_norm / max(mean_norm, 1e-12))
    return tower
