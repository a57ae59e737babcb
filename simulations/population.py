"""Dividing the users of a data set among the clients of a simulated federation.

A user belongs to exactly one client and keeps her whole log: the user is the privacy unit. The size skew
follows Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification" (2019): shares drawn from a symmetric Dirichlet distribution, here over users instead of
labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recsys_models.data.sequences import Sequences
from recsys_models.errors import DataError

Division = Literal["equal", "size-skew", "attribute"]


def divide(
    sequences: Sequences,
    clients: int,
    how: Division = "equal",
    *,
    seed: int,
    alpha: float = 1.0,
    attribute: Sequence[str] | None = None,
) -> list[NDArray[np.int64]]:
    """Divide the users.

    ===============  ===============================================================================
    how              who goes where
    ===============  ===============================================================================
    ``equal``        users at random; client sizes differ by at most one
    ``size-skew``    users at random; sizes are Dirichlet(alpha) shares, every client has at least one
    ``attribute``    each value's users are spread by Dirichlet(alpha) shares of their own; with a small alpha
                     a client's users are alike
    ===============  ===============================================================================

    Args:
        sequences: whose users are divided.
        clients: how many clients, at most the number of users.
        how: see above.
        seed: equal arguments give equal divisions (for one version of numpy).
        alpha: positive; small means uneven, large means even.
        attribute: one value per user, for ``how="attribute"``; see :func:`attribute_of`.

    Returns:
        For each client the ascending indices of its users. Every user appears once, no client is empty.

    Raises:
        DataError: if a setting is out of range, there are more clients than users, or the attribute is
            missing.
    """
    users = sequences.n_users
    if how not in get_args(Division):
        raise DataError(f"unknown division '{how}': use one of {', '.join(get_args(Division))}")
    if clients < 1:
        raise DataError(f"{clients} clients cannot hold {users} users: ask for at least 1")
    if clients > users:
        raise DataError(
            f"{clients} clients are more than the {users} users: every client needs one, ask for fewer"
        )
    if not 0 < alpha < np.inf:
        raise DataError(
            f"alpha = {alpha} is not a positive number: use 0.1 for strong skew, 100 for nearly none"
        )
    random = np.random.default_rng(seed)
    if how == "attribute":
        assigned = _by_attribute(_checked(attribute, users), clients, alpha, random)
    else:
        shares = (
            np.full(clients, 1 / clients) if how == "equal" else random.dirichlet(np.full(clients, alpha))
        )
        assigned = random.permutation(np.repeat(np.arange(clients), _sizes(shares, users)))
    return [np.flatnonzero(assigned == client) for client in range(clients)]


def attribute_of(attributes: Mapping[str, Sequence[str]] | None, name: str) -> Sequence[str]:
    """The attribute ``name`` of a data set's ``user_attributes``.

    Raises:
        DataError: if there is none; names those there are.
    """
    if not attributes or name not in attributes:
        known = ", ".join(attributes or ()) or "none"
        raise DataError(
            f"users have no attribute '{name}' (there are: {known}): use one of these or another division"
        )
    return attributes[name]


def _checked(attribute: Sequence[str] | None, users: int) -> Sequence[str]:
    if attribute is None:
        raise DataError(
            "division by attribute needs one value per user: pass attribute=attribute_of(..., name)"
        )
    if len(attribute) != users:
        raise DataError(f"the attribute has {len(attribute)} values for {users} users: give one per user")
    return attribute


def _sizes(shares: NDArray[np.float64], users: int) -> NDArray[np.int64]:
    """Whole numbers that sum to ``users``, at least one each, the rest by largest remainder of the shares."""
    spare = users - len(shares)
    exact = shares / shares.sum() * spare
    sizes = np.floor(exact).astype(np.int64)
    largest = np.argsort(-(exact - sizes), kind="stable")[: spare - sizes.sum()]
    sizes[largest] += 1
    return sizes + 1


def _by_attribute(
    values: Sequence[str], clients: int, alpha: float, random: np.random.Generator
) -> NDArray[np.int64]:
    """The client of every user; clients left empty take a user each from the largest ones."""
    distinct, code = np.unique(np.asarray(values, dtype=str), return_inverse=True)
    assigned = np.empty(len(code), dtype=np.int64)
    for value in range(len(distinct)):
        members = np.flatnonzero(code == value)
        assigned[members] = random.choice(
            clients, size=len(members), p=random.dirichlet(np.full(clients, alpha))
        )
    sizes = np.bincount(assigned, minlength=clients)
    for empty in np.flatnonzero(sizes == 0):
        donor = int(sizes.argmax())
        assigned[random.choice(np.flatnonzero(assigned == donor))] = empty
        sizes[donor] -= 1
        sizes[empty] += 1
    return assigned
