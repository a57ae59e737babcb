"""What a client answers, what it refuses, and in which order it does things."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.behaviour_log import BehaviourLog
from client.encoder_fit import EncoderFit
from client.gradients import GradientTrainer
from client.handlers import ClientHandlers
from privacy.accounting.calibration import noise_multiplier_for
from privacy.accounting.events import ReleaseEvent
from privacy.accounting.ledger import Ledger
from privacy.accounting.plan import FederationPlan
from privacy.errors import (
    BudgetExceeded,
    InputError,
    LedgerError,
    ProtocolError,
    SensitivityViolation,
)
from privacy.secagg.client_session import SecaggClient
from privacy.secagg.labels import RoundHeader
from privacy.wire import federation as wire
from privacy.wire.federation import Answer, OpenRound, Task
from recsys_models.errors import DataError
from recsys_models.metrics.calibration import Calibration, calibration_of_recall
from server.federation import Federation
from tests.tiny_federation import SmallFederation, Tamper, dataset_of, small_federation

LIAR_TO = "client-01"
REFUSED_AT_MOST = 40  # bytes: status, length and a reason code


def replaying(kind: str, name: str, client: SmallFederation) -> Answer:
    """Send a recorded request once more."""
    (message,) = [
        m for m in client.wire.answers(kind, LIAR_TO) if OpenRound.decode(m.request).task.name == name
    ]
    return Answer.decode(client.clients[LIAR_TO].answer(kind, message.request))


def lying(kind: str, name: str, change: Callable[[OpenRound], OpenRound]) -> Tamper:
    """A server that sends one client something else for one release."""

    def tamper(asked: str, client: str, request: bytes) -> bytes:
        if (asked, client) != (kind, LIAR_TO) or OpenRound.decode(request).task.name != name:
            return request
        return change(OpenRound.decode(request)).encode()

    return tamper


def lying_plan(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Tamper:
    """A server that agrees another plan with one client."""

    def tamper(asked: str, client: str, request: bytes) -> bytes:
        if (asked, client) != (wire.AGREE, LIAR_TO):
            return request
        task = Task.decode(request)
        return Task(task.name, change(dict(task.parameters))).encode()

    return tamper


def with_header(change: Callable[[RoundHeader], RoundHeader]) -> Callable[[OpenRound], OpenRound]:
    return lambda asked: replace(asked, header=change(RoundHeader.decode(asked.header)).encode())


def with_task(**changes: Any) -> Callable[[OpenRound], OpenRound]:
    return lambda asked: replace(asked, task=replace(asked.task, **changes))


def with_another_popularity(asked: OpenRound) -> OpenRound:
    """All arrays of the honest message, one of them with other numbers."""
    popularity = asked.task.arrays["popularity"] + np.float32(1.0)
    return with_task(arrays={**asked.task.arrays, "popularity": popularity})(asked)


def with_noise(noise_multiplier: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(plan: dict[str, Any]) -> dict[str, Any]:
        plan["releases"][1]["noise_multiplier"] = noise_multiplier
        return plan

    return change


def refusal_of(small: SmallFederation, kind: str) -> str:
    """The last refusal of the client that was lied to, which is a code and nothing else."""
    message = [m for m in small.wire.answers(kind, LIAR_TO) if m.answer.refusal][-1]
    assert len(message.raw) <= REFUSED_AT_MOST
    assert message.answer.body == b""
    return message.answer.refusal


# --- repetition ------------------------------------------------------------------------------------------------


def test_a_release_is_answered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_federation(tmp_path, monkeypatch)
    small.federation.run()
    spent = small.clients[LIAR_TO].ledger.epsilon_spent()
    head = small.clients[LIAR_TO].ledger.head_hash()
    for kind, name in (
        (wire.RELEASE, "popularity"),
        (wire.RELEASE, "statistics"),
        (wire.EVALUATE, "metrics-final"),
    ):
        # Its label no longer fits the public state, or its turn is over; both come before the ledger.
        assert replaying(kind, name, small).refusal in ("protocol-violated", "step-out-of-turn")
    assert small.clients[LIAR_TO].ledger.epsilon_spent() == spent
    assert small.clients[LIAR_TO].ledger.head_hash() == head


def test_the_last_release_is_not_answered_again_for_the_same_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch)
    small.federation.run()
    assert replaying(wire.EVALUATE, "metrics-final", small).refusal == "step-out-of-turn"


def test_not_even_after_agreeing_again_or_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch, {"privacy.epsilon": 8.0})
    small.federation.run()
    restarted = small_federation(tmp_path, monkeypatch)
    client = restarted.clients[LIAR_TO]
    for kind in (wire.AGREE, wire.ADVERTISE, wire.KEYS, wire.CONFIRM):
        (message,) = small.wire.answers(kind, LIAR_TO)
        answer = Answer.decode(client.answer(kind, message.request))
        if kind == wire.ADVERTISE:
            assert answer.refusal  # this epoch of this session was used
    asked = small.wire.answers(wire.RELEASE, LIAR_TO)[0].request
    assert OpenRound.decode(asked).task.name == "popularity"
    assert Answer.decode(client.answer(wire.RELEASE, asked)).refusal


def test_gradient_steps_only_go_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_federation(
        tmp_path,
        monkeypatch,
        {"recipe": "gradients", "privacy.mode": "off"},
        tamper=lying(wire.RELEASE, "gradients", with_task(parameters={"step": 0})),
    )
    small.federation.run()
    # Step 0 is honest; at step 1 it is told "step 0" again.
    assert refusal_of(small, wire.RELEASE) in ("step-out-of-turn", "protocol-violated")
    assert LIAR_TO in small.sums["gradients/0"].survivors
    assert LIAR_TO not in small.sums["gradients/1"].survivors


# --- lies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "name", "change"),
    [
        ("protocol-violated", wire.RELEASE, "statistics", with_task(parameters={"step": 1})),
        ("protocol-violated", wire.RELEASE, "statistics", with_task(parameters={"step": 0, "more": 1})),
        ("input-unusable", wire.RELEASE, "statistics", with_task(name="weights")),
        ("protocol-violated", wire.RELEASE, "statistics", with_task(name="popularity")),
        (
            "protocol-violated",
            wire.RELEASE,
            "statistics",
            with_task(arrays={"popularity": np.ones(40, dtype=np.float32)}),
        ),
        ("protocol-violated", wire.RELEASE, "statistics", with_task(arrays={"user_encoder": np.ones(3)})),
        ("protocol-violated", wire.RELEASE, "statistics", with_another_popularity),
        (
            "protocol-violated",
            wire.EVALUATE,
            "metrics-final",
            with_task(parameters={"step": 0, "stage": "validation"}),
        ),
        (
            "threshold-below-plan",
            wire.RELEASE,
            "statistics",
            with_header(lambda header: replace(header, threshold=3)),
        ),
        (
            "unknown-clients",
            wire.RELEASE,
            "statistics",
            with_header(lambda header: replace(header, cohort=(*header.cohort, "client-99"))),
        ),
        (
            "protocol-violated",
            wire.RELEASE,
            "statistics",
            with_header(lambda header: replace(header, catalogue_hash=bytes(32))),
        ),
        (
            "protocol-violated",
            wire.RELEASE,
            "statistics",
            with_header(lambda header: replace(header, schema_hash=bytes(32))),
        ),
        (
            "protocol-violated",
            wire.RELEASE,
            "statistics",
            with_header(lambda header: replace(header, session=bytes(16))),
        ),
    ],
)
def test_a_round_that_is_not_the_agreed_one_is_refused(
    code: str,
    kind: str,
    name: str,
    change: Callable[[OpenRound], OpenRound],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = small_federation(tmp_path, monkeypatch, tamper=lying(kind, name, change))
    small.federation.run()
    assert refusal_of(small, kind) == code
    assert LIAR_TO not in small.sums[f"{name}/0"].survivors
    assert LIAR_TO not in small.uploads[f"{name}/0"]


def test_a_smaller_cohort_than_the_agreed_one_is_not_summed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = with_header(lambda header: replace(header, cohort=header.cohort[:4]))
    small = small_federation(tmp_path, monkeypatch, tamper=lying(wire.RELEASE, "statistics", four))
    small.federation.run()
    # It answers (four of five is a round that may be), but its masks are of another label: the server drops it.
    assert LIAR_TO not in small.sums["statistics/0"].survivors


@pytest.mark.parametrize(
    "change",
    [with_noise(0.001), lambda plan: plan | {"settings": plan["settings"] | {"decay": 0.9}}],
    ids=["less noise", "another setting"],
)
def test_a_plan_of_its_own_puts_a_client_out_of_every_sum(
    change: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch, tamper=lying_plan(change))
    small.federation.run()
    assert small.sums
    assert all(LIAR_TO not in found.survivors for found in small.sums.values())
    assert all(LIAR_TO not in uploads for uploads in small.uploads.values())


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("release-without-noise", with_noise(0.0)),
        ("plan-incomplete", with_noise(-1.0)),
        (
            "not-in-cohort",
            lambda plan: plan | {"cohort": ["client-02", "client-03", "client-04", "client-05"]},
        ),
        ("input-unusable", lambda plan: plan | {"noise": "some"}),
        ("input-unusable", lambda plan: plan | {"colluding": -100}),
        ("input-unusable", lambda plan: {"session": "00"}),
        ("epsilon-above-policy", lambda plan: plan | {"epsilon": 9.0}),
    ],
)
def test_a_plan_below_the_clients_own_limits_is_refused(
    code: str,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = small_federation(tmp_path, monkeypatch, tamper=lying_plan(change))
    small.federation.enrol()
    assert refusal_of(small, wire.AGREE) == code
    assert LIAR_TO not in small.federation.plan.cohort


def test_a_refusal_for_room_says_nothing_that_enrolment_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: dict[int, list[str]] = {}
    for users in (120, 127):
        histories = [[k % 7, 8, 9] for k in range(users + 8)]
        parts = [range(users), *([users + 2 * k, users + 2 * k + 1] for k in range(4))]
        small = small_federation(
            tmp_path / str(users), monkeypatch, dataset=dataset_of(histories), parts=[list(p) for p in parts]
        )
        small.federation.enrol()
        (agreed,) = small.wire.answers(wire.AGREE, LIAR_TO)
        plan = FederationPlan.from_json(Task.decode(agreed.request).parameters)
        answers[users] = [
            Answer.decode(
                small.clients[LIAR_TO].answer(
                    wire.AGREE, Task("plan", replace(plan, max_users=room).to_json()).encode()
                )
            ).refusal
            for room in range(100, 140)
        ]
    assert answers[120] == answers[127]
    assert set(answers[120]) == {"", "too-many-users"}


# --- the order of things ---------------------------------------------------------------------------------------


class SpiedLog:
    """Notes every look at users' data."""

    def __init__(self, log: BehaviourLog, events: list[str]) -> None:
        self._log, self._events = log, events

    @property
    def n_users(self) -> int:
        return self._log.n_users

    @property
    def training(self) -> Any:
        self._events.append("read")
        return self._log.training

    def seen(self, stage: Any) -> Any:
        self._events.append("read")
        return self._log.seen(stage)

    def targets(self, stage: Any) -> Any:
        self._events.append("read")
        return self._log.targets(stage)


class SpiedLedger:
    """Notes reservations and commitments."""

    def __init__(self, ledger: Ledger, events: list[str]) -> None:
        self._ledger, self._events = ledger, events

    def reserve(self, event: ReleaseEvent) -> int:
        number = self._ledger.reserve(event)
        self._events.append("reserve")
        return number

    def commit(self, reservation: int) -> None:
        self._ledger.commit(reservation)
        self._events.append("commit")


def spy(client: ClientHandlers, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    events: list[str] = []
    client.log = SpiedLog(client.log, events)  # pyright: ignore[reportAttributeAccessIssue]
    client.ledger = SpiedLedger(client.ledger, events)  # pyright: ignore[reportAttributeAccessIssue]
    upload, answer = SecaggClient.upload, client.answer

    def watched_upload(self: SecaggClient, *given: Any, **options: Any) -> bytes:
        if self.client_id == client.client_id:
            events.append("upload")
        return upload(self, *given, **options)

    def watched_answer(kind: str, payload: bytes) -> bytes:
        raw = answer(kind, payload)
        events.append(f"answer {kind}")
        return raw

    monkeypatch.setattr(SecaggClient, "upload", watched_upload)
    monkeypatch.setattr(client, "answer", watched_answer)
    return events


def test_reserve_then_read_then_commit_then_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"recipe": "gradients", "fit.steps": 2, "gradients.sampling_probability": 1.0}
    small = small_federation(tmp_path, monkeypatch, changes)
    events = spy(small.clients[LIAR_TO], monkeypatch)
    small.federation.run()
    assert small.federation.exchange.dropouts == []
    assert (
        events.count("reserve") == events.count("commit") == 5
    )  # popularity, gradients, metrics, fit, metrics
    is_open = False
    charged: list[str] = []
    for before, event in zip(["", *events], events, strict=False):
        if event == "reserve":
            is_open = True
        elif event == "commit":
            is_open = False
            charged.append(before)
        elif event == "read":
            # The second gradient step is covered by the first one's reservation, and reads the trainer's copy.
            assert is_open, events
        elif event == "upload":
            assert not is_open, events
        elif event in (f"answer {wire.RELEASE}", f"answer {wire.EVALUATE}"):
            assert before == "upload"
        elif event == f"answer {wire.FIT}":
            assert before == "commit"
    assert set(charged) == {"read"}


def test_a_budget_that_is_spent_refuses_before_any_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch, {"fit.steps": 1})
    client = small.clients[LIAR_TO]
    ledger = client.ledger
    ledger.commit(ledger.reserve(ReleaseEvent("an earlier run", noise_multiplier_for(7.999, 1e-5))))
    head = ledger.head_hash()
    events = spy(client, monkeypatch)
    small.federation.run()
    asked = [m for kind in (wire.RELEASE, wire.EVALUATE, wire.FIT) for m in small.wire.answers(kind, LIAR_TO)]
    assert [m.answer.refusal for m in asked] == ["budget-exceeded"] * 5
    assert max(len(m.raw) for m in asked) <= REFUSED_AT_MOST
    assert not {"read", "reserve", "upload"} & set(events)
    assert all(LIAR_TO not in uploads for uploads in small.uploads.values())
    assert all(len(found.survivors) == 4 for found in small.sums.values())
    assert ledger.head_hash() == head


# --- what leaves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BudgetExceeded, "budget-exceeded"),
        (LedgerError, "ledger-untrusted"),
        (SensitivityViolation, "sensitivity-violated"),
        (ProtocolError, "protocol-violated"),
        (InputError, "input-unusable"),
        (DataError, "internal"),
        (KeyError, "internal"),
        (RuntimeError, "internal"),
        (MemoryError, "internal"),
    ],
)
def test_no_text_of_an_exception_leaves(
    error: type[Exception], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch)
    client = small.clients[LIAR_TO]

    def broken(_payload: bytes) -> bytes:
        raise error("user-00042 watched item 17")

    monkeypatch.setitem(client._handlers, wire.FIT, broken)
    raw = client.answer(wire.FIT, b"")
    assert Answer.decode(raw).refusal == code
    assert raw == Answer(refusal=code).encode()


def test_messages_that_are_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = small_federation(tmp_path, monkeypatch).clients[LIAR_TO]
    for kind in (*wire.UPLINK, "query.weights"):
        if kind == wire.ENROL:
            continue  # which has no contents
        for payload in (b"", b"\x00", b"\xff" * 100):
            assert Answer.decode(client.answer(kind, payload)).refusal == "protocol-violated"


def pairs_of_weights(client: ClientHandlers) -> set[bytes]:
    """Every two neighbouring weights of a client's private model, as they lie in memory."""
    pairs: set[bytes] = set()
    for tensor in client.model.recommender.state_dict().values():
        raw = tensor.detach().numpy().astype("<f4").tobytes()
        pairs |= {raw[k : k + 8] for k in range(0, len(raw) - 7, 4)}
    return pairs


@pytest.mark.parametrize("recipe", ["statistics", "gradients"])
def test_no_weight_of_an_encoder_ever_leaves(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(
        tmp_path, monkeypatch, {"recipe": recipe, "privacy.mode": "off", "encoder": "gru"}
    )
    small.federation.enrol()
    sentinel = 0.7182818
    with torch.no_grad():
        for client in small.clients.values():
            for parameter in client.model.recommender.encoder.parameters():
                parameter.copy_(sentinel + 0.001 * torch.rand(parameter.shape))
    weights = {pair for client in small.clients.values() for pair in pairs_of_weights(client)}
    with monkeypatch.context() as patched:
        patched.setattr(small.federation, "enrol", lambda: None)
        small.federation.run()
    weights |= {pair for client in small.clients.values() for pair in pairs_of_weights(client)}
    assert len(weights) > 500
    uplink = b"\x00".join(message.raw for message in small.wire.messages)
    assert len(uplink) > 20_000
    assert not any(pair in uplink for pair in weights)
    # The search would find them: they are in the file the client keeps.
    kept = (tmp_path / LIAR_TO / "encoder.safetensors").read_bytes()
    assert all(pair in kept for pair in list(pairs_of_weights(small.clients[LIAR_TO]))[:50])
    # Before masking the vector has the tower's length alone.
    if recipe == "gradients":
        assert small.uploads["gradients/0"][LIAR_TO].shape == (20 * 8,)


def test_answers_are_of_the_inventory_and_most_are_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch, {"privacy.mode": "off", "fit.steps": 2})
    small.federation.run()
    assert {m.kind for m in small.wire.messages} == set(wire.UPLINK)
    for message in small.wire.messages:
        if message.kind in (wire.AGREE, wire.CONFIRM, wire.PUBLISH, wire.FIT):
            assert message.answer.body == b""


def test_the_clients_state_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_federation(tmp_path, monkeypatch)
    small.federation.run()
    for name in small.clients:
        folder = tmp_path / name
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        assert {"encoder.safetensors", "answered.json", "ledger.sqlite"} <= set(files)
        assert set(files.values()) == {0o600}, files


# --- odd clients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["on", "off"])
def test_clients_of_one_user_and_of_nearly_empty_users_take_part(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    ordinary = [random.integers(0, 40, size=12).tolist() for _ in range(30)]
    short = [[1, 2], [3], [], [4, 5]]
    small = small_federation(
        tmp_path,
        monkeypatch,
        {
            "recipe": "gradients",
            "privacy.mode": mode,
            "fit.steps": 2,
            "encoder": "attention",
        },
        dataset=dataset_of([*ordinary, *short]),
        parts=[[0], list(range(30, 34)), list(range(1, 10)), list(range(10, 20)), list(range(20, 30))],
    )
    outcome = small.federation.run()
    assert small.federation.exchange.dropouts == []
    assert all(len(found.survivors) == 5 for found in small.sums.values())
    if mode == "off":
        assert outcome.qualities["metrics-final"].users == 30


# --- refusals come before the ledger ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("min_cohort", {"min_cohort": 6}),
        ("max_words", {"max_words": 3}),
    ],
)
def test_what_secure_aggregation_refuses_is_not_charged_and_reads_nothing(
    code: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch)
    small.federation.enrol()
    client = small.clients[LIAR_TO]
    client._secagg.policy = replace(client._secagg.policy, **changes)
    events = spy(client, monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(small.federation, "enrol", lambda: None)
        small.federation.run()
    assert {m.answer.refusal for m in small.wire.answers(wire.RELEASE, LIAR_TO)} == {code}
    assert not {"read", "reserve", "commit", "upload"} & set(events)


def test_a_blend_that_comes_again_leaves_what_was_fitted_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch, {"privacy.mode": "off", "fit.epochs": 1})
    small.federation.run()
    client = small.clients[LIAR_TO]
    blend = client.public.blend
    assert blend is not None
    mix = client.model.recommender.mix.weight

    def publish(weights: np.ndarray) -> None:
        task = Task("publish", {}, arrays={"blend": weights.astype(np.float32)})
        assert not Answer.decode(client.answer(wire.PUBLISH, task.encode())).refusal

    client.model.begin_with(fitted := blend + 0.25)
    publish(blend)
    np.testing.assert_array_equal(mix.detach().numpy()[0], fitted)
    publish(blend + 1.0)
    np.testing.assert_array_equal(mix.detach().numpy()[0], blend + 1.0)


def test_probabilities_say_the_released_recall_until_a_client_has_fitted_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch)
    small.federation.run()
    recall = small.federation.outcome.qualities["metrics-statistics"].model["recall@10"].value
    for client in small.clients.values():
        published = client.public.blend_recall
        assert published is not None and published == pytest.approx(recall, rel=1e-6)
        assert client.model.calibration == calibration_of_recall(published)

    client = small.clients[LIAR_TO]
    client.model.calibration = fitted = Calibration(temperature=2.0)
    known = client.public.blend_recall
    assert known is not None

    def publish(recall: float) -> None:
        task = Task("publish", {}, arrays={"blend_recall": np.array([recall], dtype=np.float32)})
        assert not Answer.decode(client.answer(wire.PUBLISH, task.encode())).refusal

    publish(known)
    assert client.model.calibration == fitted, "known already: what was fitted since stays"
    publish(0.125)
    assert client.model.calibration == calibration_of_recall(0.125)


def test_a_stage_that_does_not_exist_is_not_charged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_federation(tmp_path, monkeypatch)
    charged = Federation._charged

    def asking(self: Federation, terms: Any, **options: Any) -> Any:
        if terms.release.kind == "comparison":
            options["parameters"] = {"stage": "training"}
        return charged(self, terms, **options)

    monkeypatch.setattr(Federation, "_charged", asking)
    events = spy(small.clients[LIAR_TO], monkeypatch)
    with pytest.raises(ProtocolError):
        small.federation.run()
    assert refusal_of(small, wire.EVALUATE) == "protocol-violated"
    assert events.count("reserve") == 2  # popularity and statistics
    assert events.count("upload") == 2


def test_an_engine_that_fails_its_guard_is_not_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: Any) -> None:
        raise SensitivityViolation("planted")

    monkeypatch.setattr(GradientTrainer, "_guard", broken)
    small = small_federation(tmp_path, monkeypatch, {"recipe": "gradients"})
    events = spy(small.clients[LIAR_TO], monkeypatch)
    with pytest.raises(ProtocolError):
        small.federation.run()
    assert refusal_of(small, wire.RELEASE) == "sensitivity-violated"
    assert (events.count("reserve"), events.count("read"), events.count("upload")) == (1, 1, 1)


def test_a_fit_whose_engine_fails_its_guard_is_not_charged_and_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: Any) -> None:
        raise SensitivityViolation("planted")

    monkeypatch.setattr(EncoderFit, "_guard", broken)
    small = small_federation(tmp_path, monkeypatch, {"fit.steps": 1})
    events = spy(small.clients[LIAR_TO], monkeypatch)
    small.federation.run()
    assert refusal_of(small, wire.FIT) == "sensitivity-violated"
    # Nothing happened between the answer to the message before and the refusal.
    assert events[events.index(f"answer {wire.FIT}") - 1].startswith("answer ")
