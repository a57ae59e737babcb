"""The clipped sum of users' gradients, batch by batch, by hooks or by ghost clipping: same bound, same users, same grid."""

# torch and Opacus are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from privacy.bounded import BoundedSum, DisjointSum, l2_bound_on_grid
from privacy.errors import InputError
from privacy.rounded_once import RoundedOnceSum
from privacy.user_gradients.engine import LossFn, encoder_size, note, per_user_gradients, wrap_encoder
from privacy.user_gradients.ghost import GhostEncoder
from privacy.user_gradients.ghost_gradients import ghost_gradients

if TYPE_CHECKING:
    from opacus import GradSampleModule

WrappedEncoder: TypeAlias = "GradSampleModule | GhostEncoder"

Method = Literal["hooks", "ghost"]

MOST_HOOK_ENTRIES = 2**26
"""Numbers of per-user gradients up to which "auto" takes hooks: 256 MiB, which hooks hold twice for a moment."""


def choose_method(requested: Method | Literal["auto"], encoder: nn.Module, users_at_once: int) -> Method:
    """Which way to take per-user gradients; follows from public sizes alone.

    "auto" is hooks, which truncate each user by herself and so lose nothing to rounding, unless their numbers for one
    batch, users times parameters, exceed :data:`MOST_HOOK_ENTRIES`.
    """
    if requested != "auto":
        return requested
    return "ghost" if encoder_size(encoder) * users_at_once > MOST_HOOK_ENTRIES else "hooks"


def wrap_for(method: Method, encoder: nn.Module) -> WrappedEncoder:
    """Attaches what the method needs, in place; ``to_standard_module()`` takes it off again.

    Raises:
        SensitivityViolation: the encoder has a layer without sound per-user gradients by this method.
    """
    return GhostEncoder(encoder) if method == "ghost" else wrap_encoder(encoder)


class ClippedSum(Protocol):
    """A running sum ``[P encoder entries || rows * d tower entries]`` over users, each clipped as one vector."""

    def add(self, table: Tensor, item_ids: Tensor, loss_fn: LossFn) -> Tensor:
        """Differentiate, clip and add a batch of users of whom nobody was in an earlier one.

        Args:
            table: [n, d] item vectors; n is the sum's number of rows, or any if it has none.
            item_ids: [B, R] slots, as for :func:`privacy.user_gradients.engine.per_user_gradients`.
            loss_fn: as there.

        Returns:
            [B] float64 joint norms before clipping; 0 for users whose gradient is not finite. As private as the data.

        Raises:
            InputError: the table has another number of rows, or as the engine. Never for what the users' gradients are.
        """
        ...

    def total(self) -> BoundedSum:
        """The sum so far, with its bound."""
        ...


def clipped_sum(
    encoder: WrappedEncoder, rows: int, dim: int, *, l2_clip_norm: float, unit: float
) -> ClippedSum:
    """An empty sum, for the method the encoder was wrapped for.

    By hooks, every user is truncated to the grid and checked in integers. By ghost clipping nobody's encoder gradient
    exists, so that part is rounded once, at the end, and users are clipped to a little less, so that the rounding is within
    the same bound (``privacy.rounded_once``); item rows are truncated user by user as always.

    Args:
        encoder: from :func:`wrap_for`.
        rows: of the tower that is trained; 0 for encoder-only gradients.
        dim: width of a row.
        l2_clip_norm: of the joint vector.
        unit: grid step.

    Raises:
        InputError: the grid does not fit the clip norm, or, for ghost clipping, is too coarse for rounding a sum.
    """
    bound = l2_bound_on_grid(l2_clip_norm, unit)
    parameters = encoder_size(encoder)
    length = parameters + rows * dim
    if isinstance(encoder, GhostEncoder):
        return _GhostSum(encoder, rows, RoundedOnceSum(parameters, length, l2_bound=bound, unit=unit))
    return _HooksSum(encoder, rows, l2_clip_norm, DisjointSum(length, l2_bound=bound, unit=unit))


class _HooksSum:
    def __init__(self, encoder: GradSampleModule, rows: int, l2_clip_norm: float, total: DisjointSum) -> None:
        self._encoder = encoder
        self._rows = rows
        self._l2_clip_norm = l2_clip_norm
        self._total = total

    def add(self, table: Tensor, item_ids: Tensor, loss_fn: LossFn) -> Tensor:
        _check_rows(table, self._rows)
        gradients = per_user_gradients(
            self._encoder, table, item_ids, loss_fn, train_table=self._rows > 0, report=note
        )
        self._total.add(
            gradients.clip_and_sum(self._rows, l2_clip_norm=self._l2_clip_norm, unit=self._total.unit)
        )
        return gradients.norms

    def total(self) -> BoundedSum:
        return self._total.total()


class _GhostSum:
    def __init__(self, encoder: GhostEncoder, rows: int, total: RoundedOnceSum) -> None:
        self._encoder = encoder
        self._rows = rows
        self._total = total

    def add(self, table: Tensor, item_ids: Tensor, loss_fn: LossFn) -> Tensor:
        _check_rows(table, self._rows)
        if not item_ids.shape[0]:  # a Poisson batch may be empty
            return torch.zeros(0, dtype=torch.float64)
        gradients = ghost_gradients(
            self._encoder, table, item_ids, loss_fn, train_table=self._rows > 0, report=note
        )
        factors = gradients.clip_factors(self._total.reach)
        cells, values = gradients.tower_entries(factors)
        self._total.add(gradients.encoder_sum(factors).cpu().numpy(), cells, values, users=item_ids.shape[0])
        return gradients.norms

    def total(self) -> BoundedSum:
        return self._total.total()


def _check_rows(table: Tensor, rows: int) -> None:
    if rows and table.shape[0] != rows:
        raise InputError(f"the table has {table.shape[0]} rows, the sum {rows}")
