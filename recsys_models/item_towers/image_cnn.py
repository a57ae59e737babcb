"""A small convolutional network over item images, trained from scratch: no image weights come in a package."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from recsys_models.errors import DataError
from recsys_models.item_towers.base import ItemTower
from recsys_models.item_towers.patches import PatchConv2d


class ImageCnnTower(ItemTower):
    """Convolutions of stride 2, each with a layer norm over channels, then the mean over the image.

    Layer norm instead of the usual batch norm, which would mix users.

    Args:
        images_NCHW: floats, about unit variance; items without an image may hold anything.
        dim: width of the item vectors.
        present_N: which items have an image.
        channels: of the first convolution; each further one doubles them.
        layers: convolutions; the image must be at least ``2 ** layers`` on a side.
    """

    images_NCHW: Tensor

    def __init__(
        self,
        images_NCHW: Tensor,
        dim: int,
        *,
        present_N: Tensor | None = None,
        channels: int = 16,
        layers: int = 3,
    ) -> None:
        if images_NCHW.dim() != 4 or not images_NCHW.is_floating_point():
            raise DataError(f"images must be [n_items, C, H, W] floats, got {tuple(images_NCHW.shape)}")
        if layers < 1 or channels < 1 or min(images_NCHW.shape[2:]) < 2**layers:
            raise DataError(
                f"{layers} layers of stride 2 need images of at least {2 ** max(layers, 0)} pixels a side and a "
                f"channel, got {tuple(images_NCHW.shape)}, {channels=}"
            )
        super().__init__(images_NCHW.shape[0], dim, present_N=present_N)
        self.register_buffer("images_NCHW", images_NCHW, persistent=False)
        widths = [images_NCHW.shape[1], *(channels * 2**layer for layer in range(layers))]
        self.convolutions = nn.ModuleList(
            PatchConv2d(before, after) for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths[1:])
        self.out = nn.Linear(widths[-1], dim)

    def vectors_of(self, ids: Tensor) -> Tensor:
        """The mean response over each item's image, mapped."""
        image = self.known_features(self.images_NCHW, ids).movedim(-3, -1)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            image = torch.relu(norm(convolution(image)))
        vectors: Tensor = self.out(image.mean(dim=(-3, -2)))
        return vectors
