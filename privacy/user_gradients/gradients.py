"""The result of a per-user backward pass, and its way into the bounded sum."""

# torch and Opacus are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privacy.bounded import BoundedSum, UserContributions
from privacy.bounded_rows import LongRowSum
from privacy.errors import InputError


@dataclass(frozen=True, eq=False)
class UserGradients:
    """Gradients of B users, unclipped. As private as the data.

    Rows are sparse: user u touched ``row_items[row_offsets[u]:row_offsets[u + 1]]``, each item once,
    ascending. So the cost of a step does not grow with the catalogue.

    Attributes:
        encoder: [B, P] float32, parameters flattened in the order of ``encoder.parameters()``.
        row_items: [rows] long, item indices.
        row_values: [rows, d] float32, gradient with respect to those items' vectors.
        row_offsets: [B + 1] long.
        norms: [B] float64, L2 norm of the joint vector [encoder || item rows].
        dropped_users: how many users had a NaN or infinite gradient; they are present with zeros.
    """

    encoder: Tensor = field(repr=False)
    row_items: Tensor = field(repr=False)
    row_values: Tensor = field(repr=False)
    row_offsets: Tensor = field(repr=False)
    norms: Tensor = field(repr=False)
    dropped_users: int = field(repr=False)

    @property
    def n_users(self) -> int:
        """Users in the batch, dropped ones included."""
        return self.encoder.shape[0]

    def to_contributions(self, n_items: int) -> UserContributions:
        """Lays the users out as sparse rows of the joint vector ``[P encoder entries || n_items * d tower
        entries]``.

        Entry ``P + item * d + k`` is coordinate k of an item's vector. Clip, grid and sum then follow from
        :func:`privacy.bounded.clip_and_sum`, over the joint norm, as joint training of encoder and tower
        requires.

        Args:
            n_items: rows of the tower; 0 for encoder-only gradients.

        Raises:
            InputError: if a touched item is outside the tower.
        """
        if self.row_items.numel() and int(self.row_items.max()) >= n_items:
            raise InputError(
                f"gradients touch item {int(self.row_items.max())}, the tower has {n_items} items"
            )
        users, parameters = self.encoder.shape
        dim = self.row_values.shape[1]
        row_offsets = _numpy(self.row_offsets)
        rows_of_user = np.diff(row_offsets)
        offsets = np.concatenate([[0], np.cumsum(parameters + rows_of_user * dim)]).astype(np.int64)
        indices = np.empty(int(offsets[-1]), dtype=np.int64)
        values = np.empty(int(offsets[-1]), dtype=np.float64)

        encoder_at = offsets[:-1, None] + np.arange(parameters)
        indices[encoder_at] = np.arange(parameters)
        values[encoder_at] = _numpy(self.encoder)

        user_of_row = np.repeat(np.arange(users), rows_of_user)
        row_of_user = np.arange(user_of_row.size) - row_offsets[user_of_row]
        starts = offsets[user_of_row] + parameters + row_of_user * dim
        rows_at = starts[:, None] + np.arange(dim)
        indices[rows_at] = parameters + _numpy(self.row_items)[:, None] * dim + np.arange(dim)
        values[rows_at] = _numpy(self.row_values)
        return UserContributions(indices, values, offsets, parameters + n_items * dim)

    def clip_and_sum(self, n_items: int, *, l2_clip_norm: float, unit: float) -> BoundedSum:
        """``clip_and_sum(self.to_contributions(n_items), ...)`` without the copies: the sum over these users.

        Args:
            n_items: rows of the tower; 0 for encoder-only gradients.
            l2_clip_norm: of the joint vector.
            unit: grid step.

        Raises:
            InputError: a touched item is outside the tower, or the grid does not fit the clip norm.
        """
        if self.row_items.numel() and int(self.row_items.max()) >= n_items:
            raise InputError(
                f"gradients touch item {int(self.row_items.max())}, the tower has {n_items} items"
            )
        parameters, dim = self.encoder.shape[1], self.row_values.shape[1]
        encoder, rows = _numpy(self.encoder), _numpy(self.row_values)
        items, offsets = _numpy(self.row_items), _numpy(self.row_offsets)
        total = LongRowSum(max(parameters + n_items * dim, 1), l2_clip_norm=l2_clip_norm, unit=unit)
        for user in range(self.n_users):
            own = slice(offsets[user], offsets[user + 1])
            cells = parameters + items[own, None] * dim + np.arange(dim)
            total.add([(slice(0, parameters), encoder[user]), (cells.reshape(-1), rows[own].reshape(-1))])
        return total.total()

    def touched_rows(self) -> tuple[Tensor, UserGradients]:
        """The items that anybody touched, ascending, and the same gradients with items numbered among these.

        For a tower of which one party holds all rows. Which rows were touched is as private as the data.
        """
        items, position = torch.unique(self.row_items, return_inverse=True)
        return items, replace(self, row_items=position)


def no_users(parameters: int, dim: int, device: torch.device) -> UserGradients:
    """The gradients of an empty batch, which Poisson sampling may draw."""
    return UserGradients(
        encoder=torch.zeros(0, parameters, device=device),
        row_items=torch.zeros(0, dtype=torch.long, device=device),
        row_values=torch.zeros(0, dim, device=device),
        row_offsets=torch.zeros(1, dtype=torch.long, device=device),
        norms=torch.zeros(0, dtype=torch.float64, device=device),
        dropped_users=0,
    )


def gather(encoder: Tensor, slot_gradients_BRD: Tensor, item_ids: Tensor, n_items: int) -> UserGradients:
    """Merges slots that hold the same item of the same user, takes joint norms, zeroes non-finite users.

    Args:
        encoder: [B, P] gradients.
        slot_gradients_BRD: gradient of each slot's vector.
        item_ids: [B, R]; negative ids are empty slots, whose gradient is discarded.
        n_items: rows of the tower.
    """
    rows = gather_rows(_norms(encoder), slot_gradients_BRD, item_ids, n_items)
    if not bool(rows.finite.all()):
        encoder = torch.where(rows.finite.unsqueeze(1), encoder, 0.0)
    return UserGradients(
        encoder=encoder,
        row_items=rows.items,
        row_values=rows.values,
        row_offsets=rows.offsets,
        norms=rows.joint_norms,
        dropped_users=int((~rows.finite).sum()),
    )


@dataclass(frozen=True, eq=False)
class TouchedRows:
    """The item rows of B users beside the norms of their joint vectors [encoder || rows].

    Attributes:
        items: [rows] long, user by user, each item once.
        values: [rows, d] float32; zeros for users that are not finite.
        offsets: [B + 1] long, where each user's rows begin.
        joint_norms: [B] float64; 0 for users that are not finite.
        finite: [B] whether all of a user's numbers are.
    """

    items: Tensor = field(repr=False)
    values: Tensor = field(repr=False)
    offsets: Tensor = field(repr=False)
    joint_norms: Tensor = field(repr=False)
    finite: Tensor = field(repr=False)


def gather_rows(
    encoder_norms: Tensor, slot_gradients_BRD: Tensor, item_ids: Tensor, n_items: int
) -> TouchedRows:
    """Merges slots that hold the same item of the same user, and takes joint norms.

    Args:
        encoder_norms: [B] float64, of the users' encoder gradients.
        slot_gradients_BRD: gradient of each slot's vector.
        item_ids: [B, R]; negative ids are empty slots, whose gradient is discarded.
        n_items: rows of the tower.
    """
    users, dim = item_ids.shape[0], slot_gradients_BRD.shape[-1]
    finite = encoder_norms.isfinite() & slot_gradients_BRD.isfinite().flatten(1).all(dim=1)
    if not bool(finite.all()):
        encoder_norms = torch.where(finite, encoder_norms, 0.0)
        slot_gradients_BRD = torch.where(finite.view(-1, 1, 1), slot_gradients_BRD, 0.0)

    filled = item_ids >= 0
    user_of_slot = torch.arange(users, device=item_ids.device).unsqueeze(1)
    cells, row_of_slot = torch.unique((user_of_slot * n_items + item_ids)[filled], return_inverse=True)
    rows = slot_gradients_BRD.new_zeros(cells.numel(), dim)
    rows.index_add_(0, row_of_slot, slot_gradients_BRD[filled])
    user_of_row = cells // n_items

    squared = encoder_norms.square().index_add(0, user_of_row, _norms(rows).square())
    counts = torch.bincount(user_of_row, minlength=users)
    return TouchedRows(
        items=cells % n_items,
        values=rows,
        offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        joint_norms=squared.sqrt(),
        finite=finite,
    )


def _norms(rows: Tensor) -> Tensor:
    """Float64 norm of each row, finite exactly if all its entries are, good to about 1e-6."""
    norms = torch.linalg.vector_norm(rows, dim=1)
    if not bool(norms.isfinite().all()):
        # Squares may have overflowed 32 bits; this pass is five times slower and cannot.
        return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms.double()


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy()
