from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recsys_models.encoders.hstu import GAP_BUCKETS, HstuTrunk, gap_buckets
from recsys_models.errors import DataError

DIM, HEADS, LENGTH = 4, 2, 6


def test_a_block_is_the_published_equations() -> None:
    """Equations 1-3 written out for the newest position, item by item and head by head."""
    torch.manual_seed(0)
    trunk = HstuTrunk(DIM, max_length=LENGTH, blocks=1, heads=HEADS).eval()
    block = trunk.blocks[0]
    with torch.no_grad():
        block.age_bias.weight.normal_()
        block.gap_bias.weight.normal_()
    items = torch.randn(1, 3, DIM)
    times = torch.tensor([[100.0, 103.0, 109.5]], dtype=torch.float64)
    bucket = [5, 4, 1]  # 9.5 s ago, 6.5 s ago and now
    projected = functional.silu(block.gate_value_query_key(block.input_norm(items)))[0]
    gate, value, query, key = projected.chunk(4, dim=-1)
    heads = []
    for head in range(HEADS):
        own = slice(2 * head, 2 * head + 2)
        mixed = torch.zeros(2)
        for s in range(3):
            bias = block.age_bias.weight[2 - s, head] + block.gap_bias.weight[bucket[s], head]
            weight = functional.silu(query[2, own] @ key[s, own] + bias)
            mixed = mixed + weight * value[s, own] / 3
        heads.append(mixed)
    mixed = block.mixed_norm(torch.cat(heads)) * gate[2]
    expected = trunk.norm(items[0, 2] + block.out(mixed))
    torch.testing.assert_close(trunk(items, torch.ones(1, 3, dtype=torch.bool), times)[0, 2], expected)


def test_buckets_by_hand() -> None:
    times = torch.tensor([[50.0, 50.0, 50.9, 52.0, 54.0, 1e9, 49.0]], dtype=torch.float64)
    found = gap_buckets(times)[0]
    assert found[:, 0].tolist() == [1, 1, 1, 3, 4, 31, 1]  # equal and falling times lie no time apart
    assert found[3].tolist()[:4] == [3, 3, 2, 1]
    assert GAP_BUCKETS == 32


def test_buckets_are_defined_for_every_time() -> None:
    odd = torch.tensor(
        [[torch.nan, torch.inf, -torch.inf, 1.7e308, -1.7e308, 0.0, 5e-324]], dtype=torch.float64
    )
    found = gap_buckets(odd)[0]
    assert not found[:3].any() and not found[:, :3].any()
    assert found[3:, 3:].min() >= 0 and found.max() < GAP_BUCKETS
    assert found[3, 5] == GAP_BUCKETS - 1


def test_order_enters_through_the_age_bias_alone() -> None:
    torch.manual_seed(0)
    trunk = HstuTrunk(DIM, max_length=LENGTH, blocks=1, heads=HEADS).eval()
    items, mask = torch.randn(1, 4, DIM), torch.ones(1, 4, dtype=torch.bool)
    swapped = items[:, [1, 0, 2, 3]]
    with torch.no_grad():
        trunk.blocks[0].age_bias.weight.zero_()
        torch.testing.assert_close(trunk(items, mask)[0, -1], trunk(swapped, mask)[0, -1])
        trunk.blocks[0].age_bias.weight[2] = 3.0
    assert (trunk(items, mask)[0, -1] - trunk(swapped, mask)[0, -1]).abs().max() > 1e-3


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(DataError, match="heads must divide dim: dim=4, heads=3"):
        HstuTrunk(DIM, max_length=LENGTH, heads=3)
