"""The users' gradients by ghost clipping: joint norms, and the clipped sum they allow."""

# torch is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privacy.user_gradients.engine import (
    FUNCTIONAL_USE,
    LossFn,
    Report,
    check_arguments,
    compare_totals,
    refuse,
    run_pass,
    total_norm,
    trainable,
)
from privacy.user_gradients.ghost import GhostEncoder
from privacy.user_gradients.gradients import TouchedRows, gather_rows
from privacy.user_gradients.layer_gradients import LayerGradients


@dataclass(frozen=True, eq=False)
class GhostGradients:
    """Gradients of B users of whom only norms and item rows are written down. As private as the data.

    Attributes:
        norms: [B] float64, L2 norm of the joint vector [encoder || item rows]; 0 for dropped users.
        rows: the item rows, user by user.
        dropped_users: how many users had a NaN or infinite gradient; they are present with zeros.
    """

    norms: Tensor = field(repr=False)
    rows: TouchedRows = field(repr=False)
    dropped_users: int = field(repr=False)
    _layers: dict[str, LayerGradients] = field(repr=False)
    _places: dict[str, list[slice]] = field(repr=False)
    _size: int = field(repr=False)

    def clip_factors(self, reach: float) -> Tensor:
        """[B] float64: what brings each user's norm to ``reach`` at most; 0 for dropped users."""
        factors = (reach / self.norms.clamp(min=1e-300)).clamp(max=1.0)
        return torch.where(self.rows.finite, factors, 0.0)

    def encoder_sum(self, factors_B: Tensor) -> Tensor:
        """[P] float64: sum over the users of factor times gradient of the encoder.

        With a factor of 1 for one user and 0 for the others it is that user's gradient, which is how the guard sees it.
        """
        total = factors_B.new_zeros(self._size)
        factors_B = torch.where(self.rows.finite, factors_B, 0.0)
        for name, layer in self._layers.items():
            for place, part in zip(self._places[name], layer.weighted_sum(factors_B), strict=True):
                total[place] = part
        return total

    def tower_entries(self, factors_B: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Places in the flat tower ``[n_items * d]`` and clipped values there, user by user."""
        rows, dim = self.rows, self.rows.values.shape[1]
        user_of_row = torch.repeat_interleave(rows.offsets.diff())
        values = rows.values.double() * factors_B[user_of_row, None]
        cells = rows.items[:, None] * dim + torch.arange(dim, device=rows.items.device)
        return cells.reshape(-1).cpu().numpy(), values.reshape(-1).cpu().numpy()


def ghost_gradients(
    encoder: GhostEncoder,
    table: Tensor,
    item_ids: Tensor,
    loss_fn: LossFn,
    *,
    train_table: bool = True,
    report: Report = refuse,
) -> GhostGradients:
    """As :func:`privacy.user_gradients.engine.per_user_gradients`, without [B, P] numbers.

    Args:
        encoder: records the pass.
        table: item vectors, [n_items, d] float32.
        item_ids: [B, R] long; B at least 1; -1 is an empty slot.
        loss_fn: called once.
        train_table: False leaves the tower frozen: no rows.
        report: what is done about gradient that reached a parameter and no user.

    Guarantees:
        Norm and weighted sum are of the same numbers, in float64. Their plain sum is compared with the total that autograd
        accumulates at each call.

    Raises:
        InputError: for shapes, ids or modes that do not fit.
        SensitivityViolation: if a parameter received gradient outside its layer, or a layer did not see one batch of users,
            and ``report`` refuses.
    """
    check_arguments(encoder, table, item_ids)
    parameters = trainable(encoder)
    encoder.forget()
    slots = run_pass(encoder, table, item_ids, loss_fn, train_table=train_table)
    users = item_ids.shape[0]
    layers = encoder.recorded(users, report)
    squared = {name: layer.squared_norms() for name, layer in layers.items()}
    _compare_with_autograd(encoder, layers, squared, users, report)
    encoder_norms = torch.zeros(users, dtype=torch.float64, device=table.device)
    for each in squared.values():
        encoder_norms += each
    encoder.forget()

    kept_ids = item_ids if train_table else torch.full_like(item_ids, -1)
    rows = gather_rows(encoder_norms.sqrt(), slots, kept_ids, table.shape[0])
    places: dict[str, slice] = {}
    start = 0
    for name, parameter in parameters.items():
        places[name] = slice(start, start + parameter.numel())
        start += parameter.numel()
    return GhostGradients(
        norms=rows.joint_norms,
        rows=rows,
        dropped_users=int((~rows.finite).sum()),
        _layers=layers,
        _places={layer: [places[name] for name in encoder.parameters_of(layer)] for layer in layers},
        _size=start,
    )


def _compare_with_autograd(
    encoder: GhostEncoder,
    layers: dict[str, LayerGradients],
    squared: dict[str, Tensor],
    users: int,
    report: Report,
) -> None:
    """What autograd has found in a parameter must be what the users' gradients add up to, layer by layer."""
    parameters = trainable(encoder)
    whole = total_norm(parameters)
    everybody = torch.ones(users, device=next(iter(parameters.values())).device)
    seen: set[str] = set()
    for layer, gradients in layers.items():
        names = encoder.parameters_of(layer)
        seen.update(names)
        totals = [parameters[name].grad for name in names]
        differences = [
            summed - (0.0 if total is None else total.detach().reshape(-1))
            for summed, total in zip(gradients.weighted_sum(everybody), totals, strict=True)
        ]
        total_size = sum(float(total.norm()) for total in totals if total is not None)
        scale = float(squared[layer].sqrt().sum()) + total_size
        compare_totals(layer, torch.cat(differences), scale, whole, report)
    for name, parameter in parameters.items():
        if name not in seen and parameter.grad is not None and bool((parameter.grad != 0).any()):
            report(f"{name} got a gradient, but none by user: {FUNCTIONAL_USE}")
