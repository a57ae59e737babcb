from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_models.data.catalogue import Catalogue
from recsys_models.data.sequences import Sequences
from recsys_models.errors import DataError
from simulations.population import Division, attribute_of, divide


def population(users: int) -> Sequences:
    offsets = np.arange(users + 1)
    return Sequences(
        [str(k) for k in range(users)], np.zeros(users, dtype=np.int64), offsets, Catalogue(["i"])
    )


@given(
    st.integers(1, 200),
    st.integers(1, 200),
    st.sampled_from(["equal", "size-skew", "attribute"]),
    st.floats(0.01, 100),
    st.integers(0, 1000),
)
def test_every_user_has_one_client_and_every_client_a_user(
    users: int, clients: int, how: Division, alpha: float, seed: int
) -> None:
    clients = min(clients, users)
    attribute = [str(k % 3) for k in range(users)]
    parts = divide(population(users), clients, how, seed=seed, alpha=alpha, attribute=attribute)
    assert len(parts) == clients
    assert min(map(len, parts)) >= 1
    assert sorted(np.concatenate(parts).tolist()) == list(range(users))
    assert all(np.all(np.diff(part) > 0) for part in parts)
    again = divide(population(users), clients, how, seed=seed, alpha=alpha, attribute=attribute)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


def test_equal_sizes_differ_by_at_most_one_and_are_mixed() -> None:
    parts = divide(population(103), 10, seed=0)
    assert sorted(map(len, parts)) == [10] * 7 + [11] * 3
    assert any(np.any(np.diff(part) > 1) for part in parts)
    other = divide(population(103), 10, seed=1)
    assert any(not np.array_equal(one, two) for one, two in zip(parts, other, strict=True))


def test_a_smaller_alpha_makes_sizes_more_uneven() -> None:
    def spread(alpha: float) -> float:
        runs = [divide(population(2000), 10, "size-skew", seed=seed, alpha=alpha) for seed in range(20)]
        return float(np.mean([np.std([len(part) for part in parts]) for parts in runs]))

    assert spread(0.1) > 2 * spread(1.0) > 4 * spread(100.0)


def test_a_smaller_alpha_makes_the_users_of_a_client_more_alike() -> None:
    values = [str(k % 5) for k in range(2000)]

    def purity(alpha: float) -> float:
        """Share of users that have the commonest value of their client, mean over seeds."""
        largest = 0
        for seed in range(10):
            parts = divide(population(2000), 10, "attribute", seed=seed, alpha=alpha, attribute=values)
            largest += sum(int(np.bincount([int(values[user]) for user in part]).max()) for part in parts)
        return largest / 20_000

    assert purity(100.0) < 0.3
    assert purity(0.05) > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clients": 6}, "6 clients are more than the 5 users"),
        ({"clients": 0}, "0 clients cannot hold 5 users"),
        ({"how": "random"}, "unknown division 'random': use one of equal, size-skew, attribute"),
        ({"alpha": 0.0}, "alpha = 0.0 is not a positive"),
        ({"alpha": float("nan")}, "alpha = nan"),
        ({"alpha": float("inf")}, "alpha = inf"),
        ({"how": "attribute"}, "needs one value per user"),
        ({"how": "attribute", "attribute": ["a"]}, "1 values for 5 users"),
    ],
)
def test_impossible_divisions_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        divide(population(5), **({"clients": 2, "seed": 0} | arguments))  # pyright: ignore[reportArgumentType]


def test_an_attribute_that_is_not_there_is_named() -> None:
    assert attribute_of({"region": ["a"]}, "region") == ["a"]
    with pytest.raises(DataError, match=r"no attribute 'age' \(there are: region\)"):
        attribute_of({"region": ["a"]}, "age")
    with pytest.raises(DataError, match="there are: none"):
        attribute_of(None, "age")
