"""Pictures and sounds for the built-in log's items, invented from what the catalogue says: genre and mood.

There is no public log with pictures and sounds that could be shipped, and networks over them are to be tried all the
same. A picture is stripes whose colour is the genre's and whose width is the mood's; a sound is a tone of the genre that beats
with the mood. Both are noisy, and three items in ten lack each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privacy.errors import InputError
from recsys_models.data.catalogue import Catalogue
from recsys_models.item_towers.audio_cnn import log_mel
from simulations.synthetic_items import GENRES, MOODS

_SIDE = 16
_RATE, _SECONDS = 4000, 0.5
_BANDS, _WINDOW, _HOP = 20, 256, 128
_MISSING = 0.3
_NOISE = 0.5


@dataclass(frozen=True)
class Media:
    """What is seen and heard of N items; rows of items that lack one hold NaN, which must reach nothing.

    Attributes:
        images: float32 ``[N, 3, 16, 16]``.
        has_image: bool ``[N]``.
        sounds: float32 ``[N, 20, T]``, log-mel.
        has_sound: bool ``[N]``.
    """

    images: Tensor
    has_image: Tensor
    sounds: Tensor
    has_sound: Tensor


def invent_media(catalogue: Catalogue, seed: int) -> Media:
    """Pictures and sounds of a built-in log's items.

    Args:
        catalogue: of ``simulations.synthetic``.
        seed: of noise and of which items lack what; any seed, nothing here is about users.

    Raises:
        InputError: a catalogue of another kind, whose items have no genre of the built-in log.
    """
    random = np.random.default_rng([seed, 0x6D65])
    genres = catalogue.attributes.get("genre") or []
    if len(genres) != catalogue.n_items or not all(of_item and of_item[0] in GENRES for of_item in genres):
        raise InputError("pictures and sounds are invented for the built-in log alone")
    genre = [GENRES.index(of_item[0]) for of_item in genres]
    mood = [_mood(text) for text in catalogue.texts]
    images = np.stack([_picture(g, m, random) for g, m in zip(genre, mood, strict=True)])
    sounds = np.stack([_sound(g, m, random) for g, m in zip(genre, mood, strict=True)])
    sounds = (sounds - sounds.mean()) / sounds.std()
    has_image, has_sound = random.random((2, catalogue.n_items)) >= _MISSING
    images[~has_image] = np.nan
    sounds[~has_sound] = np.nan
    tensors = (torch.from_numpy(array) for array in (images, has_image, sounds, has_sound))
    return Media(*tensors)


def _mood(text: str) -> int:
    """The mood an item's text names, by its place on the scale; the middle where it names none."""
    words = text.lower().replace(".", " ").replace(",", " ").split()
    return next((place for place, mood in enumerate(MOODS) if mood in words), len(MOODS) // 2)


def _picture(genre: int, mood: int, random: np.random.Generator) -> NDArray[np.float32]:
    angle = 2.0 * np.pi * genre / len(GENRES)
    colour = np.cos(angle + np.array([0.0, 2.0, 4.0]) * np.pi / 3.0)
    stripes = np.sin(
        2.0 * np.pi * (mood + 1.0) * np.arange(_SIDE) / (2.0 * _SIDE) + 2.0 * np.pi * random.random()
    )
    picture = colour[:, None, None] * (1.0 + stripes[None, None, :])
    return (picture + _NOISE * random.standard_normal((3, _SIDE, _SIDE))).astype(np.float32)


def _sound(genre: int, mood: int, random: np.random.Generator) -> NDArray[np.float32]:
    seconds = np.arange(round(_RATE * _SECONDS)) / _RATE
    tone = np.sin(2.0 * np.pi * 150.0 * 2.0 ** (genre / 3.0) * seconds)
    beat = 1.0 + np.sin(2.0 * np.pi * (mood + 1.0) * seconds + 2.0 * np.pi * random.random())
    wave = 0.3 * tone * beat + 0.03 * _NOISE * random.standard_normal(len(seconds))
    return log_mel(wave, _RATE, bands=_BANDS, window=_WINDOW, hop=_HOP)
