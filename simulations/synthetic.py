"""The built-in behaviour log: invented users of invented films, for examples, tests and large simulations.

What is in it, and what a recommender can therefore find:

* popularity follows Zipf's law (exponent 0.9), part by part of a series less popular;
* each user has a taste, a mixture of a few genres, that depends a little on her region;
* a user stays with a genre for a while, and often goes on from one of her last films: to its sequel or to a
  film of the same genre and nearly the same style; else she takes something popular in the genre;
* nobody watches a film twice; 20 to 120 events a user, log-normal; sessions with minutes between events and
  days between sessions.

Full ranking, last event of every user, seen items removed, recall@10 (seeds 0, 1, 2;
``pytest -s tests/simulations/test_synthetic.py -k recall``):

====================================================  =====================
what ranks                                            recall@10
====================================================  =====================
popularity                                            0.055, 0.056, 0.051
counts of item to item transitions                    0.305, 0.301, 0.317
====================================================  =====================

MovieLens-100K has 0.086 and 0.187 under the same protocol, so the two are of one kind, and say as little
about any other platform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_models.data.dataset import Dataset
from recsys_models.data.sequences import Sequences
from recsys_models.errors import DataError
from simulations.synthetic_items import GENRES, RELATED_ITEMS, World, invent_items

REGIONS = ("north", "east", "south", "west", "islands")
AGE_GROUPS = ("under 25", "25 to 44", "45 to 64", "65 and over")
FEWEST_ITEMS = 40
BUILT_IN_NAME = "synthetic"
"""Begins the names of the data sets that are made here."""

_BLOCK = 4096
"""Users simulated at a time; the log of a seed does not depend on memory, so this is fixed."""
_FEWEST_EVENTS, _TYPICAL_EVENTS, _MOST_EVENTS = 20, 42.0, 120
_EVENTS_SPREAD = 0.5
_TASTE_CONCENTRATION = 4.0
_STAYS_IN_GENRE = 0.5
_FOLLOWS = (1.8, 5.0)
"""Beta distribution over users of how often one goes on from her last films."""
_SEQUEL_RATHER_THAN_RELATED = 0.6
_TRIES = 8
_START = 1_672_531_200  # 2023-01-01
_DAY = 86_400


def synthetic_log(users: int = 2000, items: int = 1000, *, seed: int = 0) -> Dataset:
    """Generate the log.

    Args:
        users: how many; 2,000 take a fraction of a second, 50,000 a few seconds.
        items: how many, at least 40.
        seed: equal arguments give equal logs (for one version of numpy).

    Returns:
        A data set with timestamps, titles, texts, the item attributes ``genre`` and ``year`` and the user
        attributes ``region`` and ``age_group``. Users of small catalogues have at most ``items // 2`` events.

    Raises:
        DataError: if there are too few users or items.
    """
    if users < 1:
        raise DataError(f"a synthetic log of {users} users is empty: ask for at least 1")
    if items < FEWEST_ITEMS:
        raise DataError(f"{items} items are too few for a synthetic log: ask for at least {FEWEST_ITEMS}")
    world_seed, *block_seeds = np.random.SeedSequence(seed).spawn(1 + -(-users // _BLOCK))
    random = np.random.default_rng(world_seed)
    world = invent_items(items, random)
    region_tastes = random.dirichlet(np.full(len(GENRES), 1.5), size=len(REGIONS))
    blocks = [
        _simulate(
            world, region_tastes, min(_BLOCK, users - _BLOCK * number), np.random.default_rng(block_seed)
        )
        for number, block_seed in enumerate(block_seeds)
    ]
    lengths = np.concatenate([block.lengths for block in blocks])
    width = max(5, len(str(users)))
    sequences = Sequences(
        [f"user-{number:0{width}d}" for number in range(1, users + 1)],
        np.concatenate([block.items for block in blocks]),
        np.concatenate([[0], np.cumsum(lengths)]),
        world.catalogue,
        np.concatenate([block.timestamps for block in blocks]),
    )
    region = np.concatenate([block.region for block in blocks])
    age = np.concatenate([block.age_group for block in blocks])
    attributes = {"region": [REGIONS[r] for r in region], "age_group": [AGE_GROUPS[a] for a in age]}
    return Dataset(f"{BUILT_IN_NAME}-{users}x{items}", sequences, world.catalogue, attributes)


@dataclass(frozen=True)
class _Block:
    """The events of some users, user after user."""

    items: NDArray[np.int64]
    timestamps: NDArray[np.float64]
    lengths: NDArray[np.int64]
    region: NDArray[np.int64]
    age_group: NDArray[np.int64]


def _simulate(
    world: World, region_tastes: NDArray[np.float64], users: int, random: np.random.Generator
) -> _Block:
    n_items = world.catalogue.n_items
    most = min(_MOST_EVENTS, n_items // 2)
    drawn = random.lognormal(np.log(_TYPICAL_EVENTS), _EVENTS_SPREAD, size=users)
    # Longest first: at every step the users who still act are the first so many rows.
    lengths = -np.sort(-np.clip(drawn, min(_FEWEST_EVENTS, most), most).astype(np.int64))
    region = random.integers(0, len(REGIONS), size=users)
    taste = random.standard_gamma(_TASTE_CONCENTRATION * region_tastes[region] + 0.02)
    walk = _Walk(world, np.cumsum(taste, axis=1), random.beta(*_FOLLOWS, size=users), random)
    events = np.stack(
        [walk.step(int(np.count_nonzero(lengths > step))) for step in range(lengths[0])], axis=1
    )
    acts = np.arange(lengths[0]) < lengths[:, None]
    # Longest first was for speed only; who is active is nobody's position in the log.
    order = random.permutation(users)
    acts, events = acts[order], events[order]
    return _Block(
        events[acts],
        _times(users, int(lengths.max()), random)[acts],
        lengths[order],
        region[order],
        random.integers(0, len(AGE_GROUPS), size=users),
    )


class _Walk:
    """All users of a block choose their next film together."""

    def __init__(
        self,
        world: World,
        cumulative_taste: NDArray[np.float64],
        follows: NDArray[np.float64],
        random: np.random.Generator,
    ) -> None:
        n_users, n_items = len(follows), world.catalogue.n_items
        self._random = random
        self._taste = cumulative_taste / cumulative_taste[:, -1:]
        self._follows = follows
        # One more column than items, always True: "no such item" is never chosen.
        self._seen = np.zeros((n_users, n_items + 1), dtype=bool)
        self._seen[:, n_items] = True
        self._sequel = np.append(world.sequel, n_items)
        self._related = np.vstack([world.related, np.full(RELATED_ITEMS, n_items)])
        self._genre_of = world.genre
        self._by_genre = np.argsort(world.genre, kind="stable")
        weights = world.popularity[self._by_genre]
        self._cumulative = np.concatenate([[0.0], np.cumsum(weights)])
        self._starts = self._cumulative[
            np.searchsorted(world.genre[self._by_genre], np.arange(len(GENRES) + 1))
        ]
        self._recent = np.full((n_users, 2), n_items)
        self._genre = self._draw_genre(np.arange(n_users))

    def step(self, active: int) -> NDArray[np.int64]:
        """The next item of the first ``active`` users; 0 for the others, whose log has ended."""
        users = np.arange(active)
        moves = users[self._random.random(active) >= _STAYS_IN_GENRE]
        self._genre[moves] = self._draw_genre(moves)
        candidates = np.concatenate([self._followers(active), self._popular(active)], axis=1)
        fresh = ~self._seen[users[:, None], candidates]
        chosen = candidates[users, fresh.argmax(axis=1)]
        stuck = users[~fresh.any(axis=1)]
        chosen[stuck] = self._anything_new(stuck)
        self._seen[users, chosen] = True
        self._recent[:active] = np.stack([chosen, self._recent[:active, 0]], axis=1)
        self._genre[:active] = self._genre_of[chosen]
        events = np.zeros(len(self._seen), dtype=np.int64)
        events[:active] = chosen
        return events

    def _followers(self, active: int) -> NDArray[np.int64]:
        """What may follow from the last two films, likeliest first; "no such item" where nothing follows."""
        last, before = self._recent[:active].T
        pick = self._random.integers(0, RELATED_ITEMS, size=(3, active))
        sequel, related = self._sequel[last], self._related[last, pick[0]]
        sequel_first = self._random.random(active) < _SEQUEL_RATHER_THAN_RELATED
        candidates = np.stack(
            [
                np.where(sequel_first, sequel, related),
                self._related[last, pick[1]],
                self._sequel[before],
                self._related[before, pick[2]],
            ],
            axis=1,
        )
        candidates[self._random.random(active) >= self._follows[:active]] = len(self._sequel) - 1
        return candidates

    def _popular(self, active: int) -> NDArray[np.int64]:
        """Items of the current genre by popularity, int64 [active, tries]."""
        low, high = self._starts[self._genre[:active]], self._starts[self._genre[:active] + 1]
        at = low[:, None] + self._random.random((active, _TRIES)) * (high - low)[:, None]
        place = np.searchsorted(self._cumulative, at, side="right") - 1
        # A small catalogue may have no item of the last genre: then its end is taken.
        return self._by_genre[np.minimum(place, len(self._by_genre) - 1)]

    def _anything_new(self, users: NDArray[np.int64]) -> NDArray[np.int64]:
        luck = self._random.random((len(users), self._seen.shape[1]))
        return np.where(self._seen[users], -1.0, luck).argmax(axis=1)

    def _draw_genre(self, users: NDArray[np.int64]) -> NDArray[np.int64]:
        return (self._random.random((len(users), 1)) > self._taste[users]).sum(axis=1).astype(np.int64)


def _times(users: int, steps: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Whole Unix seconds, rising: minutes within a session, days between sessions."""
    minutes = 60.0 * random.lognormal(np.log(30.0), 0.8, size=(users, steps))
    days = _DAY * (0.3 + random.exponential(4.0, size=(users, steps)))
    gaps = np.where(random.random((users, steps)) < 0.3, days, minutes)
    start = _START + random.integers(0, 365 * _DAY, size=(users, 1))
    return (start + np.cumsum(np.maximum(1.0, np.floor(gaps)), axis=1)).astype(np.float64)
