"""Convolutions as linear maps of patches, for batches of users with several items each.

Opacus takes the first axis for the users. ``nn.Conv1d`` and ``nn.Conv2d`` take one batch axis only, so items and users
would have to share it and the gradients would be by item; ``nn.Linear`` takes any axes between the first and the last. A
convolution *is* a linear map of the patches, so nothing is lost but the memory of the patches.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class PatchConv1d(nn.Module):
    """``[.., T, C]`` to ``[.., T', C']``: a convolution over time, zero-padded by half the width on both sides."""

    def __init__(self, channels: int, out_channels: int, *, width: int, stride: int = 1) -> None:
        super().__init__()
        self.width = width
        self.stride = stride
        self.map = nn.Linear(channels * width, out_channels)

    def forward(self, signal: Tensor) -> Tensor:
        """Returns the outputs at every ``stride``-th step."""
        pad = self.width // 2
        padded = functional.pad(signal, (0, 0, pad, self.width - 1 - pad))
        patches = padded.unfold(-2, self.width, self.stride)
        outputs: Tensor = self.map(patches.flatten(-2))
        return outputs


class PatchConv2d(nn.Module):
    """``[.., H, W, C]`` to ``[.., H', W', C']``: a square convolution, zero-padded by half the width."""

    def __init__(self, channels: int, out_channels: int, *, width: int = 3, stride: int = 2) -> None:
        super().__init__()
        self.width = width
        self.stride = stride
        self.map = nn.Linear(channels * width * width, out_channels)

    def forward(self, image: Tensor) -> Tensor:
        """Returns the outputs at every ``stride``-th row and column."""
        pad = self.width // 2
        after = self.width - 1 - pad
        padded = functional.pad(image, (0, 0, pad, after, pad, after))
        patches = padded.unfold(-3, self.width, self.stride).unfold(-3, self.width, self.stride)
        outputs: Tensor = self.map(patches.flatten(-3))
        return outputs
