"""What a private step is measured beside: no privacy, and Opacus' hooks on the same model, item table and all.

Neither is used for training here. Opacus' hooks materialise a dense gradient of the table for every user, and its noise is
from torch's generator, which is not a cryptographic one.
"""

# torch and Opacus are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from privacy.user_gradients.engine import LossFn

Step = Callable[[], None]


class TableModel(nn.Module):
    """An encoder and its item table as one module, as Opacus wants it: one embedding call for all slots."""

    def __init__(self, encoder: nn.Module, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(table, freeze=False)
        self.encoder = encoder

    def forward(self, item_ids: Tensor, loss_fn: LossFn) -> Tensor:
        """Losses of all users."""
        return loss_fn(self.encoder, self.table(item_ids))


def plain_step(encoder: nn.Module, table: Tensor, item_ids: Tensor, loss_fn: LossFn, rate: float) -> Step:
    """SGD without privacy: dense gradient of the table, dense update."""
    model = TableModel(encoder.train(), table)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)

    def step() -> None:
        optimizer.zero_grad()
        model(item_ids, loss_fn).mean().backward()
        optimizer.step()

    return step


def hooks_step(
    encoder: nn.Module,
    table: Tensor,
    item_ids: Tensor,
    loss_fn: LossFn,
    *,
    rate: float,
    l2_clip_norm: float,
    noise_multiplier: float,
) -> Step:
    """Opacus' hooks, clip and noise."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    _quiet()
    model = GradSampleModule(TableModel(encoder.train(), table), batch_first=True, loss_reduction="mean")
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=rate),
        noise_multiplier=noise_multiplier,
        max_grad_norm=l2_clip_norm,
        expected_batch_size=item_ids.shape[0],
    )

    def step() -> None:
        optimizer.zero_grad()
        model(item_ids, loss_fn).mean().backward()
        optimizer.step()

    return step


def _quiet() -> None:
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    warnings.filterwarnings("ignore", message="Secure RNG turned off")
