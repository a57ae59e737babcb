"""What the federation has published so far, as this client holds it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import ProtocolError
from privacy.wire.federation import Arrays, public_state_sha256
from recsys_models.errors import DataError
from recsys_models.published_arrays import PUBLISHED_ARRAYS, check_published_array
from recsys_models.retrieval.blend import PublicChannels
from recsys_models.retrieval.transitions import TRANSITION_ARRAYS, TransitionReadings


class PublicState:
    """Public arrays, checked as they arrive.

    Args:
        n_items: size of the catalogue.
        dim: width of item vectors.
        subspace_rank: columns of the basis that the subspace rounds project on; 0 where the plan has none.
    """

    def __init__(self, n_items: int, dim: int, subspace_rank: int = 0) -> None:
        self.n_items = n_items
        self.dim = dim
        self.subspace_rank = subspace_rank
        self._arrays: Arrays = {}
        self._transitions: TransitionReadings | None = None

    def update(self, arrays: Arrays) -> None:
        """Replace arrays by name.

        Raises:
            ProtocolError: an unknown name, a wrong type or shape, a number that is not finite, or transitions that
                cannot be read. Nothing was replaced then.
        """
        self._check(arrays)
        together = {**self._arrays, **arrays}
        # Reading costs a pass over every cell, and most messages, one a gradient round, bring other arrays only.
        if not arrays.keys().isdisjoint(TRANSITION_ARRAYS):
            self._transitions = self._read_transitions(together)
        self._arrays = together

    def _check(self, arrays: Arrays) -> None:
        widths = {"item_tower": self.dim, "basis": self.subspace_rank}
        for name, array in arrays.items():
            if name not in PUBLISHED_ARRAYS:
                raise ProtocolError(f"the server published {name!r}, which no client knows")
            try:
                check_published_array(name, array, n_items=self.n_items, widths=widths)
            except DataError as error:
                raise ProtocolError(f"published {error}") from None

    @property
    def sha256(self) -> bytes:
        """Hash of everything published."""
        return public_state_sha256(self._arrays)

    @property
    def head(self) -> NDArray[np.int64]:
        """Catalogue indices of the head items; the whole catalogue before they were published."""
        return self._arrays.get("head", np.arange(self.n_items, dtype=np.int64))

    @property
    def head_position(self) -> NDArray[np.int64]:
        """For every item its position in ``head``, or -1."""
        position = np.full(self.n_items, -1, dtype=np.int64)
        position[self.head] = np.arange(len(self.head))
        return position

    @property
    def item_tower(self) -> NDArray[np.float32]:
        """Item vectors ``[n_items, dim]``; zeros before anything was published."""
        return self._arrays.get("item_tower", np.zeros((self.n_items, self.dim), dtype=np.float32))

    @property
    def basis(self) -> NDArray[np.float32]:
        """Orthonormal columns ``[n_items, subspace_rank]`` of the current subspace round.

        Raises:
            ProtocolError: none was published.
        """
        if "basis" not in self._arrays:
            raise ProtocolError("a subspace round was asked for before a basis was published")
        return self._arrays["basis"]

    @property
    def popularity(self) -> NDArray[np.float32]:
        """Released popularity ``[n_items]``; zeros before its release."""
        return self._arrays.get("popularity", np.zeros(self.n_items, dtype=np.float32))

    @property
    def content(self) -> NDArray[np.float32]:
        """Public content vectors ``[n_items, F]``.

        Raises:
            ProtocolError: none were published.
        """
        if "content" not in self._arrays:
            raise ProtocolError("a map of content was to be trained before any content was published")
        return self._arrays["content"]

    @property
    def blend(self) -> NDArray[np.float32] | None:
        """Weights of the channels to begin with; None before any were published."""
        return self._arrays.get("blend")

    @property
    def blend_recall(self) -> float | None:
        """Recall@10 of that blend, as it was released; None before."""
        recall = self._arrays.get("blend_recall")
        return None if recall is None else float(recall[0])

    @property
    def transitions(self) -> TransitionReadings | None:
        """Released transitions, as they were read when they arrived; None before their release."""
        return self._transitions

    def channels(self, device: torch.device | None = None) -> PublicChannels:
        """Everything a recommender scores with, on ``device``; the transitions as they were read when they arrived."""
        content = self._arrays.get("content")
        return PublicChannels.build(
            self.item_tower, self.popularity, self._transitions, device, content=content
        )

    def _read_transitions(self, arrays: Arrays) -> TransitionReadings | None:
        try:
            return TransitionReadings.from_arrays(arrays, self.n_items)
        except DataError as error:
            raise ProtocolError(f"published transitions cannot be read: {error}") from None
