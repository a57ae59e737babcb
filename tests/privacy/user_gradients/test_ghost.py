"""Ghost clipping against hooks: same norms, same clipped sum, same refusals, and a bound that holds after rounding."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from privacy.errors import InputError, SensitivityViolation
from privacy.user_gradients import (
    check_engine,
    choose_method,
    clipped_sum,
    encoder_size,
    per_user_gradients,
    wrap_encoder,
    wrap_for,
)
from privacy.user_gradients.clipped_sum import MOST_HOOK_ENTRIES, Method
from privacy.user_gradients.engine import LossFn
from privacy.user_gradients.ghost import GhostEncoder
from privacy.user_gradients.ghost_gradients import ghost_gradients
from privacy.user_gradients.layer_gradients import MatrixGradients
from recsys_models.batches import NextItemBatch, next_item_batch
from recsys_models.encoders.registry import ENCODERS, build_encoder
from tests.privacy.user_gradients import encoders
from tests.privacy.user_gradients.encoders import DIM, Sound, TwiceCalled, own_softmax

CLIP = 0.5


def moved_a_little(encoder: nn.Module) -> nn.Module:
    """No branch at zero, so that no gradient hides; no dropout, so that two passes agree."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return encoder


def sound() -> nn.Module:
    torch.manual_seed(2)
    return moved_a_little(Sound())


def batch_of(items: int, *, users: int, length: int, negatives: int = 5) -> NextItemBatch:
    random = np.random.default_rng(4)
    histories = [random.integers(0, items, int(k)) for k in random.integers(2, length + 2, users)]
    sampled = random.integers(0, items, (users, negatives))
    return next_item_batch(
        histories,
        max_length=length,
        negatives=sampled,
        log_expected_count=np.zeros(sampled.shape, dtype=np.float32),
    )


def assert_same_as_hooks(
    encoder: nn.Module, table: Tensor, ids: Tensor, loss: LossFn, *, train_table: bool = True
) -> None:
    hooks = per_user_gradients(
        wrap_encoder(copy.deepcopy(encoder)), table, ids, loss, train_table=train_table
    )
    ghost = ghost_gradients(GhostEncoder(encoder), table, ids, loss, train_table=train_table)
    torch.testing.assert_close(ghost.norms, hooks.norms, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(ghost.rows.values, hooks.row_values)
    factors = (CLIP / hooks.norms).clamp(max=1.0)
    assert bool((factors < 1.0).any())  # somebody is clipped
    expected = factors @ hooks.encoder.double()
    found = ghost.encoder_sum(ghost.clip_factors(CLIP))
    assert float((found - expected).norm()) < 1e-5 * float(expected.norm())


@pytest.mark.parametrize(("dim", "length"), [(8, 7), (32, 4)])
@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_has_the_clipped_sum_of_hooks(name: str, dim: int, length: int) -> None:
    torch.manual_seed(1)
    encoder = moved_a_little(build_encoder(name, dim, max_length=length, blocks=2))
    batch = batch_of(40, users=9, length=length)
    assert_same_as_hooks(encoder, torch.randn(40, dim), batch.item_ids, batch)


@pytest.mark.parametrize("train_table", [True, False])
@pytest.mark.parametrize("kind", [Sound, TwiceCalled])
def test_layers_called_once_or_twice(
    kind: type[nn.Module], train_table: bool, table: Tensor, item_ids: Tensor
) -> None:
    torch.manual_seed(2)
    assert_same_as_hooks(moved_a_little(kind()), table, item_ids, own_softmax, train_table=train_table)


def matrices_of(layer: MatrixGradients) -> Tensor:
    return torch.einsum("bto,bti->boi", layer.outputs_BTO.double(), layer.inputs_BTI.double())


@pytest.mark.parametrize("has_bias", [True, False])
def test_norms_by_positions_and_by_entries_agree(has_bias: bool) -> None:
    torch.manual_seed(0)
    layer = MatrixGradients(torch.randn(5, 6, 4), torch.randn(5, 6, 3), has_bias)
    a, b, matrices = layer.inputs_BTI.double(), layer.outputs_BTO.double(), matrices_of(layer)
    expected = matrices.square().sum(dim=(1, 2)) + (b.sum(dim=1).square().sum(dim=1) if has_bias else 0.0)
    for found in (layer._by_positions(a, b), layer._by_entries(a, b), layer.squared_norms()):
        torch.testing.assert_close(found, expected)
    weights = torch.rand(5, dtype=torch.float64)
    summed = layer.weighted_sum(weights)
    torch.testing.assert_close(summed[0], torch.einsum("b,boi->oi", weights, matrices).reshape(-1))
    assert len(summed) == 1 + has_bias


@pytest.mark.parametrize(("positions", "width"), [(4, 40), (40, 4)])
@pytest.mark.parametrize("size", [1.0, 1e4, 1e8, 1e12])
def test_norms_are_never_too_small_where_huge_terms_cancel(size: float, positions: int, width: int) -> None:
    """What a server could arrange by publishing huge item vectors."""
    torch.manual_seed(0)
    inputs, outputs = size * torch.randn(20, 1, width), torch.randn(20, positions // 2, width)
    layer = MatrixGradients(
        inputs.expand(-1, positions, -1) * (1.0 + 1e-7 * torch.randn(20, positions, 1)),
        torch.cat([outputs, -outputs], dim=1),
        False,
    )
    norms, matrices = layer.squared_norms().sqrt(), matrices_of(layer)
    true = matrices.flatten(1).norm(dim=1)
    assert bool((norms >= true * (1 - 1e-6)).all())
    # The sum that these norms allow keeps the clip norm, to within the margin for arithmetic.
    factors = (1.0 / norms).clamp(max=1.0)
    for user in range(20):
        only = torch.where(torch.arange(20) == user, factors, 0.0)
        assert float(layer.weighted_sum(only)[0].norm()) <= 1.0 + 1e-6


def test_few_users_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, outputs = torch.randn(7, 3, 4), torch.randn(7, 3, 2)
    layer = MatrixGradients(inputs, outputs, True)
    weights = torch.rand(7, dtype=torch.float64)
    whole = (layer.squared_norms(), *layer.weighted_sum(weights))
    monkeypatch.setattr("privacy.user_gradients.layer_gradients._AT_ONCE", 40)
    for found, expected in zip((layer.squared_norms(), *layer.weighted_sum(weights)), whole, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("batches", [[9], [4, 5], [1] * 9])
def test_a_user_moves_the_integers_by_at_most_the_bound(
    batches: list[int], table: Tensor, item_ids: Tensor
) -> None:
    encoder = GhostEncoder(sound())

    def total(ids: Tensor) -> np.ndarray:
        running = clipped_sum(encoder, 12, DIM, l2_clip_norm=CLIP, unit=CLIP / 3000)
        for part in ids.split(
            batches[0] if len(set(batches)) == 1 else [*batches[:-1], len(ids) - batches[0]]
        ):
            running.add(table, part, own_softmax)
        assert running.total().l2_bound == 3000
        assert running.total().users == len(ids)
        return running.total().values

    everyone = total(item_ids)
    moved = [
        sum(int(v) ** 2 for v in everyone - total(torch.cat([item_ids[:u], item_ids[u + 1 :]])))
        for u in range(9)
    ]
    assert max(moved) <= 3000**2
    assert max(moved) > (0.98 * 3000) ** 2  # somebody is clipped


def test_the_sum_differs_from_that_of_hooks_by_what_rounding_and_its_margin_cost(
    table: Tensor, item_ids: Tensor
) -> None:
    sums = []
    for method in ("hooks", "ghost"):
        encoder = wrap_for(method, sound())
        running = clipped_sum(encoder, 12, DIM, l2_clip_norm=CLIP, unit=CLIP / 2**20)
        norms = running.add(table, item_ids, own_softmax)
        assert norms.shape == (9,)
        sums.append(running.total().values)
    size = np.linalg.norm(sums[0])
    assert 0.0 < np.linalg.norm(sums[1] - sums[0]) < 1.1e-3 * size


def test_broken_users_are_left_out_and_spoil_nobody(table: Tensor, item_ids: Tensor) -> None:
    def loss(encoder: nn.Module, vectors: Tensor) -> Tensor:
        return own_softmax(encoder, vectors) * torch.where(torch.arange(9) == 4, torch.nan, 1.0)

    def total(ids: Tensor, loss_fn: LossFn) -> np.ndarray:
        encoder = GhostEncoder(sound())
        running = clipped_sum(encoder, 12, DIM, l2_clip_norm=CLIP, unit=CLIP / 2**14)
        running.add(table, ids, loss_fn)
        return running.total().values

    others = torch.arange(9) != 4
    difference = total(item_ids, loss) - total(item_ids[others], own_softmax)
    assert np.abs(difference).max() <= 1  # another width of the batch may round a last bit differently
    gradients = ghost_gradients(GhostEncoder(sound()), table, item_ids, loss)
    assert gradients.dropped_users == 1
    assert gradients.norms[4] == 0.0


def test_an_empty_batch_adds_nothing(table: Tensor) -> None:
    def never(encoder: nn.Module, vectors: Tensor) -> Tensor:
        raise RuntimeError("called")

    encoder = GhostEncoder(Sound())
    running = clipped_sum(encoder, 12, DIM, l2_clip_norm=CLIP, unit=CLIP / 2**14)
    assert running.add(table, torch.zeros(0, 8, dtype=torch.long), never).shape == (0,)
    assert not running.total().values.any()


@pytest.mark.parametrize(
    "kind", [encoders.FunctionalTable, encoders.FunctionalOutput, encoders.OnlyFunctional]
)
def test_every_step_refuses_parameters_used_outside_their_module(
    kind: type[nn.Module], table: Tensor, item_ids: Tensor
) -> None:
    with pytest.raises(SensitivityViolation, match="used outside its module"):
        ghost_gradients(GhostEncoder(moved_a_little(kind())), table, item_ids, own_softmax)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (encoders.BatchNormed, "keeps a state"),
        (encoders.Recurrent, "no rule for a GRU"),
        (encoders.OpacusRecurrent, "no rule for a DPGRU"),
        (encoders.BareParameter, "no rule for a BareParameter"),
        (encoders.TorchAttention, "no rule for a MultiheadAttention"),
        (lambda: nn.Sequential(nn.Conv1d(4, 4, 3, groups=2)), "groups"),
        (lambda: nn.Sequential(nn.Conv1d(4, 4, 3, padding="same")), "padding given by name"),
        (lambda: nn.Sequential(nn.Embedding(4, 4, padding_idx=0)), "a padding row"),
        (lambda: nn.Sequential(nn.LayerNorm([2, 3])), "several axes"),
    ],
)
def test_refuses_layers_without_a_rule(kind: type[nn.Module], reason: str) -> None:
    with pytest.raises(SensitivityViolation, match=f"no ghost clipping.*{reason}"):
        GhostEncoder(kind())


def test_refuses_shared_and_half_frozen_parameters() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(SensitivityViolation, match="shares a parameter with 0"):
        GhostEncoder(tied)
    half = nn.Sequential(nn.Linear(4, 4))
    half[0].bias.requires_grad_(False)
    with pytest.raises(SensitivityViolation, match="only a part of its parameters"):
        GhostEncoder(half)


def test_the_guard_covers_ghost_clipping(table: Tensor, item_ids: Tensor) -> None:
    torch.manual_seed(2)
    check = check_engine(Sound(), table, item_ids, lambda _users: own_softmax, CLIP, method="ghost")
    assert (check.users, check.relative_error < 1e-5) == (8, True)
    with pytest.raises(SensitivityViolation, match="mixes users"):
        check_engine(Sound(), table, item_ids, lambda _users: encoders.in_batch_softmax, CLIP, method="ghost")
    with pytest.raises(SensitivityViolation, match="mixes users"):
        check_engine(
            encoders.CentredOverBatch(), table, item_ids, lambda _u: own_softmax, CLIP, method="ghost"
        )


def test_auto_takes_ghost_where_hooks_need_much_memory() -> None:
    encoder = nn.Linear(100, 100, bias=False)
    assert choose_method("auto", encoder, MOST_HOOK_ENTRIES // 10_000) == "hooks"
    assert choose_method("auto", encoder, MOST_HOOK_ENTRIES // 10_000 + 1) == "ghost"
    assert choose_method("hooks", encoder, 10**9) == "hooks"
    assert choose_method("ghost", encoder, 1) == "ghost"


def test_a_grid_too_coarse_for_rounding_is_refused() -> None:
    encoder = GhostEncoder(Sound())
    assert encoder_size(encoder) == 108
    with pytest.raises(InputError, match="more than a quarter"):
        clipped_sum(encoder, 12, DIM, l2_clip_norm=1.0, unit=1 / 40)


def test_taking_the_recorders_off_leaves_the_encoder_as_it_was(table: Tensor, item_ids: Tensor) -> None:
    encoder = Sound()
    wrapped = GhostEncoder(encoder)
    ghost_gradients(wrapped, table, item_ids, own_softmax)
    assert wrapped.to_standard_module() is encoder
    assert all(p.grad is None for p in encoder.parameters())
    encoder(table[:3].unsqueeze(0)).sum().backward()
    assert not wrapped._inputs


@pytest.mark.parametrize("method", ["hooks", "ghost"])
@pytest.mark.parametrize(
    "kind", [encoders.FunctionalTable, encoders.FunctionalOutput, encoders.OnlyFunctional]
)
def test_a_data_step_clips_what_it_sees_and_refuses_nobody(
    method: Method,
    kind: type[nn.Module],
    table: Tensor,
    item_ids: Tensor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The sum that users of a log go into: a violation is noted here, and one user still moves it by her bound at most."""
    torch.manual_seed(4)
    wrapped = wrap_for(method, moved_a_little(kind()))
    sums = []
    for ids in (item_ids, item_ids[:-1]):
        running = clipped_sum(wrapped, len(table), table.shape[1], l2_clip_norm=CLIP, unit=CLIP / 2**14)
        running.add(table, ids, own_softmax)
        sums.append(running.total())
    moved = (sums[0].values - sums[1].values).astype(np.float64)
    assert 0.0 < np.linalg.norm(moved) <= sums[0].l2_bound * (1.0 + 1e-3)
    assert "only what the hooks saw is used" in caplog.text
