"""Norms and weighted sums of per-user gradients, layer by layer, without the gradients themselves.

A linear layer's gradient for one user is ``sum_t b_t a_t^T`` (``a_t`` what went in at position t, ``b_t`` the gradient of
what came out). Its squared norm is ``sum_ts (a_t . a_s)(b_t . b_s)`` (Goodfellow 2015; Li et al., "Large Language Models
Can Be Strong Differentially Private Learners", ICLR 2022, Section 4), and its sum over users weighted by clip factors c is
one product of matrices, ``sum_ut c_u b_ut a_ut^T`` (Bu, Wang, Zha, Karypis, "Differentially Private Optimization on Large
Model at Small Cost", ICML 2023, "book-keeping"). Where positions are many and the layer is small, the gradient itself costs
less than the products of positions (Bu, Mao, Xu, "Scalable and Efficient Training of Large Convolutional Neural Networks
with Differential Privacy", NeurIPS 2022, "mixed ghost clipping"); it is then made for a few users at a time.

Norms and clipped sums are computed in float64 from the same recorded numbers, and norms are never too small: also not where
large terms cancel.
"""

# torch is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_CANCELLATION = 2.0**-32
"""Share of ``(sum_t |a_t| |b_t|)^2`` that is added to squared norms: more than float64 can lose in up to 2^21 sums.

Whoever chooses the item vectors could make terms so large that nearly cancel that their squared norm is rounded to nothing.
With this addition the norm is never too small; and a clipped user's terms stay below 2^16 times her clip norm, so that
adding her up loses less than the margin kept for arithmetic (``privacy.rounded_once``). In ordinary training it is 1e-6 of
the norm or less.
"""

_AT_ONCE = 2**22  # entries of one intermediate array in float64: 32 MiB


class LayerGradients(Protocol):
    """All users' gradients of one layer's parameters, in the order of ``layer.parameters()``."""

    def squared_norms(self) -> Tensor:
        """[B] float64, never below the true ones but for a last bit; not finite for a user whose gradient is not."""
        ...

    def weighted_sum(self, weights_B: Tensor) -> list[Tensor]:
        """Sum over users of weight times gradient, in the weights' precision, one flat tensor a parameter.

        Users of weight 0 take no part, also where their numbers are not finite.
        """
        ...


@dataclass(frozen=True, eq=False)
class MatrixGradients:
    """Of ``y = x W^T + bias`` at T positions.

    Attributes:
        inputs_BTI: a.
        outputs_BTO: b.
        has_bias: whether the layer adds one; it is an input that is always 1.
    """

    inputs_BTI: Tensor
    outputs_BTO: Tensor
    has_bias: bool

    def squared_norms(self) -> Tensor:
        """See :class:`LayerGradients`."""
        _, positions, width_in = self.inputs_BTI.shape
        by_positions = 2 * positions**2 < width_in * self.outputs_BTO.shape[2]
        measure = self._by_positions if by_positions else self._by_entries
        each = positions**2 if by_positions else width_in * self.outputs_BTO.shape[2]
        parts: list[Tensor] = []
        for users in self._groups(each):
            a_GTI, b_GTO = self.inputs_BTI[users].double(), self.outputs_BTO[users].double()
            parts.append(measure(a_GTI, b_GTO) + _CANCELLATION * self._size_of_terms(a_GTI, b_GTO).square())
        return torch.cat(parts)

    def _size_of_terms(self, a_GTI: Tensor, b_GTO: Tensor) -> Tensor:
        """[G] ``sum_t |a_t| |b_t|``: how large the terms are of which the gradient is a sum."""
        size_GT = (a_GTI.square().sum(dim=2) + float(self.has_bias)).sqrt()
        return (size_GT * torch.linalg.vector_norm(b_GTO, dim=2)).sum(dim=1)

    def _by_positions(self, a_GTI: Tensor, b_GTO: Tensor) -> Tensor:
        inner_GTT = a_GTI @ a_GTI.transpose(1, 2)
        if self.has_bias:
            inner_GTT += 1.0
        # A sum of squares that cancels to below zero by rounding is zero; NaN stays NaN.
        return (inner_GTT * (b_GTO @ b_GTO.transpose(1, 2))).sum(dim=(1, 2)).clamp(min=0.0)

    def _by_entries(self, a_GTI: Tensor, b_GTO: Tensor) -> Tensor:
        squared = (b_GTO.transpose(1, 2) @ a_GTI).square().sum(dim=(1, 2))
        return squared + b_GTO.sum(dim=1).square().sum(dim=1) if self.has_bias else squared

    def weighted_sum(self, weights_B: Tensor) -> list[Tensor]:
        """See :class:`LayerGradients`."""
        width_in, width_out = self.inputs_BTI.shape[2], self.outputs_BTO.shape[2]
        matrix = weights_B.new_zeros(width_out, width_in)
        bias = weights_B.new_zeros(width_out)
        for users in self._groups(0):
            kept = users[weights_B[users] != 0]
            b_NO = (self.outputs_BTO[kept].to(weights_B.dtype) * weights_B[kept, None, None]).flatten(0, 1)
            matrix += b_NO.T @ self.inputs_BTI[kept].to(weights_B.dtype).flatten(0, 1)
            bias += b_NO.sum(dim=0)
        return [matrix.reshape(-1), bias] if self.has_bias else [matrix.reshape(-1)]

    def _groups(self, each: int) -> Iterator[Tensor]:
        """Users a few at a time, so that no intermediate array outgrows the others."""
        users, positions, width_in = self.inputs_BTI.shape
        each = max(each, positions * (width_in + self.outputs_BTO.shape[2]), 1)
        everybody = torch.arange(users, device=self.inputs_BTI.device)
        yield from everybody.split(max(1, _AT_ONCE // each))


@dataclass(frozen=True, eq=False)
class RowGradients:
    """Of a table that is looked up: only the rows a user looked up, each once.

    Attributes:
        rows: [rows, width] float64.
        user_of_row: [rows].
        index_of_row: [rows] which row of the table.
        users: B.
        table_rows: rows of the table.
    """

    rows: Tensor
    user_of_row: Tensor
    index_of_row: Tensor
    users: int
    table_rows: int

    def squared_norms(self) -> Tensor:
        """See :class:`LayerGradients`."""
        return self.rows.new_zeros(self.users).index_add(0, self.user_of_row, self.rows.square().sum(dim=1))

    def weighted_sum(self, weights_B: Tensor) -> list[Tensor]:
        """See :class:`LayerGradients`."""
        weights = weights_B[self.user_of_row]
        kept = weights != 0
        weighted = self.rows[kept].to(weights_B.dtype) * weights[kept, None]
        table = weights_B.new_zeros(self.table_rows, self.rows.shape[1])
        return [table.index_add(0, self.index_of_row[kept], weighted).reshape(-1)]


@dataclass(frozen=True, eq=False)
class VectorGradients:
    """Of parameters no larger than one position's vector: written down as they are.

    Attributes:
        parts: per parameter [B, numel] float64.
    """

    parts: tuple[Tensor, ...]

    def squared_norms(self) -> Tensor:
        """See :class:`LayerGradients`."""
        return torch.stack([part.square().sum(dim=1) for part in self.parts]).sum(dim=0)

    def weighted_sum(self, weights_B: Tensor) -> list[Tensor]:
        """See :class:`LayerGradients`."""
        kept = weights_B != 0
        return [weights_B[kept] @ part[kept].to(weights_B.dtype) for part in self.parts]


def layer_gradients(layer: nn.Module, inputs: list[Tensor], outputs: list[Tensor]) -> LayerGradients:
    """One layer's gradients from what was recorded in a pass; a layer called several times has several of each.

    Args:
        layer: of a kind without a :func:`reason_against`.
        inputs: of each call, users first.
        outputs: gradient of each call's output, of the sum of the users' losses.
    """
    if isinstance(layer, nn.Embedding):
        return _lookup(layer, inputs, outputs)
    if isinstance(layer, nn.LayerNorm):
        return _normalisation(layer, inputs, outputs)
    if isinstance(layer, nn.Conv1d):
        # A convolution is a linear layer on the windows it looks at.
        inputs = [_windows(layer, given) for given in inputs]
        outputs = [output.transpose(1, 2) for output in outputs]
    return MatrixGradients(_positions(inputs), _positions(outputs), _has_bias(layer))


def reason_against(layer: nn.Module) -> str | None:
    """Why a layer with parameters of its own has no rule here; None if it has one."""
    kind = type(layer)
    if kind is nn.Linear:
        return None
    if kind is nn.LayerNorm:
        return None if len(cast("nn.LayerNorm", layer).normalized_shape) == 1 else "it norms several axes"
    if kind is nn.Conv1d:
        convolution = cast("nn.Conv1d", layer)
        plain = convolution.groups == 1 and convolution.padding_mode == "zeros"
        if plain and not isinstance(convolution.padding, str):
            return None
        return "it has groups, a padding mode or padding given by name"
    if kind is nn.Embedding:
        table = cast("nn.Embedding", layer)
        plain = table.padding_idx is None and table.max_norm is None and not table.scale_grad_by_freq
        return None if plain else "it has a padding row, a largest norm or gradients scaled by frequency"
    return f"there is no rule for a {kind.__name__}"


def _has_bias(layer: nn.Module) -> bool:
    return getattr(layer, "bias", None) is not None


def _windows(layer: nn.Conv1d, given_BCL: Tensor) -> Tensor:
    unfolded = functional.unfold(
        given_BCL.unsqueeze(2),
        (1, layer.kernel_size[0]),
        dilation=(1, layer.dilation[0]),
        padding=(0, int(layer.padding[0])),
        stride=(1, layer.stride[0]),
    )
    return unfolded.transpose(1, 2)


def _lookup(layer: nn.Embedding, inputs: list[Tensor], outputs: list[Tensor]) -> RowGradients:
    ids_BT = _positions([given.unsqueeze(-1) for given in inputs]).squeeze(-1)
    values_BTD = _positions(outputs).double()
    users = ids_BT.shape[0]
    user_B1 = torch.arange(users, device=ids_BT.device).unsqueeze(1)
    cells, row_of = torch.unique((user_B1 * layer.num_embeddings + ids_BT).reshape(-1), return_inverse=True)
    rows = values_BTD.new_zeros(cells.numel(), layer.embedding_dim).index_add(
        0, row_of, values_BTD.flatten(0, 1)
    )
    return RowGradients(
        rows, cells // layer.num_embeddings, cells % layer.num_embeddings, users, layer.num_embeddings
    )


def _normalisation(layer: nn.LayerNorm, inputs: list[Tensor], outputs: list[Tensor]) -> VectorGradients:
    given_BTD, output_BTD = _positions(inputs), _positions(outputs).double()
    normed_BTD = functional.layer_norm(given_BTD, layer.normalized_shape, eps=layer.eps).double()
    scale, shift = (output_BTD * normed_BTD).sum(dim=1), output_BTD.sum(dim=1)
    return VectorGradients((scale, shift) if _has_bias(layer) else (scale,))


def _positions(parts: list[Tensor]) -> Tensor:
    """[B, ..., width] of each call as one [B, T, width], T all positions of all calls."""
    flat = [part.reshape(part.shape[0], -1, part.shape[-1]) for part in parts]
    return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)
