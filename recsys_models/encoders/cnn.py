"""Dilated causal convolutions over item vectors (Yuan et al., "A Simple Convolutional Generative Network for
Next Item Recommendation" (NextItNet), WSDM 2019, section 3), with layer norms before the convolutions.

Each convolution looks back over a few positions, further apart from layer to layer, so a few layers see a
whole history and, unlike attention, their cost grows only linearly with its length.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_KERNEL = 3
_LAYERS_OF_A_BLOCK = 2


class CnnTrunk(nn.Module):
    """``blocks`` residual blocks of two convolutions with ``dim`` channels.

    One block sees the newest 7 items, two see 31, three 127, where the histories are that long.
    """

    def __init__(self, dim: int, *, max_length: int, blocks: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        dilations = dilations_of(_LAYERS_OF_A_BLOCK * blocks, max_length)
        self.blocks = nn.ModuleList(
            _ResidualBlock(dim, dilations[start : start + _LAYERS_OF_A_BLOCK], dropout)
            for start in range(0, len(dilations), _LAYERS_OF_A_BLOCK)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, items_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Returns hidden_BLD."""
        present_BL1 = mask_BL.unsqueeze(-1)
        hidden_BLD = items_BLD
        for block in self.blocks:
            hidden_BLD = block(hidden_BLD, present_BL1)
        normed_BLD: Tensor = self.norm(hidden_BLD)
        return normed_BLD


def dilations_of(layers: int, max_length: int) -> list[int]:
    """1, 2, 4, ... and again from 1 once a step would be as long as the longest history and see only padding."""
    dilations: list[int] = []
    dilation = 1
    for _ in range(layers):
        dilations.append(dilation)
        dilation = 1 if 2 * dilation >= max_length else 2 * dilation
    return dilations


class _ResidualBlock(nn.Module):
    def __init__(self, dim: int, dilations: list[int], dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in dilations)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(dim, dim, _KERNEL, dilation=dilation) for dilation in dilations
        )
        self.look_back = [dilation * (_KERNEL - 1) for dilation in dilations]
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_BLD: Tensor, present_BL1: Tensor) -> Tensor:
        branch_BLD = hidden_BLD
        for norm, convolution, look_back in zip(self.norms, self.convolutions, self.look_back, strict=True):
            # Norms and biases write into padding; a convolution would carry that into the first items.
            branch_BLD = torch.relu(norm(branch_BLD)) * present_BL1
            branch_BDL = functional.pad(branch_BLD.transpose(1, 2), (look_back, 0))
            branch_BLD = convolution(branch_BDL).transpose(1, 2)
        return hidden_BLD + self.dropout(branch_BLD)
