"""Unpredictable where it protects, reproducible where it says so."""

from __future__ import annotations

import copy
import math
import os
import pickle

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from privacy import randomness
from privacy.errors import InputError
from privacy.randomness import RandomSource, SeededRandomness, SystemRandomness


@pytest.fixture
def source() -> SeededRandomness:
    return SeededRandomness(2024)


def test_equal_seeds_give_equal_streams_and_others_do_not() -> None:
    assert SeededRandomness(7).random_bytes(100) == SeededRandomness(7).random_bytes(100)
    streams = {SeededRandomness(s).random_bytes(16) for s in (7, -7, b"7", b"int:7", 8)}
    assert len(streams) == 5


def test_stream_does_not_depend_on_how_it_is_cut() -> None:
    one, two = SeededRandomness(1), SeededRandomness(1)
    assert one.random_bytes(3) + one.random_bytes(40) == two.random_bytes(43)


def test_stream_is_aes_256_in_counter_mode() -> None:
    """Known answer: CTR is the cipher of 0, 1, 2, ... under the same key, by another mode of the library."""
    source = SeededRandomness(5)
    blocks = b"".join(i.to_bytes(16, "big") for i in range(4))
    cipher = Cipher(AES(source._key), ECB()).encryptor()
    assert source.random_bytes(64) == cipher.update(blocks)


def test_derived_streams_are_named_and_independent_of_use(source: SeededRandomness) -> None:
    before = source.derive("client", "3").random_bytes(32)
    source.random_bytes(1000)
    assert source.derive("client", "3").random_bytes(32) == before
    others = [("client", "4"), ("client3",), ("client", "3", ""), ()]
    assert len({before, *(source.derive(*labels).random_bytes(32) for labels in others)}) == 5


def test_system_randomness_is_never_the_same() -> None:
    assert not SystemRandomness().is_simulated
    assert SystemRandomness().random_bytes(32) != SystemRandomness().random_bytes(32)
    parent = SystemRandomness()
    assert parent.derive("a").random_bytes(32) != parent.derive("a").random_bytes(32)


def test_system_randomness_takes_a_new_key_after_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(randomness.os, "urandom", lambda n: drawn.append(n) or bytes([len(drawn)]) * n)
    monkeypatch.setattr(randomness, "_REKEY_BYTES", 100)
    source = SystemRandomness()
    for _ in range(5):
        source.random_bytes(50)
    source.random_bytes(1000)  # larger than the whole share: a key of its own
    assert drawn == [32, 32, 32, 32]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_process_draws_other_bits() -> None:
    source = SystemRandomness()
    source.random_bytes(1)
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(send, source.random_bytes(32))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(receive, 32) != source.random_bytes(32)


@pytest.mark.parametrize("make", [SystemRandomness, lambda: SeededRandomness(b"very secret seed")])
def test_keys_stay_inside(make: type[RandomSource]) -> None:
    source = make()
    assert "secret" not in repr(source) and "=" not in repr(source)
    with pytest.raises(TypeError, match="repeat their bits"):
        pickle.dumps(source)
    with pytest.raises(TypeError, match="repeat their bits"):
        copy.deepcopy(source)


@pytest.mark.parametrize("seed", [True, 1.5, None, "text"])
def test_seed_of_another_type_is_refused(seed: object) -> None:
    with pytest.raises(InputError, match="int or bytes"):
        SeededRandomness(seed)  # type: ignore[arg-type]


def test_uniform_has_53_bits_in_the_unit_interval(source: SeededRandomness) -> None:
    values = source.uniform(100_000)
    assert values.min() >= 0.0 and values.max() < 1.0
    assert (values * 2**53 == np.floor(values * 2**53)).all()
    assert abs(values.mean() - 0.5) < 5 * math.sqrt(1 / 12 / 100_000)


@pytest.mark.parametrize("probability", [0.0, 1e-30, 0.03, 0.5, 1.0 - 2**-53, 1.0])
def test_bernoulli(source: SeededRandomness, probability: float) -> None:
    n = 200_000
    tolerance = 5 * math.sqrt(probability * (1 - probability) * n) + 1e-9
    assert abs(int(source.bernoulli(probability, n).sum()) - probability * n) <= tolerance


@pytest.mark.parametrize("probability", [math.nan, -1e-9, 1.0 + 1e-9, math.inf])
def test_bernoulli_refuses_what_is_no_probability(source: SeededRandomness, probability: float) -> None:
    with pytest.raises(InputError, match="not in"):
        source.bernoulli(probability, 1)


@pytest.mark.parametrize("high", [1, 2, 3, 1000, 2**62 + 1, 2**63])
def test_integers_cover_their_range(source: SeededRandomness, high: int) -> None:
    drawn = source.integers(high, 30_000)
    assert drawn.min() >= 0 and int(drawn.max()) < high
    assert abs(float(drawn.mean()) - (high - 1) / 2) <= 5 * high / math.sqrt(12 * 30_000)


def test_integers_reject_instead_of_folding(
    monkeypatch: pytest.MonkeyPatch, source: SeededRandomness
) -> None:
    """With high = 3, 2^64 = 1 (mod 3): the largest word would make 0 too likely and must be drawn again."""
    words = iter([np.array([2**64 - 1, 5], dtype=np.uint64), np.array([7], dtype=np.uint64)])
    monkeypatch.setattr(source, "uint64", lambda n: next(words))
    assert source.integers(3, 2).tolist() == [1, 2]


@pytest.mark.parametrize("high", [0, -3, 2**63 + 1])
def test_integers_refuse_other_ranges(source: SeededRandomness, high: int) -> None:
    with pytest.raises(InputError, match="high="):
        source.integers(high, 1)


def test_choice_follows_the_weights_and_never_draws_zero(source: SeededRandomness) -> None:
    weights = np.array([0.0, 1.0, 0.0, 3.0, 0.0])
    counts = np.bincount(source.choice(weights, 40_000), minlength=5)
    assert counts[[0, 2, 4]].sum() == 0
    assert abs(counts[1] - 10_000) < 5 * math.sqrt(40_000 * 0.25 * 0.75)


def test_choice_at_the_upper_edge(monkeypatch: pytest.MonkeyPatch, source: SeededRandomness) -> None:
    monkeypatch.setattr(source, "uniform", lambda n: np.full(n, 1.0))
    assert source.choice(np.array([1.0, 2.0, 0.0]), 1).tolist() == [1]


@pytest.mark.parametrize("weights", [[], [0.0], [1.0, -1.0], [math.nan, 1.0], [math.inf], [[1.0]]])
def test_choice_refuses_other_weights(source: SeededRandomness, weights: list[float]) -> None:
    with pytest.raises(InputError, match="weights"):
        source.choice(np.array(weights), 1)


def test_negative_count_is_refused(source: SeededRandomness) -> None:
    with pytest.raises(InputError, match="n=-1"):
        source.random_bytes(-1)
