"""Does the engine give what it promises for *this* encoder and *this* loss? Compared with plain autograd,
user by user.

Per-user gradients fail silently: a parameter used functionally, a loss that mixes users or a normalisation
over the batch all train well, and leave the sensitivity bound untrue. So every new combination of encoder and
loss is checked before it touches a budget. Deterministic, well below a second for the encoders here.
"""

# torch and Opacus are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from privacy.errors import InputError, SensitivityViolation
from privacy.user_gradients.clipped_sum import Method, wrap_for
from privacy.user_gradients.engine import LossFn, per_user_gradients
from privacy.user_gradients.ghost import GhostEncoder
from privacy.user_gradients.ghost_gradients import ghost_gradients
from privacy.user_gradients.gradients import UserGradients

MAX_RELATIVE_ERROR = 1e-4
MAX_NORM_EXCESS = 1e-3
MAX_USERS = 8


@dataclass(frozen=True)
class EngineCheck:
    """What the guard measured.

    Attributes:
        users: how many users were compared.
        relative_error: largest distance between engine and autograd, relative to the norm of the user's
            gradient.
        clipped_norm: largest true norm of a user after the engine's clip factor, relative to the clip norm.
    """

    users: int
    relative_error: float
    clipped_norm: float


def check_engine(
    encoder: nn.Module | Callable[[], nn.Module],
    table: Tensor,
    item_ids: Tensor,
    loss_for: Callable[[Tensor], LossFn],
    l2_clip_norm: float,
    *,
    train_table: bool = True,
    method: Method = "hooks",
) -> EngineCheck:
    """Compares the engine on a batch with autograd on each of its users alone.

    Works on copies, without dropout, and with parameters moved a little from where they are (by a fixed
    seed), because a branch that starts at zero would hide an error behind it.

    Args:
        encoder: an unwrapped encoder, or a function that makes one.
        table: [n_items, d] item vectors.
        item_ids: [B, R] slots, as for the engine; the first 8 users are used, at least 2 are needed.
        loss_for: the loss for a choice of users, by position in ``item_ids`` (a long tensor). Called with all
            users, and with each one alone: a loss that looks at its neighbours then differs.
        l2_clip_norm: the clip norm that training will use.
        train_table: as for the engine.
        method: by which training will take per-user gradients.

    Raises:
        SensitivityViolation: relative error above 1e-4, or a clipped user above ``l2_clip_norm * (1 +
            1e-3)``, or a layer without per-user gradients.
        InputError: if the arguments cannot be checked: fewer than two users, or nobody with a gradient.
    """
    if not 0.0 < l2_clip_norm < float("inf"):
        raise InputError(f"l2_clip_norm must be positive and finite, got {l2_clip_norm!r}")
    users = min(item_ids.shape[0], MAX_USERS)
    if users < 2:
        raise InputError(f"the guard needs at least 2 users to see whether they mix, got {users}")
    table, item_ids = _only_touched(table, item_ids[:users])
    plain = _probe(encoder)
    wrapped = wrap_for(method, copy.deepcopy(plain))
    _without_dropout(wrapped)
    references = [_autograd(plain, table, item_ids[u], loss_for(_one(u)), train_table) for u in range(users)]
    loss_fn = loss_for(torch.arange(users))
    if isinstance(wrapped, GhostEncoder):
        ghost = ghost_gradients(wrapped, table, item_ids, loss_fn, train_table=train_table)
        # A factor of 1 for one user and 0 for all others: her gradient, as the clipped sum would add it.
        each = torch.stack(
            [ghost.encoder_sum(one) for one in torch.eye(users, dtype=torch.float64, device=table.device)]
        )
        rows = ghost.rows
        gradients = UserGradients(
            each, rows.items, rows.values, rows.offsets, ghost.norms, ghost.dropped_users
        )
    else:
        gradients = per_user_gradients(wrapped, table, item_ids, loss_fn, train_table=train_table)
    if gradients.dropped_users:
        raise SensitivityViolation(
            f"{gradients.dropped_users} of {users} probe users have non-finite gradients"
        )
    return _compare(gradients, references, table.shape, l2_clip_norm)


def _only_touched(table: Tensor, item_ids: Tensor) -> tuple[Tensor, Tensor]:
    """The rows these users touch, numbered anew: the check then costs nothing that grows with the catalogue."""
    filled = item_ids >= 0
    items, position = torch.unique(item_ids[filled], return_inverse=True)
    renumbered = torch.full_like(item_ids, -1)
    renumbered[filled] = position
    return (table[items] if items.numel() else table[:1]), renumbered


def _compare(
    gradients: UserGradients, references: list[Tensor], table_shape: torch.Size, l2_clip_norm: float
) -> EngineCheck:
    largest = max(float(gradients.norms.max()), *(float(reference.norm()) for reference in references))
    if not 0.0 < largest < float("inf"):
        raise InputError(f"the probe users' gradients have norms up to {largest}: give users with next items")
    worst_error, worst_norm = 0.0, 0.0
    for user, reference in enumerate(references):
        mine = _dense(gradients, user, table_shape)
        size = float(reference.norm())
        gap = float((mine - reference).norm())
        error = gap / max(size, float(mine.norm()), 1e-12)
        # Rounding is relative to the terms of a gradient, which may cancel in one user: hence the floor.
        if error > MAX_RELATIVE_ERROR and gap > 1e-6 * largest:
            raise SensitivityViolation(
                f"user {user}: the engine's gradient is {error:.1%} off autograd's for this user alone; a "
                "parameter is used outside its module, or the loss or a layer mixes users (in-batch "
                "negatives, batch norm, a mean over the batch)"
            )
        clipped = size * min(1.0, l2_clip_norm / max(float(gradients.norms[user]), 1e-300))
        if not clipped <= l2_clip_norm * (1.0 + MAX_NORM_EXCESS):
            raise SensitivityViolation(
                f"user {user}: norm {clipped:.4g} after clipping to {l2_clip_norm:.4g}; the engine's norm "
                "misses a part of the gradient"
            )
        worst_error, worst_norm = max(worst_error, error), max(worst_norm, clipped / l2_clip_norm)
    return EngineCheck(len(references), worst_error, worst_norm)


def _probe(encoder: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """A copy in training mode, without dropout, with every parameter moved a little."""
    made = copy.deepcopy(encoder) if isinstance(encoder, nn.Module) else encoder()
    if hasattr(made, "loss_reduction"):
        raise InputError("the guard needs the encoder as it was before wrap_encoder or wrap_for")
    made.train()
    _without_dropout(made)
    generator = torch.Generator().manual_seed(20)
    with torch.no_grad():
        for parameter in made.parameters():
            step = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * step.to(parameter.device, parameter.dtype))
    return made


def _without_dropout(encoder: nn.Module) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.eval()


def _one(user: int) -> Tensor:
    return torch.tensor([user])


def _autograd(encoder: nn.Module, table: Tensor, slots: Tensor, loss_fn: LossFn, train_table: bool) -> Tensor:
    """The joint gradient [P + n_items * d] of one user alone, by plain autograd, in float64."""
    filled = slots >= 0
    vectors = table.detach()[slots.clamp(min=0)].masked_fill(~filled.unsqueeze(-1), 0.0).unsqueeze(0)
    vectors.requires_grad_(train_table)
    parameters = [p for p in encoder.parameters() if p.requires_grad]
    sources = [*parameters, vectors] if train_table else parameters
    loss = loss_fn(encoder, vectors).sum()
    filled_in = torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True)
    tower = torch.zeros_like(table, dtype=torch.float64)
    if train_table:
        tower.index_add_(0, slots[filled], filled_in[-1][0][filled].double())
    flat = [gradient.double().reshape(-1) for gradient in filled_in[: len(parameters)]]
    return torch.cat([*flat, tower.reshape(-1)])


def _dense(gradients: UserGradients, user: int, table_shape: torch.Size) -> Tensor:
    start, end = int(gradients.row_offsets[user]), int(gradients.row_offsets[user + 1])
    tower = torch.zeros(table_shape, dtype=torch.float64, device=gradients.encoder.device)
    tower[gradients.row_items[start:end]] = gradients.row_values[start:end].double()
    return torch.cat([gradients.encoder[user].double(), tower.reshape(-1)])
