"""The invented items of the built-in behaviour log: series of films and how one leads to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_models.data.catalogue import Catalogue

# fmt: off
NOUNS_OF_GENRE = {
    "Adventure": "Expedition Island Compass Caravan Summit Lagoon Raft Treasure Horizon Canyon Voyage",
    "Comedy": "Wedding Neighbour Holiday Bakery Landlord Reunion Mixup Parade Roommate Barbecue Picnic",
    "Crime": "Heist Alibi Informer Verdict Safehouse Getaway Witness Syndicate Ransom Inspector Warehouse",
    "Documentary": "Glacier Orchestra Reef Factory Archive Harvest Railway Market Forest Laboratory Delta",
    "Drama": "Letter Homecoming Promise Inheritance Winter Sister Harbour Confession Orchard Farewell Bridge",
    "Family": "Puppy Treehouse Lantern Circus Kite Grandfather Toyshop Snowman Pony Sandcastle Garden",
    "Fantasy": "Dragon Wizard Amulet Kingdom Oracle Griffin Rune Enchantress Citadel Spell Phoenix",
    "Horror": "Cellar Haunting Asylum Scarecrow Seance Crypt Whisper Fog Doll Mirror Graveyard",
    "Mystery": "Cipher Manor Locket Vanishing Riddle Portrait Lighthouse Clockmaker Footprint Key Diary",
    "Romance": "Kiss Proposal Serenade Valentine Bouquet Encounter Waltz Summer Sonnet Balcony Postcard",
    "Science Fiction": "Starship Android Colony Orbit Signal Wormhole Clone Nebula Reactor Paradox Probe",
    "War": "Trench Regiment Convoy Battalion Armistice Bunker Squadron Frontier Siege Telegram Sentry",
}
ADJECTIVES = (
    "Silent", "Crimson", "Hidden", "Broken", "Golden", "Last", "Distant", "Burning", "Frozen", "Forgotten",
    "Endless", "Secret", "Wandering", "Hollow", "Bright", "Stolen", "Second", "Northern", "Midnight",
    "Painted", "Restless", "Gentle", "Unlikely", "Iron",
)
PLACES = (
    "Aldra", "Bellmore", "Corvan", "Dunmere", "Estwick", "Farrow", "Glenholt", "Hartsea", "Ilvane", "Jorvell",
)
MOODS = ("quiet", "tender", "playful", "hopeful", "brisk", "tense", "bitter", "savage")
"""From one end of the style scale to the other: items near in style share the word or have the next one."""
# fmt: on

GENRES = tuple(NOUNS_OF_GENRE)
RELATED_ITEMS = 4

_POPULARITY_EXPONENT = 0.9
_LONGEST_SERIES = 5


@dataclass(frozen=True)
class World:
    """The items and the paths between them.

    Attributes:
        catalogue: titles, texts, genres and years.
        genre: int64 [n_items], position in ``GENRES`` of an item's main genre.
        popularity: float64 [n_items], weights that fall off like Zipf's law with exponent 0.9.
        sequel: int64 [n_items], the next part of an item's series, or ``n_items`` if there is none.
        related: int64 [n_items, 4], items of the same genre and nearly the same style.
    """

    catalogue: Catalogue
    genre: NDArray[np.int64]
    popularity: NDArray[np.float64]
    sequel: NDArray[np.int64]
    related: NDArray[np.int64]


def invent_items(n_items: int, random: np.random.Generator) -> World:
    """Invent ``n_items`` items in series of one to five parts. The index of an item says nothing about it."""
    series = _series_of_items(n_items, random)
    n_series = int(series[-1]) + 1
    index = random.permutation(n_items)
    part = np.arange(n_items) - np.searchsorted(series, series)
    genre_of_series = random.choice(len(GENRES), size=n_series, p=random.dirichlet(np.full(len(GENRES), 8.0)))
    style = random.random(n_series)[series] + 0.01 * random.standard_normal(n_items)
    year = np.minimum(1965 + random.integers(0, 55, size=n_series)[series] + 2 * part, 2024)
    appeal = (
        random.permutation(n_series)[series] * (n_items / n_series) + 25.0 * part + random.random(n_items)
    )
    rank = np.argsort(np.argsort(appeal))
    genre = genre_of_series[series]
    last = np.append(series[1:] != series[:-1], True)

    def place(values: NDArray[np.generic]) -> NDArray[np.generic]:
        placed = np.empty_like(values)
        placed[index] = values
        return placed

    sequel = np.where(last, n_items, np.append(index[1:], n_items))
    related = index[_related(genre, style, series)]
    titles = _titles(genre_of_series, series, part, random)
    catalogue = _catalogue(titles, genre, year, style, index, random)
    return World(
        catalogue,
        place(genre).astype(np.int64),
        place((1.0 + rank) ** -_POPULARITY_EXPONENT).astype(np.float64),
        place(sequel).astype(np.int64),
        place(related).astype(np.int64),
    )


def _series_of_items(n_items: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Series number of every item, ascending: single works are common, long series rare."""
    weights = np.array([0.35, 0.2, 0.2, 0.15, 0.1])
    lengths = random.choice(np.arange(1, _LONGEST_SERIES + 1), size=n_items, p=weights)
    return np.repeat(np.arange(n_items), lengths)[:n_items].astype(np.int64)


def _related(
    genre: NDArray[np.int64], style: NDArray[np.float64], series: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The items nearest in style within the genre, those of the same series last."""
    related = np.empty((len(genre), RELATED_ITEMS), dtype=np.int64)
    by_style = np.lexsort((style, genre))
    for members in np.split(by_style, np.flatnonzero(np.diff(genre[by_style])) + 1):
        for position, item in enumerate(members):
            near = members[max(0, position - 8) : position + 9]
            near = near[near != item] if len(near) > 1 else near
            distance = np.abs(style[near] - style[item]) + 10.0 * (series[near] == series[item])
            related[item] = np.resize(
                near[np.argsort(distance, kind="stable")][:RELATED_ITEMS], RELATED_ITEMS
            )
    return related


def _titles(
    genre_of_series: NDArray[np.int64],
    series: NDArray[np.int64],
    part: NDArray[np.int64],
    random: np.random.Generator,
) -> list[str]:
    names: dict[int, str] = {}
    for number, genre in enumerate(GENRES):
        members = np.flatnonzero(genre_of_series == number)
        nouns = NOUNS_OF_GENRE[genre].split()
        pairs = random.permutation(len(ADJECTIVES) * len(nouns))
        for count, one in enumerate(members):
            rounds, pair = divmod(count, len(pairs))
            adjective, noun = divmod(int(pairs[pair]), len(nouns))
            names[int(one)] = f"The {ADJECTIVES[adjective]} {nouns[noun]}" + _suffix(rounds)
    return [names[int(s)] + (f" {p + 1}" if p else "") for s, p in zip(series, part, strict=True)]


def _suffix(rounds: int) -> str:
    """Tells series of the same name apart once all pairs of words are used up."""
    if rounds == 0:
        return ""
    again, place = divmod(rounds - 1, len(PLACES))
    return f" of {PLACES[place]}" + (f" {'I' * again}" if again else "")


def _catalogue(
    titles: list[str],
    genre: NDArray[np.int64],
    year: NDArray[np.int64],
    style: NDArray[np.float64],
    index: NDArray[np.int64],
    random: np.random.Generator,
) -> Catalogue:
    n_items = len(titles)
    width = max(4, len(str(n_items)))
    second = np.where(random.random(n_items) < 0.35, random.integers(0, len(GENRES), n_items), genre)
    mood = np.clip((style * len(MOODS)).astype(int), 0, len(MOODS) - 1)
    genres = [[GENRES[g]] + ([GENRES[s]] if s != g else []) for g, s in zip(genre, second, strict=True)]
    texts = [
        f"{titles[k]}. Genres: {', '.join(genres[k])}. "
        f"A {MOODS[mood[k]]} {genres[k][0].lower()} film from {year[k]}."
        for k in range(n_items)
    ]
    ids = [f"item-{number + 1:0{width}d}" for number in index]
    return Catalogue(ids, titles, texts, {"genre": genres, "year": [[str(y)] for y in year]})
