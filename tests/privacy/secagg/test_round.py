"""The happy path, dropouts at every step, several rounds and epochs."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.errors import PolicyRefusal, ProtocolError
from privacy.secagg import SecaggPolicy, Section, Suite, VectorSchema, threshold_for
from tests.privacy.secagg.rounds import HASH, Federation, same


@pytest.mark.parametrize("suite", list(Suite))
def test_the_sum_is_the_plain_integer_sum(suite: Suite):
    federation = Federation(4, suite=suite)
    sums, survivors = federation.run()
    assert survivors == federation.names
    assert same(sums, federation.plain_sum(survivors))


@pytest.mark.parametrize("suite", list(Suite))
def test_a_client_that_drops_after_the_exchange_is_simply_not_in_the_sum(suite: Suite):
    federation = Federation(5, suite=suite)
    sums, survivors = federation.run(silent_upload=["silo-02"])
    assert survivors == ("silo-00", "silo-01", "silo-03", "silo-04")
    assert same(sums, federation.plain_sum(survivors))


def run_with_dropouts(
    federation: Federation, number: int, at_upload: int, at_agree: int, at_reveal: int
) -> None:
    n = len(federation.names)
    shuffled = list(np.random.default_rng([n, number]).permutation(federation.names))
    groups = [shuffled[:at_upload], shuffled[at_upload : at_upload + at_agree], shuffled[n - at_reveal :]]
    enough = n - at_upload - at_agree - at_reveal >= threshold_for(n)
    header = federation.header(number, model_hash=number.to_bytes(32, "big"))
    try:
        sums, survivors = federation.run(
            header, silent_upload=groups[0], silent_agree=groups[1], silent_reveal=groups[2], is_noised=True
        )
    except ProtocolError as error:
        assert not enough, error
        assert "needed" in str(error) or "threshold" in str(error)
    else:
        assert enough, "fewer clients than the threshold were enough to unmask"
        assert survivors == tuple(sorted(set(federation.names) - set(groups[0])))
        assert same(sums, federation.plain_sum(survivors, number))


def run_dropout_matrix(n: int) -> None:
    """Every number of clients falling silent before each step, as rounds of one epoch."""
    federation = Federation(n, seed=n)
    cases = [counts for counts in product(range(n + 1), repeat=3) if sum(counts) <= n]
    for number, counts in enumerate(cases, start=1):
        run_with_dropouts(federation, number, *counts)


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7])
def test_dropout_matrix(n: int):
    run_dropout_matrix(n)


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 9, 10])
def test_dropout_matrix_of_larger_cohorts(n: int):
    run_dropout_matrix(n)


@pytest.mark.parametrize("n", [10, 20])
@pytest.mark.parametrize("step", ["silent_upload", "silent_agree", "silent_reveal"])
def test_the_threshold_is_exact_at_every_step(n: int, step: str):
    most = n - threshold_for(n)
    federation = Federation(n)
    sums, survivors = federation.run(**{step: federation.names[:most]})
    assert same(sums, federation.plain_sum(survivors))
    with pytest.raises(ProtocolError, match=r"needed|threshold"):
        Federation(n).run(**{step: federation.names[: most + 1]})


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_cohort_survivors_widths_and_order(data: st.DataObject):
    n = data.draw(st.integers(3, 8))
    sections = []
    for k, bits in enumerate(data.draw(st.lists(st.sampled_from([16, 32, 64]), min_size=1, max_size=4))):
        largest = ((1 << (bits - 1)) - 1) // n
        sections.append(
            Section(f"s{k}", data.draw(st.integers(1, 9)), bits, data.draw(st.sampled_from([1, 7, largest])))
        )
    federation = Federation(n, schema=VectorSchema(sections, n), seed=data.draw(st.integers(0, 2**32)))
    order = data.draw(st.permutations(federation.names))
    uploaded = order[: data.draw(st.integers(threshold_for(n), n))]
    header = federation.open(federation.header())
    federation.upload(header, uploaded)
    federation.agree()
    federation.reveal()
    sums, survivors = federation.server.result()
    assert survivors == tuple(sorted(uploaded))
    assert same(sums, federation.plain_sum(uploaded))


def test_extreme_values_do_not_wrap():
    n = 3
    sections = [Section(f"w{bits}", 2, bits, ((1 << (bits - 1)) - 1) // n) for bits in (16, 32, 64)]
    federation = Federation(n, schema=VectorSchema(sections, n))
    values = {s.name: np.array([-s.client_bound, s.client_bound]) for s in sections}
    header = federation.open(federation.header())
    for name in federation.names:
        federation.server.add_upload(name, federation.clients[name].upload(header, federation.schema, values))
    federation.agree()
    federation.reveal()
    sums, _ = federation.server.result()
    assert same(sums, {name: n * value for name, value in values.items()})


@pytest.mark.parametrize("suite", list(Suite))
def test_rounds_of_one_epoch_and_clients_that_miss_some(suite: Suite):
    federation = Federation(5, suite=suite)
    for number, silent in [(1, []), (2, ["silo-01"]), (3, ["silo-01"]), (7, []), (8, ["silo-04"])]:
        # The silent one never even sees the header, yet its keys fit again in the next round.
        header = federation.header(number, model_hash=bytes([number]) * 32)
        sums, survivors = federation.run(header, silent_upload=silent, is_noised=True)
        assert same(sums, federation.plain_sum(survivors, number))


def test_a_smaller_cohort_within_the_epoch():
    federation = Federation(6)
    header = federation.header(cohort=federation.names[:4])
    sums, survivors = federation.run(header)
    assert survivors == federation.names[:4]
    assert same(sums, federation.plain_sum(survivors))


def test_a_new_epoch_after_a_restart_of_everyone_but_the_memory():
    first = Federation(4)
    first.run()
    stored = {
        name: type(client.memory).from_json(client.memory.to_json()) for name, client in first.clients.items()
    }
    second = Federation(4, seed=1, keys_exchanged=False, memories=stored)
    second.epoch = first.epoch
    second.exchange_keys()
    header = second.header(1, model_hash=b"2" * 32)
    sums, survivors = second.run(header)
    assert same(sums, second.plain_sum(survivors))
    with pytest.raises(PolicyRefusal, match="answers"):
        second.clients["silo-00"].upload(
            second.header(2, model_hash=HASH["model_hash"]), second.schema, second.values()["silo-00"]
        )


@pytest.mark.parametrize("silent", [{"silent_keys": ["silo-03"]}, {"silent_confirmations": ["silo-00"]}])
@pytest.mark.parametrize("suite", list(Suite))
def test_a_client_that_drops_during_the_key_exchange_is_left_out(suite: Suite, silent: dict[str, list[str]]):
    federation = Federation(5, suite=suite, keys_exchanged=False)
    federation.exchange_keys(**silent)
    sums, survivors = federation.run()
    assert len(survivors) == 4
    assert same(sums, federation.plain_sum(survivors))


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_clients_are_refused(n: int):
    with pytest.raises(PolicyRefusal) as refusal:
        Federation(n)
    assert refusal.value.reason_code == "min_cohort"


def test_after_an_abort_the_next_round_works():
    federation = Federation(4)
    header = federation.open(federation.header(1))
    federation.upload(header, federation.names[:2])
    with pytest.raises(ProtocolError, match="needed"):
        federation.server.survivors()
    for client in federation.clients.values():
        client.abort()
    sums, survivors = federation.run(federation.header(2), may_retry=True)
    assert same(sums, federation.plain_sum(survivors, 2))


def test_fifty_clients_with_dropouts():
    federation = Federation(50, policy=SecaggPolicy(suite=Suite.X25519))
    names = federation.names
    sums, survivors = federation.run(
        silent_upload=names[:6], silent_agree=names[6:11], silent_reveal=names[11:16]
    )
    assert len(survivors) == 44
    assert same(sums, federation.plain_sum(survivors))
