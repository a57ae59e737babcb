"""A convolutional network over the words of an item's text, trained from scratch."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from recsys_models.errors import DataError
from recsys_models.item_towers.base import ItemTower
from recsys_models.item_towers.hashed_text import words_of

NO_TOKEN = 0


def hashed_tokens(documents: Sequence[str], *, length: int = 24, buckets: int = 8192) -> NDArray[np.int64]:
    """Words as hash buckets 1 to ``buckets - 1``: a vocabulary that needs no agreement and no data.

    Args:
        documents: N texts (``recsys_models.item_towers.text.documents_of``).
        length: words kept of each.
        buckets: size of the vocabulary, 0 included.

    Returns:
        int64 ``[N, length]``, 0 after the last word.

    Raises:
        DataError: if length or buckets leave no room.
    """
    if length < 1 or buckets < 2:
        raise DataError(f"need length >= 1 and buckets >= 2, got {length=}, {buckets=}")
    tokens = np.full((len(documents), length), NO_TOKEN, dtype=np.int64)
    for row, document in enumerate(documents):
        words = words_of(document)[:length]
        tokens[row, : len(words)] = [1 + zlib.crc32(word.encode()) % (buckets - 1) for word in words]
    return tokens


class TextCnnTower(ItemTower):
    """Word vectors, convolutions of several widths, the maximum of each over the text (Kim, "Convolutional Neural
    Networks for Sentence Classification", EMNLP 2014, section 2).

    Args:
        tokens_NT: int64, from :func:`hashed_tokens`; rows of zeros are items without text.
        dim: width of the item vectors.
        buckets: size of the vocabulary.
        channels: word vector width and filters of each width.
        widths: of the convolutions, in words.
    """

    tokens_NT: Tensor

    def __init__(
        self,
        tokens_NT: Tensor,
        dim: int,
        *,
        buckets: int = 8192,
        channels: int = 32,
        widths: Sequence[int] = (1, 2, 3),
    ) -> None:
        if tokens_NT.dim() != 2 or tokens_NT.dtype != torch.long:
            raise DataError(f"tokens must be [n_items, T] int64, got {tuple(tokens_NT.shape)}")
        if tokens_NT.numel() and not (int(tokens_NT.min()) >= 0 and int(tokens_NT.max()) < buckets):
            raise DataError(
                f"tokens span {int(tokens_NT.min())}..{int(tokens_NT.max())}, the vocabulary 0..{buckets - 1}"
            )
        if channels < 1 or not widths or min(widths) < 1:
            raise DataError(f"channels and every width must be at least 1, got {channels=}, {widths=}")
        super().__init__(tokens_NT.shape[0], dim, present_N=(tokens_NT != NO_TOKEN).any(dim=1))
        self.register_buffer("tokens_NT", tokens_NT, persistent=False)
        self.words = nn.Embedding(buckets, channels)
        nn.init.normal_(self.words.weight, std=channels**-0.5)
        self.widths = tuple(widths)
        self.filters = nn.ModuleList(nn.Linear(width * channels, channels) for width in self.widths)
        self.out = nn.Linear(channels * len(self.widths), dim)

    def vectors_of(self, ids: Tensor) -> Tensor:
        """The strongest response of each filter to each item's text, mapped."""
        tokens = self.tokens_NT[ids]
        absent = (tokens == NO_TOKEN).unsqueeze(-1)
        words = self.words(tokens).masked_fill(absent, 0.0)
        strongest: list[Tensor] = []
        for width, linear in zip(self.widths, self.filters, strict=True):
            # One window starts at every word; the last ones end in zeros.
            windows = functional.pad(words, (0, 0, 0, width - 1)).unfold(-2, width, 1).flatten(-2)
            # After relu nothing is below zero, so zero is no response, and stands where no word does.
            strongest.append(torch.relu(linear(windows)).masked_fill(absent, 0.0).amax(dim=-2))
        vectors: Tensor = self.out(torch.cat(strongest, dim=-1))
        return vectors
