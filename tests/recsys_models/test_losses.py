from __future__ import annotations

import pytest
import torch

from recsys_models.losses import full_softmax, mean_over_own_positions, sampled_softmax


@pytest.fixture
def parts() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    ids = torch.randint(0, 12, (3, 5))
    return {
        "users": torch.randn(3, 5, 4),
        "table": torch.randn(12, 4),
        "ids": ids,
        "valid": torch.tensor([[True] * 5, [False] * 3 + [True] * 2, [False] * 5]),
    }


def test_full_softmax_is_cross_entropy_of_each_user_alone(parts: dict[str, torch.Tensor]) -> None:
    loss = full_softmax(
        parts["users"], parts["table"], positive_columns_BL=parts["ids"], valid_BL=parts["valid"]
    )
    logits = parts["users"][1, 3:] @ parts["table"].T
    expected = torch.nn.functional.cross_entropy(logits, parts["ids"][1, 3:])
    torch.testing.assert_close(loss[1], expected)
    assert loss[2] == 0.0


def test_padded_targets_may_hold_any_id(parts: dict[str, torch.Tensor]) -> None:
    ids = parts["ids"].masked_fill(~parts["valid"], -1)
    loss = full_softmax(parts["users"], parts["table"], positive_columns_BL=ids, valid_BL=parts["valid"])
    assert loss.isfinite().all()


def sampled(parts: dict[str, torch.Tensor], negatives: torch.Tensor, log_count: torch.Tensor) -> torch.Tensor:
    return sampled_softmax(
        parts["users"],
        parts["table"][parts["ids"]],
        parts["table"][negatives],
        positive_ids_BL=parts["ids"],
        negative_ids_BN=negatives,
        log_expected_count_BN=log_count,
        valid_BL=parts["valid"],
    )


def test_every_item_drawn_once_gives_the_full_softmax(parts: dict[str, torch.Tensor]) -> None:
    negatives = torch.arange(12)
    loss = sampled(parts, negatives, torch.zeros(12))
    full = full_softmax(
        parts["users"], parts["table"], positive_columns_BL=parts["ids"], valid_BL=parts["valid"]
    )
    torch.testing.assert_close(loss, full)


def test_log_q_correction_makes_a_skewed_sample_estimate_the_full_softmax(
    parts: dict[str, torch.Tensor],
) -> None:
    torch.manual_seed(1)
    q = torch.arange(1.0, 13.0)
    q /= q.sum()
    draws = 60_000
    negatives = torch.multinomial(q, draws, replacement=True)
    corrected = sampled(parts, negatives, torch.log(draws * q[negatives]))
    uncorrected = sampled(parts, negatives, torch.full((draws,), draws / 12).log())
    full = full_softmax(
        parts["users"], parts["table"], positive_columns_BL=parts["ids"], valid_BL=parts["valid"]
    )
    torch.testing.assert_close(corrected, full, atol=0.02, rtol=0.0)
    assert (uncorrected - full).abs().max() > 0.1


def test_negatives_of_each_user_equal_shared_ones(parts: dict[str, torch.Tensor]) -> None:
    negatives = torch.tensor([1, 5, 7])
    counts = torch.tensor([0.1, -0.2, 0.4])
    torch.testing.assert_close(
        sampled(parts, negatives, counts), sampled(parts, negatives.repeat(3, 1), counts.repeat(3, 1))
    )


def test_a_users_loss_does_not_depend_on_the_batch(parts: dict[str, torch.Tensor]) -> None:
    together = sampled(parts, torch.tensor([1, 5]), torch.zeros(2))
    alone = sampled(
        {k: v if k == "table" else v[:1] for k, v in parts.items()}, torch.tensor([1, 5]), torch.zeros(2)
    )
    torch.testing.assert_close(together[:1], alone)


def test_mean_over_own_positions() -> None:
    values = torch.tensor([[1.0, 3.0], [5.0, torch.nan], [7.0, 7.0]])
    valid = torch.tensor([[True, True], [True, False], [False, False]])
    assert mean_over_own_positions(values, valid).tolist() == [2.0, 5.0, 0.0]
