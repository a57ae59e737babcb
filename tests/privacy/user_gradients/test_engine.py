from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from privacy.bounded import clip_and_sum
from privacy.errors import InputError, SensitivityViolation
from privacy.user_gradients import encoder_size, per_user_gradients, set_encoder_gradient, wrap_encoder
from tests.privacy.user_gradients import encoders
from tests.privacy.user_gradients.encoders import DIM, Sound, TwiceCalled, own_softmax


def without_dropout(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(2)
    encoder = kind()
    encoder.dropout = nn.Dropout(0.0)
    return encoder


def joint_gradient(encoder: nn.Module, table: Tensor, slots: Tensor) -> np.ndarray:
    """One user alone, a dense trainable table, plain autograd: the definition."""
    dense = table.clone().requires_grad_(True)
    vectors = torch.where((slots >= 0).unsqueeze(-1), dense[slots.clamp(min=0)], 0.0)
    own_softmax(encoder, vectors.unsqueeze(0)).sum().backward()
    flat = torch.cat([*(p.grad.reshape(-1) for p in encoder.parameters()), dense.grad.reshape(-1)])
    encoder.zero_grad()
    return flat.double().numpy()


@pytest.mark.parametrize("kind", [Sound, TwiceCalled])
def test_joint_vector_of_each_user_equals_plain_autograd(
    kind: type[nn.Module], table: Tensor, item_ids: Tensor
) -> None:
    plain = without_dropout(kind)
    expected = np.stack([joint_gradient(plain, table, slots) for slots in item_ids])
    gradients = per_user_gradients(wrap_encoder(plain), table, item_ids, own_softmax)
    rows = gradients.to_contributions(12)
    dense = np.zeros((9, rows.length))
    for user in range(9):
        mine = slice(rows.offsets[user], rows.offsets[user + 1])
        dense[user, rows.indices[mine]] = rows.values[mine]
    np.testing.assert_allclose(dense, expected, atol=2e-6)
    np.testing.assert_allclose(gradients.norms.numpy(), np.linalg.norm(expected, axis=1), rtol=1e-5)


def test_rows_are_sparse_sorted_and_unique(table: Tensor, item_ids: Tensor) -> None:
    gradients = per_user_gradients(wrap_encoder(without_dropout(Sound)), table, item_ids, own_softmax)
    for user in range(9):
        rows = gradients.row_items[gradients.row_offsets[user] : gradients.row_offsets[user + 1]]
        assert rows.tolist() == sorted(set(item_ids[user].tolist()) - {-1})


def test_the_slot_of_an_empty_id_gets_no_gradient(table: Tensor) -> None:
    ids = torch.full((2, 8), -1)
    ids[0, :4] = torch.arange(4)
    gradients = per_user_gradients(wrap_encoder(without_dropout(Sound)), table, ids, own_softmax)
    assert gradients.row_offsets.tolist() == [0, 4, 4]


def test_clipped_sum_moves_by_at_most_the_clip_norm(table: Tensor, item_ids: Tensor) -> None:
    wrapped = wrap_encoder(without_dropout(Sound))

    def total(ids: Tensor) -> np.ndarray:
        rows = per_user_gradients(wrapped, table, ids, own_softmax).to_contributions(12)
        return clip_and_sum(rows, l2_clip_norm=0.5, unit=1e-5).values

    everyone = total(item_ids)
    moved = [
        np.linalg.norm(everyone - total(torch.cat([item_ids[:u], item_ids[u + 1 :]]))) * 1e-5
        for u in range(9)
    ]
    assert max(moved) <= 0.5
    assert max(moved) > 0.49  # somebody is clipped, so the bound is tight


def test_an_empty_batch_runs_nothing(table: Tensor) -> None:
    def never(encoder: nn.Module, vectors: Tensor) -> Tensor:
        raise RuntimeError("called")

    wrapped = wrap_encoder(Sound())
    gradients = per_user_gradients(wrapped, table, torch.zeros(0, 8, dtype=torch.long), never)
    rows = gradients.to_contributions(12)
    assert gradients.n_users == 0
    assert (rows.users, rows.length) == (0, encoder_size(wrapped) + 12 * DIM)
    assert not clip_and_sum(rows, l2_clip_norm=1.0, unit=1e-3).values.any()


def test_frozen_tower_gives_encoder_gradients_alone(table: Tensor, item_ids: Tensor) -> None:
    plain = without_dropout(Sound)
    both = per_user_gradients(wrap_encoder(plain), table, item_ids, own_softmax)
    frozen = per_user_gradients(
        wrap_encoder(without_dropout(Sound)), table, item_ids, own_softmax, train_table=False
    )
    torch.testing.assert_close(frozen.encoder, both.encoder)
    torch.testing.assert_close(frozen.norms, both.encoder.double().norm(dim=1))
    assert frozen.to_contributions(0).length == encoder_size(plain)


def test_broken_user_is_emptied_and_counted_and_spoils_nobody(table: Tensor, item_ids: Tensor) -> None:
    def loss(encoder: nn.Module, vectors: Tensor) -> Tensor:
        losses = own_softmax(encoder, vectors)
        return losses * torch.where(torch.arange(9) == 4, torch.nan, 1.0)

    whole = per_user_gradients(wrap_encoder(without_dropout(Sound)), table, item_ids, own_softmax)
    broken = per_user_gradients(wrap_encoder(without_dropout(Sound)), table, item_ids, loss)
    others = torch.arange(9) != 4
    assert broken.dropped_users == 1
    assert broken.norms[4] == 0.0
    assert torch.equal(broken.encoder[others], whole.encoder[others])
    assert broken.to_contributions(12).dropped_users == 0  # nothing non-finite is left to drop


def test_steps_do_not_accumulate_and_batches_may_change_size(table: Tensor, item_ids: Tensor) -> None:
    wrapped = wrap_encoder(without_dropout(Sound))
    first = per_user_gradients(wrapped, table, item_ids, own_softmax)
    per_user_gradients(wrapped, table, item_ids[:3], own_softmax)
    again = per_user_gradients(wrapped, table, item_ids, own_softmax)
    assert torch.equal(first.encoder, again.encoder)
    assert all(p.grad is None for p in wrapped.parameters())


def test_an_interrupted_step_leaves_nothing_behind(table: Tensor, item_ids: Tensor) -> None:
    wrapped = wrap_encoder(without_dropout(Sound))
    first = per_user_gradients(wrapped, table, item_ids, own_softmax)

    def interrupted(encoder: nn.Module, vectors: Tensor) -> Tensor:
        own_softmax(encoder, vectors[:2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        per_user_gradients(wrapped, table, item_ids, interrupted)
    again = per_user_gradients(wrapped, table, item_ids, own_softmax)
    assert torch.equal(first.encoder, again.encoder)


@pytest.mark.parametrize(
    "kind", [encoders.FunctionalTable, encoders.FunctionalOutput, encoders.OnlyFunctional]
)
def test_every_step_refuses_parameters_used_outside_their_module(
    kind: type[nn.Module], table: Tensor, item_ids: Tensor
) -> None:
    with pytest.raises(SensitivityViolation, match="used outside its module"):
        per_user_gradients(wrap_encoder(without_dropout(kind)), table, item_ids, own_softmax)


@pytest.mark.parametrize(
    "kind", [encoders.BatchNormed, encoders.Recurrent, encoders.BareParameter, encoders.TorchAttention]
)
def test_layers_without_sound_gradients_cannot_be_wrapped(kind: type[nn.Module]) -> None:
    with pytest.raises(SensitivityViolation, match="no sound per-user gradients"):
        wrap_encoder(kind())


def test_warns_about_nothing(table: Tensor, item_ids: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapped = wrap_encoder(Sound())
        per_user_gradients(wrapped, table, item_ids, own_softmax, train_table=False)


def test_flat_gradient_reaches_the_optimiser(table: Tensor) -> None:
    wrapped = wrap_encoder(Sound())
    size = encoder_size(wrapped)
    before = torch.cat([p.detach().reshape(-1).clone() for p in wrapped.parameters()])
    set_encoder_gradient(wrapped, np.arange(size, dtype=np.float64))
    torch.optim.SGD(wrapped.parameters(), lr=1.0).step()
    after = torch.cat([p.detach().reshape(-1) for p in wrapped.parameters()])
    torch.testing.assert_close(before - after, torch.arange(size, dtype=torch.float32), atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="expected a gradient of shape"):
        set_encoder_gradient(wrapped, np.zeros(size + 1))


class TestRefuses:
    def test_an_encoder_without_hooks(self, table: Tensor, item_ids: Tensor) -> None:
        with pytest.raises(InputError, match="wrap_encoder"):
            per_user_gradients(Sound(), table, item_ids, own_softmax)

    def test_an_encoder_in_eval_mode(self, table: Tensor, item_ids: Tensor) -> None:
        with pytest.raises(InputError, match="eval mode"):
            per_user_gradients(wrap_encoder(Sound()).eval(), table, item_ids, own_softmax)

    @pytest.mark.parametrize("bad", [12, -2])
    def test_ids_outside_the_tower(self, table: Tensor, item_ids: Tensor, bad: int) -> None:
        item_ids[2, 2] = bad
        with pytest.raises(InputError, match=r"outside -1\.\.11"):
            per_user_gradients(wrap_encoder(Sound()), table, item_ids, own_softmax)

    def test_one_loss_for_the_whole_batch(self, table: Tensor, item_ids: Tensor) -> None:
        with pytest.raises(InputError, match="one differentiable loss per user"):
            per_user_gradients(wrap_encoder(Sound()), table, item_ids, lambda e, v: own_softmax(e, v).mean())

    def test_rows_outside_the_tower_of_the_sum(self, table: Tensor, item_ids: Tensor) -> None:
        gradients = per_user_gradients(wrap_encoder(Sound()), table, item_ids, own_softmax)
        with pytest.raises(InputError, match="the tower has 5 items"):
            gradients.to_contributions(5)
