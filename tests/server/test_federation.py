"""Whole federations in one process: what comes out is the plain sum, whoever falls silent when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import server.federation
from privacy.errors import InputError, PolicyRefusal, ProtocolError
from privacy.wire import federation as wire
from recsys_models.retrieval.transitions import TransitionReadings
from server.quality import quality_from_comparison
from simulations.loopback import Fault
from tests.tiny_federation import SmallFederation, small_federation

OFF = {"privacy.mode": "off", "fit.steps": 2}
LOST = "client-02"


def lose(kind: str, when: str, clients: tuple[str, ...] = (LOST,), *, only: int | None = None) -> Fault:
    def fault(client: str, asked: str, count: int) -> str | None:
        return when if client in clients and asked == kind and only in (None, count) else None

    return fault


def assert_sums_are_plain_sums(small: SmallFederation) -> None:
    assert small.sums
    for task, found in small.sums.items():
        plain = sum(small.uploads[task][client] for client in found.survivors)
        assert np.array_equal(found.values, plain), task


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", list(wire.UPLINK))
def test_one_of_five_may_fall_silent_at_any_message(
    kind: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch, OFF, fault=lose(kind, when))
    outcome = small.federation.run()
    assert_sums_are_plain_sums(small)
    assert list(small.sums) == ["popularity/0", "statistics/0", "metrics-statistics/0", "metrics-final/0"]
    for task, found in small.sums.items():
        gone_from_sum = kind in (wire.ENROL, wire.AGREE, wire.ADVERTISE, wire.KEYS)
        gone_from_sum |= kind == (wire.EVALUATE if "metrics" in task else wire.RELEASE)
        # Who was lost before it confirmed cannot know whom to mask with; after that its upload counts.
        gone_from_sum |= kind == wire.CONFIRM and when == "before"
        assert (LOST in found.survivors) == (not gone_from_sum), (task, found.survivors)
        assert len(found.survivors) == 4 + (LOST in found.survivors)
    assert {d["client"] for d in small.federation.exchange.dropouts} == {LOST}
    assert outcome.qualities["metrics-final"].users == sum(
        int((small.clients[c].log.targets("test") >= 0).sum())
        for c in small.sums["metrics-final/0"].survivors
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (wire.ADVERTISE, "key"),
        (wire.RELEASE, r"popularity/0: .*3 .*4 .*client-01: no answer before the deadline"),
        (wire.SURVIVORS, r"popularity/0: .*3 .*4 .*client-02: no answer"),
        (wire.REVEAL, r"popularity/0: .*3 .*4 .*client-02: no answer"),
    ],
)
def test_below_the_threshold_nothing_comes_out(
    kind: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(
        tmp_path, monkeypatch, OFF, fault=lose(kind, "before", ("client-01", "client-02"))
    )
    with pytest.raises(ProtocolError, match=message):
        small.federation.run()
    assert not small.sums
    assert not small.federation.outcome.arrays


def test_too_few_enrolments_and_agreements_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three = ("client-01", "client-02", "client-03")
    small = small_federation(tmp_path / "a", monkeypatch, OFF, fault=lose(wire.ENROL, "before", three))
    with pytest.raises(InputError, match=r"2 clients enrolled; federation.min_clients = 3"):
        small.federation.run()
    small = small_federation(tmp_path / "b", monkeypatch, OFF, fault=lose(wire.AGREE, "before", three))
    with pytest.raises(PolicyRefusal, match="2 of 5 clients agreed to the plan, 3 are needed"):
        small.federation.run()


def test_clients_that_missed_a_message_come_back_with_what_they_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each of three messages that carry arrays is lost to another client; all five are in the last sum.
    losses = {("client-01", wire.RELEASE, 1), ("client-02", wire.EVALUATE, 0), ("client-03", wire.FIT, 0)}
    small = small_federation(
        tmp_path, monkeypatch, OFF, fault=lambda *asked: "before" if asked in losses else None
    )
    small.federation.run()
    assert len(small.sums["statistics/0"].survivors) == 4
    assert len(small.sums["metrics-statistics/0"].survivors) == 4
    assert len(small.sums["metrics-final/0"].survivors) == 5
    assert_sums_are_plain_sums(small)
    states = {client.public.sha256 for client in small.clients.values()}
    assert states == {wire.public_state_sha256(small.federation.outcome.arrays)}


def test_a_missed_gradient_round_is_skipped_and_the_next_one_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(
        tmp_path,
        monkeypatch,
        {**OFF, "recipe": "gradients", "gradients.rounds": 3},
        fault=lose(wire.RELEASE, "before", only=2),
    )
    small.federation.run()
    survivors = [LOST in small.sums[f"gradients/{step}"].survivors for step in range(3)]
    assert survivors == [True, False, True]
    assert_sums_are_plain_sums(small)


@pytest.mark.parametrize("kind", [wire.RELEASE, wire.REVEAL])
def test_noised_sums_are_the_plain_sums_of_what_was_put_in(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch, fault=lose(kind, "after"))
    small.federation.run()
    assert_sums_are_plain_sums(small)
    assert small.federation.ledger.epsilon_spent() <= 8.0


def test_the_server_reserves_before_it_asks_and_commits_even_if_the_round_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(
        tmp_path, monkeypatch, fault=lose(wire.REVEAL, "after", ("client-01", "client-02"))
    )
    with pytest.raises(ProtocolError):
        small.federation.run()
    (entry,) = small.federation.ledger.entries()
    assert (entry.event.name, entry.status) == ("popularity", "committed")


def test_a_client_takes_part_in_a_second_run_and_is_charged_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap = {
        "privacy.noise_multipliers": {
            name: 40.0 for name in ("popularity", "statistics", "metrics-statistics", "metrics-final")
        }
    }
    first = small_federation(tmp_path, monkeypatch, cheap)
    first.federation.run()
    second = small_federation(tmp_path, monkeypatch, cheap, session="77" * 16)
    second.federation.run()
    assert second.federation.exchange.dropouts == []
    assert [e.event.name for e in second.clients["client-01"].ledger.entries()] == 2 * [
        "popularity",
        "statistics",
        "metrics-statistics",
        "metrics-final",
    ]


def test_a_client_under_anothers_name_or_with_another_catalogue_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path / "a", monkeypatch, OFF)
    small.clients["client-01"].client_id = "client-09"
    with pytest.raises(InputError, match="client 'client-01' enrolled as 'client-09'"):
        small.federation.run()
    small = small_federation(tmp_path / "b", monkeypatch, OFF)
    small.federation.catalogue_sha256 = "00" * 32
    with pytest.raises(InputError, match="give every client the same catalogue file"):
        small.federation.run()


def test_an_enrolment_that_cannot_be_read_costs_only_its_sender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch, OFF)
    honest = small.wire.exchange

    def damaged(kind: str, requests: dict[str, bytes], *, deadline_s: float) -> dict[str, bytes]:
        replies = honest(kind, requests, deadline_s=deadline_s)
        if kind == wire.ENROL:
            replies[LOST] = wire.Answer(body=b"not an enrolment").encode()
        return replies

    monkeypatch.setattr(small.wire, "exchange", damaged)
    small.federation.run()
    assert LOST not in small.federation.plan.cohort
    assert [d["client"] for d in small.federation.exchange.dropouts] == [LOST]
    assert_sums_are_plain_sums(small)


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        (OFF, 5),
        (OFF | {"fit.epochs": 0}, 0),
        ({"fit.epochs": 0, "privacy.protect_within_client": False}, 0),
        ({"fit.epochs": 1, "privacy.protect_within_client": False}, 5),
        (
            {"fit.epochs": 9},
            0,
        ),  # no noisy steps, and nothing but these where users are protected from each other
    ],
)
def test_a_fit_is_asked_for_where_there_is_something_to_fit(
    changes: dict[str, object], asked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch, changes)
    small.federation.run()
    assert sum(message.kind == wire.FIT for message in small.wire.messages) == asked


def test_published_transitions_are_of_the_head_and_read_by_every_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch)
    small.federation.run()
    arrays = small.federation.outcome.arrays
    readings = TransitionReadings.from_arrays(arrays, 40)
    assert readings is not None
    outside = np.setdiff1d(np.arange(40), arrays["head"])
    assert len(outside) == 20
    cells = readings.sparse.matrix.toarray()
    assert cells.any()
    assert not cells[outside].any() and not cells[:, outside].any()
    for client in small.clients.values():
        read = client.public.channels().transitions
        assert read is not None
        assert np.array_equal(read.sparse.matrix.toarray(), cells)


def test_a_second_comparison_begins_with_what_the_first_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began_with: list[str] = []

    def choosing(secure_sum: Any, terms: Any, first: str) -> Any:
        began_with.append(first)
        return replace(quality_from_comparison(secure_sum, terms, first), chosen="content")

    monkeypatch.setattr(server.federation, "quality_from_comparison", choosing)
    changes = {"privacy.mode": "off", "recipe": "hybrid", "gradients.min_users": 0}
    outcome = small_federation(tmp_path, monkeypatch, changes).federation.run()
    assert began_with == ["transitions", "content"]
    assert [q.began_with for q in outcome.qualities.values()] == ["transitions", "content", ""]
