"""What every encoder promises; each encoder inherits the whole list."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsys_models.encoders import ENCODERS, UserEncoder, build_encoder
from recsys_models.errors import DataError

DIM, LENGTH = 8, 10


def jittered(name: str, start: str) -> UserEncoder:
    """An encoder away from its start: a branch multiplied by zero would pass every test."""
    torch.manual_seed(3)
    encoder = build_encoder(name, DIM, max_length=LENGTH, blocks=2, heads=2, start=start)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return encoder.eval()


def right_aligned(histories: list[Tensor], length: int) -> tuple[Tensor, Tensor]:
    items = torch.zeros(len(histories), length, DIM)
    mask = torch.zeros(len(histories), length, dtype=torch.bool)
    for row, history in enumerate(histories):
        if len(history):
            items[row, -len(history) :] = history
            mask[row, -len(history) :] = True
    return items, mask


def times_like(mask: Tensor) -> Tensor:
    """Real Unix times, no two gaps alike; not a number in padding."""
    times = 1.7e9 + 4.0 ** torch.arange(mask.shape[1], dtype=torch.float64)
    return times.expand(mask.shape).masked_fill(~mask, torch.nan)


@pytest.fixture
def histories() -> list[Tensor]:
    torch.manual_seed(4)
    return [torch.randn(n, DIM) for n in (7, 3, 1, 0)]


@pytest.mark.parametrize("start", ["pooled", "random"])
@pytest.mark.parametrize("name", ENCODERS)
class TestEveryEncoder:
    def test_sees_the_past_and_not_the_future(self, name: str, start: str, histories: list[Tensor]) -> None:
        encoder = jittered(name, start)
        items, mask = right_aligned(histories, LENGTH)
        before = encoder(items, mask)
        items = items.clone()
        items[0, 6] += torch.randn(DIM)
        after = encoder(items, mask)
        assert torch.equal(before[0, :6], after[0, :6])
        assert (before[0, 6:] - after[0, 6:]).abs().amax(dim=-1).min() > 1e-4
        assert torch.equal(before[1:], after[1:])

    def test_ignores_what_stands_in_padding(self, name: str, start: str, histories: list[Tensor]) -> None:
        encoder = jittered(name, start)
        items, mask = right_aligned(histories, LENGTH)
        spoiled = items.masked_fill(~mask.unsqueeze(-1), torch.nan)
        assert torch.equal(encoder(items, mask), encoder(spoiled, mask))

    def test_ignores_how_much_padding_there_is(self, name: str, start: str, histories: list[Tensor]) -> None:
        encoder = jittered(name, start)
        long = encoder(*right_aligned(histories, LENGTH))
        short = encoder(*right_aligned(histories, 7))
        torch.testing.assert_close(long[:, -7:], short)

    def test_state_after_an_item_is_the_same_in_training_and_serving(
        self, name: str, start: str, histories: list[Tensor]
    ) -> None:
        encoder = jittered(name, start)
        whole = encoder(*right_aligned(histories[:1], 7))
        prefix = encoder(*right_aligned([histories[0][:4]], 7))
        torch.testing.assert_close(whole[0, 3], prefix[0, -1])

    def test_users_without_history_get_zeros(self, name: str, start: str, histories: list[Tensor]) -> None:
        users = jittered(name, start)(*right_aligned(histories, LENGTH))
        assert users.shape == (4, LENGTH, DIM)
        assert users.isfinite().all()
        assert not users[3].any()
        assert users[2, -1].any()

    def test_users_do_not_mix(self, name: str, start: str, histories: list[Tensor]) -> None:
        encoder = jittered(name, start)
        items, mask = right_aligned(histories, LENGTH)
        torch.testing.assert_close(encoder(items, mask)[1:2], encoder(items[1:2], mask[1:2]))

    def test_order_matters(self, name: str, start: str, histories: list[Tensor]) -> None:
        encoder = jittered(name, start)
        forward = encoder(*right_aligned(histories[:1], 7))
        backward = encoder(*right_aligned([histories[0].flip(0)], 7))
        assert (forward[0, -1] - backward[0, -1]).abs().max() > 1e-3

    def test_every_parameter_is_used(self, name: str, start: str, histories: list[Tensor]) -> None:
        encoder = jittered(name, start)
        encoder(*right_aligned(histories, LENGTH)).square().sum().backward()
        unused = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
        assert unused == []

    def test_knows_the_times_of_the_past_alone(self, name: str, start: str, histories: list[Tensor]) -> None:
        encoder = jittered(name, start)
        items, mask = right_aligned(histories, LENGTH)
        times = times_like(mask)
        later = times.clone()
        later[0, 6] += 1e6
        before, after = encoder(items, mask, times), encoder(items, mask, later)
        assert torch.equal(before[0, :6], after[0, :6])
        assert torch.equal(before[1:], after[1:])
        assert encoder.reads_times == ((before[0, 6] - after[0, 6]).abs().max() > 1e-4)
        assert encoder.reads_times == (name == "hstu")

    def test_times_agree_in_training_and_serving_and_padding_has_none(
        self, name: str, start: str, histories: list[Tensor]
    ) -> None:
        encoder = jittered(name, start)
        items, mask = right_aligned(histories, LENGTH)
        times = times_like(mask)
        whole = encoder(items, mask, times)
        assert torch.equal(whole, encoder(items, mask, times.masked_fill(~mask, 5.0)))
        assert torch.equal(whole, encoder(items, mask, times + 2.0**20))
        prefix = encoder(items[:1, 3:7], mask[:1, 3:7], times[:1, 3:7])
        torch.testing.assert_close(whole[0, 6], prefix[0, -1])

    def test_times_that_are_not_known_are_as_none(
        self, name: str, start: str, histories: list[Tensor]
    ) -> None:
        encoder = jittered(name, start)
        items, mask = right_aligned(histories, LENGTH)
        for unknown in (torch.nan, torch.inf, -torch.inf):
            times = torch.full(mask.shape, unknown, dtype=torch.float64)
            assert torch.equal(encoder(items, mask), encoder(items, mask, times))

    def test_every_parameter_is_used_with_times(self, name: str, start: str, histories: list[Tensor]) -> None:
        encoder = jittered(name, start)
        items, mask = right_aligned(histories, LENGTH)
        encoder(items, mask, times_like(mask)).square().sum().backward()
        assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []

    def test_refuses_what_does_not_fit(self, name: str, start: str, histories: list[Tensor]) -> None:
        encoder = jittered(name, start)
        items, mask = right_aligned(histories, LENGTH + 1)
        with pytest.raises(DataError, match="exceeds max_length=10"):
            encoder(items, mask)
        with pytest.raises(DataError, match="items must be"):
            encoder(items[:, :5, :3], mask[:, :5])
        with pytest.raises(DataError, match="mask must be bool"):
            encoder(items[:, :5], mask[:, :5].float())
        with pytest.raises(DataError, match="times must be float64"):
            encoder(items[:, :5], mask[:, :5], times_like(mask)[:, :5].float())
        with pytest.raises(DataError, match="times must be float64"):
            encoder(items[:, :5], mask[:, :5], times_like(mask))


@pytest.mark.parametrize("name", ENCODERS)
def test_untrained_pooled_start_is_the_recency_weighted_mean(name: str, histories: list[Tensor]) -> None:
    encoder = build_encoder(name, DIM, max_length=LENGTH, decay=0.7, dropout=0.5)
    users = encoder(*right_aligned(histories, LENGTH))
    weights = 0.7 ** torch.arange(6, -1, -1.0)
    expected = (weights.unsqueeze(1) * histories[0]).sum(0) / weights.sum()
    torch.testing.assert_close(users[0, -1], expected)


@pytest.mark.parametrize("name", ENCODERS)
def test_pooled_start_trains_away_from_the_mean(name: str, histories: list[Tensor]) -> None:
    encoder = build_encoder(name, DIM, max_length=LENGTH)
    items, mask = right_aligned(histories, LENGTH)
    torch.manual_seed(1)
    target = torch.randn(4, LENGTH, DIM).masked_fill(~mask.unsqueeze(-1), 0.0)
    optimiser = torch.optim.Adam(encoder.parameters(), lr=0.03)
    losses = []
    for _ in range(60):
        loss = (encoder(items, mask) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_input_scale_reaches_the_trunk_only() -> None:
    torch.manual_seed(0)
    items, mask = right_aligned([torch.randn(5, DIM)], 5)
    assert torch.equal(
        build_encoder("gru", DIM)(items, mask), build_encoder("gru", DIM, input_scale=9.0)(items, mask)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "lstm"}, "unknown encoder 'lstm'; choose one of mean-pool, gru, attention"),
        ({"heads": 3}, "heads must divide dim"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"dropout": float("nan")}, "dropout must be"),
        ({"decay": 0.0}, "decay must be"),
        ({"decay": float("nan")}, "decay must be"),
        ({"blocks": 0}, "at least 1"),
        ({"start": "svd"}, "start must be"),
        ({"input_scale": float("nan")}, "input_scale must be"),
    ],
)
def test_refuses_bad_settings(change: dict[str, object], message: str) -> None:
    settings = {"name": "attention", "dim": DIM, **change}
    with pytest.raises(DataError, match=message):
        build_encoder(**settings)
