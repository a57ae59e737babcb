"""One backward pass, and each user's own gradient: of the encoder by Opacus' hooks, of the items by gathered
rows.

Opacus materialises a dense copy of an item table for every user (B * items * d floats). Here the items a user
touches are *slots*: their vectors are gathered into a leaf [B, R, d] before the encoder runs, so the gradient
of that leaf is already separate by user, and its cost does not depend on the catalogue. DP-SGD (Abadi et al.
2016, Algorithm 1, per-example gradients) with the user as the example.

What makes it exact, and is checked: the encoder sees items only as vectors of the user's own slots; its
parameters act only through modules that Opacus hooks; and ``loss_fn`` gives losses that do not mix users
(``guard.check_engine``).
"""

# torch and Opacus are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privacy.errors import InputError, SensitivityViolation
from privacy.user_gradients.gradients import UserGradients, gather, no_users

if TYPE_CHECKING:
    from opacus import GradSampleModule

# torch notes that hooked modules whose inputs need no gradient report output gradients: that is intended. Set once and not
# around each pass, because `warnings.catch_warnings` is not safe where several clients train in threads.
warnings.filterwarnings("ignore", message="Full backward hook is firing")

_LOG = logging.getLogger("fedtower.client")

Report = Callable[[str], None]
"""What is done about gradients that are not those of the hooked modules: :func:`refuse` or :func:`note`."""

LossFn = Callable[[nn.Module, Tensor], Tensor]
"""``(encoder, vectors [B, R, d]) -> losses [B]``; loss u depends on ``vectors[u]`` and on user u's own data
alone.
"""

_HOOK_TOLERANCE = 1e-3
_ROUNDING = 1e-5


def wrap_encoder(encoder: nn.Module) -> GradSampleModule:
    """Attaches Opacus' per-user gradient hooks, in place, and puts the encoder into training mode.

    Every module that holds trainable parameters must be of a kind Opacus has an exact rule for
    (``nn.Linear``, ``nn.LayerNorm``, ``nn.Embedding``, ``nn.Conv1d``, its own ``DPGRU``, ...). Its fallback
    for other modules is not used: it fails for some only when training runs.

    Raises:
        SensitivityViolation: if a layer mixes users (batch norm) or has no such rule (``nn.GRU``,
            ``nn.MultiheadAttention``, a bare ``nn.Parameter``).
    """
    # Imported here: takes seconds, and only clients that train need it.
    from opacus import GradSampleModule
    from opacus.layers import DPGRU, DPLSTM, DPRNN

    ruled = {*GradSampleModule.GRAD_SAMPLERS, DPGRU, DPLSTM, DPRNN}
    for name, module in encoder.named_modules():
        own = [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]
        if own and type(module) not in ruled:
            raise SensitivityViolation(
                f"this encoder has no sound per-user gradients: {name or 'the encoder itself'} is a "
                f"{type(module).__name__} with parameters of its own; build it from nn.Linear, nn.LayerNorm, "
                "nn.Embedding or nn.Conv1d"
            )
    # With a frozen tower no input of the first layer needs a gradient; torch warns although the hooks are right.
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    try:
        return GradSampleModule(encoder.train(), batch_first=True, loss_reduction="sum", strict=True)
    except (NotImplementedError, ValueError) as error:
        raise SensitivityViolation(f"this encoder has no sound per-user gradients: {error}") from error


def encoder_size(encoder: nn.Module) -> int:
    """P, the number of trainable parameters."""
    return sum(parameter.numel() for parameter in trainable(encoder).values())


def refuse(finding: str) -> None:
    """For made-up users: an engine that misses a part of a gradient must not train.

    Raises:
        SensitivityViolation: always.
    """
    raise SensitivityViolation(finding)


def note(finding: str) -> None:
    """For users of a log: what a check of their gradients finds stays here.

    Whether a client answers is visible and carries no noise, so it must not depend on a log. Nothing is lost by going on:
    what the hooks give a user is hers alone, and is clipped and checked by itself. What they missed is in nobody's sum.
    """
    _LOG.warning("per-user gradients: %s; only what the hooks saw is used", finding)


def per_user_gradients(
    encoder: GradSampleModule,
    table: Tensor,
    item_ids: Tensor,
    loss_fn: LossFn,
    *,
    train_table: bool = True,
    report: Report = refuse,
) -> UserGradients:
    """Each user's gradient of ``loss_fn`` with respect to the encoder's parameters and the item vectors she
    touches.

    Args:
        encoder: from :func:`wrap_encoder`, in training mode.
        table: item vectors, [n_items, d] float32.
        item_ids: [B, R] long: the items of each user's slots (history, positives, negatives); -1 is an empty
            slot.
        loss_fn: see :data:`LossFn`. Called once with ``table[item_ids]`` (zeros in empty slots).
        train_table: False leaves the tower frozen: encoder gradients only, no rows.
        report: what is done about gradient that reached a parameter and no user; :func:`note` for users of a log.

    Guarantees:
        User u's gradient is that of ``loss_fn(...)[u]``, provided the guard passes for this encoder and loss.
        The total that autograd accumulates is compared with the sum over users at each call. An empty batch
        gives zero users and runs nothing. The encoder's gradients are cleared before and after.

    Raises:
        InputError: for shapes, ids or modes that do not fit.
        SensitivityViolation: if a parameter received gradient outside the hooked modules, and ``report`` refuses.
    """
    check_arguments(encoder, table, item_ids)
    parameters = trainable(encoder)
    users, n_items, dim = item_ids.shape[0], table.shape[0], table.shape[1]
    if users == 0:
        return no_users(encoder_size(encoder), dim, table.device)
    _clear(encoder)
    slots = run_pass(encoder, table, item_ids, loss_fn, train_table=train_table)
    whole = total_norm(parameters)
    encoder_BP = torch.empty(users, encoder_size(encoder), device=table.device)
    start = 0
    for name, parameter in parameters.items():
        end = start + parameter.numel()
        encoder_BP[:, start:end] = _per_user(name, parameter, users, whole, report)
        cast("Any", parameter).grad_sample = None  # each is as large as what it was copied to
        start = end
    _clear(encoder)
    kept_ids = item_ids if train_table else torch.full_like(item_ids, -1)
    return gather(encoder_BP, slots, kept_ids, n_items)


def run_pass(
    encoder: nn.Module, table: Tensor, item_ids: Tensor, loss_fn: LossFn, *, train_table: bool
) -> Tensor:
    """One forward and backward pass over the sum of the users' losses; whatever watches the encoder sees it.

    Returns:
        The gradient of each slot's vector, [B, R, d]; zeros where the loss does not depend on it.

    Raises:
        InputError: if ``loss_fn`` does not give one differentiable loss per user.
    """
    users = item_ids.shape[0]
    filled = item_ids >= 0
    vectors = table.detach()[item_ids.clamp(min=0)].masked_fill(~filled.unsqueeze(-1), 0.0)
    vectors.requires_grad_(train_table)
    losses = loss_fn(encoder, vectors)
    if losses.shape != (users,) or not losses.requires_grad:
        raise InputError(
            f"loss_fn must give one differentiable loss per user, [{users}]; got {tuple(losses.shape)}"
        )
    losses.sum().backward()  # a sum: each user's gradient is then in it unscaled
    return torch.zeros_like(vectors) if vectors.grad is None else vectors.grad


def set_encoder_gradient(encoder: nn.Module, flat: NDArray[np.float64] | Tensor) -> None:
    """Writes a flat gradient [P] (after clipping, noise and scaling) into ``.grad``, for any torch optimiser.

    Raises:
        InputError: if the length is not P.
    """
    gradient = torch.as_tensor(flat)
    if gradient.shape != (encoder_size(encoder),):
        raise InputError(
            f"expected a gradient of shape ({encoder_size(encoder)},), got {tuple(gradient.shape)}"
        )
    start = 0
    for parameter in trainable(encoder).values():
        part = gradient[start : start + parameter.numel()]
        parameter.grad = part.to(parameter.device, parameter.dtype).reshape(parameter.shape).clone()
        start += parameter.numel()


def trainable(encoder: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, in the order of a flat gradient."""
    return {name: p for name, p in encoder.named_parameters() if p.requires_grad}


def check_arguments(encoder: nn.Module, table: Tensor, item_ids: Tensor) -> None:
    """Refuse an encoder, a table or slots that a pass cannot be run with.

    Raises:
        InputError: for shapes, ids or modes that do not fit.
    """
    if getattr(encoder, "loss_reduction", None) != "sum":
        raise InputError("encoder must come from wrap_encoder (per-user hooks with loss_reduction='sum')")
    if not encoder.training:
        raise InputError("encoder is in eval mode, where hooks record nothing; call encoder.train()")
    if table.dim() != 2 or not table.is_floating_point():
        raise InputError(f"table must be [n_items, d] floats, got {tuple(table.shape)} {table.dtype}")
    if item_ids.dim() != 2 or item_ids.dtype != torch.long:
        raise InputError(f"item_ids must be [B, R] int64, got {tuple(item_ids.shape)} {item_ids.dtype}")
    if item_ids.numel() and not (int(item_ids.min()) >= -1 and int(item_ids.max()) < table.shape[0]):
        raise InputError(
            f"item_ids span {int(item_ids.min())}..{int(item_ids.max())}, outside -1..{table.shape[0] - 1}"
        )


def total_norm(parameters: dict[str, nn.Parameter]) -> float:
    """The norm of the total gradient over all parameters: the scale on which rounding counts."""
    return float(
        sum(float(p.grad.detach().double().square().sum()) for p in parameters.values() if p.grad is not None)
        ** 0.5
    )


def _per_user(name: str, parameter: nn.Parameter, users: int, whole: float, report: Report) -> Tensor:
    """Returns the parameter's gradients as [B, numel], after comparing their sum with autograd's total.

    A parameter that the loss hardly depends on (a scale before a normalisation) has a gradient of rounding
    errors, which differ between the two ways of summing: a gap below 1e-5 of the ``whole`` gradient passes.
    """
    per_user = cast("Tensor | list[Tensor] | None", getattr(parameter, "grad_sample", None))
    total = parameter.grad
    if per_user is None:
        if total is not None and bool((total != 0).any()):
            report(f"{name} got a gradient, but none by user: {FUNCTIONAL_USE}")
        return torch.zeros(users, parameter.numel(), device=parameter.device)
    if isinstance(per_user, list) or per_user.shape[0] != users:
        # Follows from how the encoder calls its layers: the check before training finds it on made-up users.
        report(f"{name}: hooks did not see exactly one batch of {users} users")
        return torch.zeros(users, parameter.numel(), device=parameter.device)
    flat = per_user.detach().reshape(users, -1)
    if total is not None:
        scale = torch.linalg.vector_norm(flat, dim=1).sum() + total.norm()
        compare_totals(name, flat.sum(dim=0) - total.detach().reshape(-1), float(scale), whole, report)
    return flat


def compare_totals(
    name: str, difference: Tensor, scale: float, whole: float, report: Report = refuse
) -> None:
    """Report a gradient that reached a parameter without reaching the users' own.

    Args:
        name: of the parameter.
        difference: sum over the users less autograd's total.
        scale: norms of the users' gradients and of the total, added up.
        whole: norm of the whole gradient, over all parameters.
        report: called if the difference is more than rounding.
    """
    gap = float(difference.norm())
    # False for NaN: then some user is not finite, will be dropped, and the totals say nothing.
    if gap > _HOOK_TOLERANCE * scale + _ROUNDING * whole:
        report(f"{name}: the users' gradients miss {gap / scale:.0%} of the total: {FUNCTIONAL_USE}")


FUNCTIONAL_USE = (
    "the parameter is used outside its module (for example F.embedding(ids, layer.weight) or "
    "h @ layer.weight.T); call the module instead"
)


def _clear(encoder: nn.Module) -> None:
    """Forgets gradients, and what the hooks of an interrupted pass left behind."""
    for parameter in encoder.parameters():
        parameter.grad = None
        state = cast("Any", parameter)
        state.grad_sample = None
        state._forward_counter = 0
        if hasattr(parameter, "_current_grad_sample"):
            del state._current_grad_sample
    for module in encoder.modules():
        for leftover in ("activations", "max_batch_len"):
            if leftover in vars(module):
                delattr(module, leftover)
