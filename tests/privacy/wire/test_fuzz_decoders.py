"""A bounded smoke run of the fuzz target."""

from __future__ import annotations

import pytest

from tests.privacy.wire import fuzz_decoders


def test_damaged_messages_are_protocol_errors_and_nothing_else():
    assert fuzz_decoders.fuzz_blindly(seconds=4.0, seed=1) > 200


def test_the_starting_messages_are_real():
    accepted = 0
    for message in fuzz_decoders.real_messages():
        for decode in fuzz_decoders.DECODERS.values():
            try:
                decode(message)
                accepted += 1
            except fuzz_decoders.ProtocolError:
                continue
    assert accepted >= len(fuzz_decoders.real_messages()), "each is accepted by its own decoder at least"


def test_a_surprise_escapes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(fuzz_decoders.DECODERS, "broken", lambda data: data[10_000_000])
    with pytest.raises(IndexError):
        fuzz_decoders.one_input(b"x")
