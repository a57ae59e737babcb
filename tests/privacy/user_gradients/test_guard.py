"""The guard passes what is sound, and catches every way known to break the bound."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from privacy.errors import InputError, SensitivityViolation
from privacy.user_gradients import LossFn, check_engine, engine, wrap_encoder
from tests.privacy.user_gradients import encoders
from tests.privacy.user_gradients.encoders import Sound, TwiceCalled, own_softmax


def same_for_all(loss_fn: LossFn):
    """A loss without data of its own is the same for any choice of users."""
    return lambda users: loss_fn


@pytest.mark.parametrize("train_table", [True, False])
@pytest.mark.parametrize("kind", [Sound, TwiceCalled, encoders.OpacusRecurrent])
def test_passes_what_is_sound(
    kind: type[nn.Module], train_table: bool, table: Tensor, item_ids: Tensor
) -> None:
    found = check_engine(kind(), table, item_ids, same_for_all(own_softmax), 0.1, train_table=train_table)
    assert found.users == 8
    assert found.relative_error < 1e-5
    assert found.clipped_norm == pytest.approx(1.0, abs=1e-5)


def test_takes_a_factory(table: Tensor, item_ids: Tensor) -> None:
    assert check_engine(Sound, table, item_ids, same_for_all(own_softmax), 1.0).users == 8


@pytest.mark.parametrize(
    "kind",
    [
        encoders.FunctionalTable,
        encoders.FunctionalOutput,
        encoders.OnlyFunctional,
        encoders.BatchNormed,
        encoders.CentredOverBatch,
        encoders.Recurrent,
    ],
)
def test_catches_unsound_encoders(kind: type[nn.Module], table: Tensor, item_ids: Tensor) -> None:
    with pytest.raises(SensitivityViolation):
        check_engine(kind(), table, item_ids, same_for_all(own_softmax), 1.0)


@pytest.mark.parametrize(
    "loss_fn", [encoders.in_batch_softmax, encoders.mean_over_batch, encoders.mixed_by_a_constant]
)
def test_catches_losses_that_mix_users(loss_fn: LossFn, table: Tensor, item_ids: Tensor) -> None:
    with pytest.raises(SensitivityViolation, match="mixes users"):
        check_engine(Sound(), table, item_ids, same_for_all(loss_fn), 1.0)


def test_catches_a_loss_that_uses_the_wrong_users_data(table: Tensor, item_ids: Tensor) -> None:
    weights = torch.linspace(0.1, 1.0, 9)

    def loss_for(users: Tensor) -> LossFn:
        return lambda encoder, vectors: own_softmax(encoder, vectors) * weights[: users.numel()]

    with pytest.raises(SensitivityViolation):
        check_engine(Sound(), table, item_ids, loss_for, 1.0)


def test_catches_functional_use_without_the_check_of_every_step(
    table: Tensor, item_ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nets, each tested without the other."""
    monkeypatch.setattr(engine, "_HOOK_TOLERANCE", float("inf"))
    with pytest.raises(SensitivityViolation, match=r"engine's gradient is \d+"):
        check_engine(encoders.FunctionalOutput(), table, item_ids, same_for_all(own_softmax), 1.0)


def test_sees_behind_a_branch_that_starts_at_zero(table: Tensor, item_ids: Tensor) -> None:
    class Hidden(Sound):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(encoders.DIM, encoders.DIM)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

        def forward(self, items_BLD: Tensor) -> Tensor:
            users = super().forward(items_BLD)
            return users + self.gate(users @ self.hidden.weight.T)

    with pytest.raises(SensitivityViolation):
        check_engine(Hidden(), table, item_ids, same_for_all(own_softmax), 1.0)


def test_changes_nothing(table: Tensor, item_ids: Tensor) -> None:
    encoder = Sound().eval()
    before = [p.detach().clone() for p in encoder.parameters()]
    check_engine(encoder, table, item_ids, same_for_all(own_softmax), 1.0)
    assert all(torch.equal(old, new) for old, new in zip(before, encoder.parameters(), strict=True))
    assert not encoder.training
    assert all(p.grad is None for p in encoder.parameters())


def test_refuses_what_it_cannot_judge(table: Tensor, item_ids: Tensor) -> None:
    loss = same_for_all(own_softmax)
    with pytest.raises(InputError, match="at least 2 users"):
        check_engine(Sound(), table, item_ids[:1], loss, 1.0)
    with pytest.raises(InputError, match="before wrap_encoder"):
        check_engine(wrap_encoder(Sound()), table, item_ids, loss, 1.0)
    with pytest.raises(InputError, match="give users with next items"):
        check_engine(Sound(), table, item_ids, same_for_all(lambda e, v: own_softmax(e, v) * 0.0), 1.0)
    for norm in (0.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="l2_clip_norm"):
            check_engine(Sound(), table, item_ids, loss, norm)
