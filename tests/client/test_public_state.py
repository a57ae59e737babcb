from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from client.public_state import PublicState
from privacy.errors import ProtocolError
from recsys_models.published_arrays import PUBLISHED_ARRAYS
from recsys_models.retrieval.blend import CHANNELS
from recsys_models.retrieval.transitions import (
    TRANSITION_ARRAYS,
    SmoothTransitions,
    TransitionReadings,
    from_head,
)

N, DIM = 7, 3


HEAD = np.array([1, 4, 6])
CELLS = np.array([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0], [0.0, 0.0, 4.0]])


def transitions(n_items: int = N) -> dict[str, np.ndarray]:
    factors = np.ones((2, n_items, 2), dtype=np.float32)
    return TransitionReadings(from_head(CELLS, HEAD, n_items), SmoothTransitions(*factors)).to_arrays()


def good() -> dict[str, np.ndarray]:
    return {
        "popularity": np.arange(N, dtype=np.float32),
        "head": HEAD,
        "item_tower": np.ones((N, DIM), dtype=np.float32),
        "content": np.eye(N, 4, dtype=np.float32),
        "blend": np.arange(len(CHANNELS), dtype=np.float32),
        "blend_recall": np.array([0.25], dtype=np.float32),
        **transitions(),
    }


def parts() -> list[dict[str, np.ndarray]]:
    """What is published in one message; transitions are one thing."""
    arrays = good()
    together = {name: arrays.pop(name) for name in TRANSITION_ARRAYS}
    return [*({name: array} for name, array in arrays.items()), together]


def test_everything_known_is_taken_and_hashed() -> None:
    state = PublicState(N, DIM)
    assert set(good()) == set(PUBLISHED_ARRAYS) - {"basis"}  # only where the plan has a subspace
    hashes = {state.sha256}
    for part in parts():
        state.update(part)
        hashes.add(state.sha256)
    assert len(hashes) == 1 + len(parts())
    assert state.head_position.tolist() == [-1, 0, -1, -1, 1, -1, 2]
    channels = state.channels()
    assert channels.transitions is not None
    assert np.array_equal(channels.transitions.sparse.matrix.toarray()[np.ix_(HEAD, HEAD)], CELLS)
    assert channels.transitions.smooth.left.shape == (N, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"transition_starts": np.array([0, 0, 2, 2, 2, 3, 3, 4])},
        {"transition_items": np.array([6, 1, 6, 6])},
        *(
            {name: 2 * transitions()[name]}
            for name in ("transition_weights", "transition_left", "transition_right")
        ),
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_array_of_the_transitions_is_hashed(change: dict[str, np.ndarray]) -> None:
    state = PublicState(N, DIM)
    state.update(good())
    before = state.sha256
    state.update(change)
    assert state.sha256 != before


def test_the_hash_does_not_depend_on_the_order_of_arrival() -> None:
    one, other = PublicState(N, DIM), PublicState(N, DIM)
    one.update(good())
    for part in reversed(parts()):
        other.update(part)
    assert one.sha256 == other.sha256


def test_before_anything_is_published_there_are_zeros() -> None:
    state = PublicState(N, DIM)
    assert not state.item_tower.any()
    assert state.item_tower.shape == (N, DIM)
    assert not state.popularity.any()
    assert state.head.tolist() == list(range(N))
    assert state.channels().transitions is None


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
        (changed("blend", np.ones(2, dtype=np.float32)), r"shape \(2,\)"),
        (changed("blend", np.full(len(CHANNELS), -0.1, dtype=np.float32)), "weights below 0"),
        (changed("blend", np.full(len(CHANNELS), 101.0, dtype=np.float32)), "or above 100"),
        (changed("blend", np.full(len(CHANNELS), np.nan, dtype=np.float32)), "not finite"),
        (changed("blend_recall", np.array([0.1, 0.2], dtype=np.float32)), "'blend_recall' is"),
        (changed("blend_recall", np.array([0.0], dtype=np.float32)), "one number between 0 and 1"),
        (changed("blend_recall", np.array([1.0], dtype=np.float32)), "one number between 0 and 1"),
        (changed("blend_recall", np.array([np.nan], dtype=np.float32)), "not finite"),
        (changed("head", np.array([2, 2])), "repeat"),
        (changed("transition_items", np.array([4, 1, 6, N])), "outside the catalogue of 7 items"),
        (changed("transition_items", np.array([4, 1, 6])), "must go from 0 to its 3 entries"),
        (changed("transition_items", np.array([4, 1, 6, 6], dtype=np.int32)), "'transition_items' is int32"),
        (changed("transition_starts", np.array([0, 0, 1, 1, 1, 5, 3, 4])), "fall"),
        (changed("transition_starts", np.array([0, 2**63 - 1, -2, 4])), "fall"),
        (changed("transition_weights", np.ones(3, np.float32)), "3 weights for 4 transitions"),
        (changed("transition_weights", np.full(4, np.nan, np.float32)), "not finite"),
        (changed("transition_left", np.ones((N, 3), np.float32)), "do not form a transition matrix"),
        (changed("transition_right", np.full((N, 2), np.inf, np.float32)), "not finite"),
        (good() | transitions(N + 1), "transitions of 8 items for a catalogue of 7"),
        (good() | {"content": np.ones((N - 1, 4), dtype=np.float32)}, "expected"),
        (good() | {"transitions_sparse": np.eye(3, dtype=np.float32)}, "which no client knows"),
    ],
)
def test_anything_else_is_refused_whole(arrays: dict[str, np.ndarray], message: str) -> None:
    state = PublicState(N, DIM)
    before = state.sha256
    with pytest.raises(ProtocolError, match=message):
        state.update(arrays)
    assert state.sha256 == before


@pytest.mark.parametrize("missing", TRANSITION_ARRAYS)
def test_part_of_the_transitions_is_refused_and_nothing_replaced(missing: str) -> None:
    state = PublicState(N, DIM)
    before = state.sha256
    arrays = good()
    del arrays[missing]
    with pytest.raises(ProtocolError, match="cannot be read: of the transitions only"):
        state.update(arrays)
    assert state.sha256 == before
    assert not state.popularity.any()
    # With the rest in one message they are taken.
    state.update(good())
    assert state.channels().transitions is not None


def test_transitions_are_read_together_with_those_that_are_there() -> None:
    state = PublicState(N, DIM)
    state.update(good())
    before = state.sha256
    with pytest.raises(ProtocolError, match="must go from 0 to its 2 entries"):
        state.update({"popularity": np.ones(N, np.float32), "transition_items": np.array([4, 1])})
    assert state.sha256 == before
    state.update({"transition_weights": np.zeros(4, np.float32)})
    channels = state.channels()
    assert channels.transitions is not None
    assert not channels.transitions.sparse.matrix.toarray().any()


def test_transitions_are_read_once_and_again_only_when_one_of_their_arrays_arrives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []
    from_arrays = TransitionReadings.from_arrays

    def counting(arrays: Mapping[str, np.ndarray], n_items: int) -> TransitionReadings | None:
        read.append(n_items)
        return from_arrays(arrays, n_items)

    monkeypatch.setattr(TransitionReadings, "from_arrays", counting)
    state = PublicState(N, DIM)
    state.update(good())
    first = state.channels().transitions
    for _ in range(3):
        state.update({"item_tower": np.zeros((N, DIM), dtype=np.float32)})
        # The same object, so that the matrix it has built is kept.
        assert state.channels().transitions is first
    assert len(read) == 1
    state.update({"transition_weights": np.zeros(4, np.float32)})
    assert state.channels().transitions is not first
    assert len(read) == 2


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
