from __future__ import annotations

import numpy as np
import pytest

from client.public_state import KNOWN, PublicState
from privacy.errors import ProtocolError

N, DIM = 7, 3


def good() -> dict[str, np.ndarray]:
    return {
        "popularity": np.arange(N, dtype=np.float32),
        "head": np.array([1, 4, 6]),
        "item_tower": np.ones((N, DIM), dtype=np.float32),
        "transitions_sparse": np.eye(3, dtype=np.float32),
        "transitions_smooth": np.zeros((3, 3), dtype=np.float32),
    }


def test_everything_known_is_taken_and_hashed() -> None:
    state = PublicState(N, DIM)
    assert set(good()) == set(KNOWN) - {"basis"}  # only where the plan has a subspace
    hashes = {state.sha256}
    for name, array in good().items():
        state.update({name: array})
        hashes.add(state.sha256)
    assert len(hashes) == 1 + len(good())
    assert state.head_position.tolist() == [-1, 0, -1, -1, 1, -1, 2]
    assert state.channels().sparse_KK.shape == (3, 3)


def test_the_hash_does_not_depend_on_the_order_of_arrival() -> None:
    one, other = PublicState(N, DIM), PublicState(N, DIM)
    one.update(good())
    for name in reversed(good()):
        other.update({name: good()[name]})
    assert one.sha256 == other.sha256


def test_before_anything_is_published_there_are_zeros() -> None:
    state = PublicState(N, DIM)
    assert not state.item_tower.any()
    assert state.item_tower.shape == (N, DIM)
    assert not state.popularity.any()
    assert state.head.tolist() == list(range(N))
    assert state.channels().sparse_KK.shape == (N, N)


def changed(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    return good() | {name: array}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"user_encoder": np.zeros(3, dtype=np.float32)}, "'user_encoder', which no client knows"),
        (changed("popularity", np.zeros(N)), "'popularity' is float64"),
        (changed("head", np.array([1, 2], dtype=np.int32)), "'head' is int32"),
        (changed("item_tower", np.zeros(N * DIM, dtype=np.float32)), "with 1 axes"),
        (changed("popularity", np.zeros(N + 1, dtype=np.float32)), "'popularity' has shape"),
        (changed("item_tower", np.zeros((N, DIM + 1), dtype=np.float32)), "'item_tower' has shape"),
        (changed("item_tower", np.full((N, DIM), np.nan, dtype=np.float32)), "not finite"),
        (changed("popularity", np.full(N, np.inf, dtype=np.float32)), "not finite"),
        (changed("head", np.array([0, N])), "outside the catalogue of 7 items"),
        (changed("head", np.array([-1, 2])), "outside the catalogue"),
        (changed("head", np.array([], dtype=np.int64)), "outside the catalogue"),
        (changed("head", np.array([2, 2])), "repeat"),
    ],
)
def test_anything_else_is_refused_whole(arrays: dict[str, np.ndarray], message: str) -> None:
    state = PublicState(N, DIM)
    before = state.sha256
    with pytest.raises(ProtocolError, match=message):
        state.update(arrays)
    assert state.sha256 == before


@pytest.mark.parametrize("name", ["transitions_sparse", "transitions_smooth"])
def test_transitions_of_another_head_are_refused_when_used(name: str) -> None:
    state = PublicState(N, DIM)
    state.update(changed(name, np.zeros((4, 4), dtype=np.float32)))
    with pytest.raises(ProtocolError, match="do not fit 3 head items"):
        state.channels()


def test_a_basis_is_taken_only_where_the_plan_has_one_and_only_orthonormal() -> None:
    basis = np.eye(N, 2, dtype=np.float32)
    state = PublicState(N, DIM, 2)
    state.update({"basis": basis})
    assert np.array_equal(state.basis, basis)
    for wrong in (
        2.0 * basis,
        np.eye(N, 3, dtype=np.float32),
        basis.astype(np.float64),
        np.zeros_like(basis),
    ):
        with pytest.raises(ProtocolError, match="basis"):
            state.update({"basis": wrong})
    with pytest.raises(ProtocolError, match="shape"):
        PublicState(N, DIM).update({"basis": basis})
    with pytest.raises(ProtocolError, match="before a basis was published"):
        _ = PublicState(N, DIM, 2).basis
