from __future__ import annotations

import torch
from torch.nn import functional

from recsys_models.encoders.gated_attention import GatedAttentionBlock


def block_with_gates(attention: float, feed: float) -> GatedAttentionBlock:
    torch.manual_seed(0)
    block = GatedAttentionBlock(4, 2, 0.0).eval()
    with torch.no_grad():
        for gate, bias in ((block.attention_gate, attention), (block.feed_gate, feed)):
            gate.weight.zero_()
            gate.bias.fill_(bias)
    return block


def itself_only(length: int) -> torch.Tensor:
    return torch.eye(length, dtype=torch.bool).view(1, 1, length, length)


def test_shut_gates_pass_the_input_on() -> None:
    hidden = torch.randn(2, 3, 4)
    torch.testing.assert_close(block_with_gates(-50.0, -50.0)(hidden, itself_only(3)), hidden)


def test_an_open_attention_gate_adds_the_values() -> None:
    """Who may look at herself alone mixes nothing: attention is the value projection."""
    block, hidden = block_with_gates(50.0, -50.0), torch.randn(2, 3, 4)
    value = block.query_key_value(block.attention_norm(hidden))[..., 8:]
    torch.testing.assert_close(block(hidden, itself_only(3)), hidden + block.attention_out(value))


def test_an_open_feed_gate_adds_a_swiglu_net() -> None:
    block, hidden = block_with_gates(-50.0, 50.0), torch.randn(2, 3, 4)
    opened, passed = block.feed_in.weight.chunk(2)
    normed = block.feed_norm(hidden)
    fed = (functional.silu(normed @ opened.T) * (normed @ passed.T)) @ block.feed_out.weight.T
    torch.testing.assert_close(block(hidden, itself_only(3)), hidden + fed)


def test_a_gate_reads_the_input_before_the_norm() -> None:
    """The norm forgets the scale of an item; the gate need not."""
    block, hidden = block_with_gates(0.0, -50.0), torch.randn(1, 1, 4)
    with torch.no_grad():
        block.attention_gate.weight.copy_(torch.eye(4))
    branch = [(block(hidden * scale, itself_only(1)) - hidden * scale) for scale in (1.0, 3.0)]
    assert (branch[0] - branch[1]).abs().max() > 0.01
