"""Gated recurrent unit over item vectors (Hidasi et al., "Session-based Recommendations with Recurrent Neural
Networks", ICLR 2016; cell of Cho et al. 2014 in the variant of ``torch.nn.GRU``).

The cell is written from two ``nn.Linear``: ``nn.GRU`` has no exact per-user gradients under Opacus' hooks,
and the hidden state must stand still on padded steps, which a packed sequence allows only for padding on the
right.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GruTrunk(nn.Module):
    """``blocks`` stacked GRU layers of width ``dim``."""

    def __init__(self, dim: int, *, blocks: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_GruLayer(dim) for _ in range(blocks))
        self.dropout = nn.Dropout(dropout)

    def forward(self, items_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Returns hidden_BLD."""
        hidden_BLD = self.dropout(items_BLD)
        for layer in self.layers:
            hidden_BLD = layer(hidden_BLD, mask_BL)
        return hidden_BLD


class _GruLayer(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.from_item = nn.Linear(dim, 3 * dim)
        self.from_state = nn.Linear(dim, 3 * dim)

    def forward(self, items_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        input_BLG = self.from_item(items_BLD)
        state_BD = torch.zeros_like(items_BLD[:, 0])
        states: list[Tensor] = []
        for step in range(items_BLD.shape[1]):
            reset_i, update_i, new_i = input_BLG[:, step].chunk(3, dim=-1)
            reset_h, update_h, new_h = self.from_state(state_BD).chunk(3, dim=-1)
            update = torch.sigmoid(update_i + update_h)
            candidate = torch.tanh(new_i + torch.sigmoid(reset_i + reset_h) * new_h)
            stepped_BD = (1.0 - update) * candidate + update * state_BD
            state_BD = torch.where(mask_BL[:, step : step + 1], stepped_BD, state_BD)
            states.append(state_BD)
        return torch.stack(states, dim=1)
