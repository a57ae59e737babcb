"""The one signature of every item tower, and the export of all its vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys_models.errors import DataError


class ItemTower(nn.Module):
    """Item indices in, item vectors out; whatever the vectors are made of.

    Public features (texts, images, sounds) lie in the tower as buffers that are neither trained nor saved: every party
    computes them from the catalogue. What is trained acts through modules that Opacus has exact rules for, with the user
    as the first axis, so a tower trains privately as it stands: call it *once* in a step, for history, positives and
    negatives together, ``tower(ids_BS)``.

    Guarantees, each held by a test that every tower inherits:

    * the vector of an item depends on that item alone, not on what else is in the batch;
    * an item of which the tower knows nothing (``present_N`` is False) gets the zero vector, and what stands in its
      features, NaN even, reaches neither vectors nor gradients;
    * per-user gradients from Opacus hooks equal autograd's, user by user;
    * the same generator state builds the same tower.

    Attributes:
        n_items: size of the catalogue.
        dim: width of the vectors.
        present_N: bool, which items the tower knows.
    """

    present_N: Tensor

    def __init__(self, n_items: int, dim: int, *, present_N: Tensor | None = None) -> None:
        super().__init__()
        if n_items < 1 or dim < 1:
            raise DataError(f"n_items and dim must be at least 1, got {n_items=}, {dim=}")
        present_N = torch.ones(n_items, dtype=torch.bool) if present_N is None else present_N
        if present_N.dtype != torch.bool or present_N.shape != (n_items,):
            raise DataError(
                f"present must be bool ({n_items},), got {present_N.dtype} {tuple(present_N.shape)}"
            )
        self.n_items = n_items
        self.dim = dim
        self.register_buffer("present_N", present_N, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors of items.

        Args:
            ids: int64 ``[..]``, catalogue indices; users first, where there are users.

        Returns:
            ``[.., dim]``.

        Raises:
            DataError: if an index is outside the catalogue (a negative one would count from its end).
        """
        if ids.dtype != torch.long:
            raise DataError(f"item indices must be int64, got {ids.dtype}")
        if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < self.n_items):
            raise DataError(
                f"item indices span {int(ids.min())}..{int(ids.max())}, the catalogue 0..{self.n_items - 1}: "
                "clamp padding and mask it"
            )
        vectors = self.vectors_of(ids)
        return vectors.masked_fill(~self.present_N[ids].unsqueeze(-1), 0.0)

    def vectors_of(self, ids: Tensor) -> Tensor:
        """What a tower defines: vectors ``[.., dim]``; those of unknown items may be anything finite."""
        raise NotImplementedError

    def known_features(self, features: Tensor, ids: Tensor) -> Tensor:
        """Rows of a feature buffer ``[N, ..]``, with zeros for items that are not present."""
        absent = ~self.present_N[ids]
        return features[ids].masked_fill(absent.reshape(*absent.shape, *[1] * (features.dim() - 1)), 0)


@torch.no_grad()
def export_vectors(tower: ItemTower, *, chunk: int = 1024) -> Tensor:
    """All item vectors ``[n_items, dim]``, as the tower gives them in evaluation, ``chunk`` items at a time."""
    if chunk < 1:
        raise DataError(f"chunk must be at least 1, got {chunk}")
    was_training = tower.training
    tower.eval()
    ids = torch.arange(tower.n_items, device=tower.present_N.device)
    vectors = torch.cat([tower(part) for part in ids.split(chunk)])
    tower.train(was_training)
    return vectors
