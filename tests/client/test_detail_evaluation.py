from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.behaviour_log import BehaviourLog
from client.detail_evaluation import user_detail
from client.model import ClientModel
from client.policy import ClientPolicy
from client.public_state import PublicState
from client.recommend import recommend
from privacy.errors import InputError, PolicyRefusal
from privacy.wire import federation as wire
from recsys_models.metrics.calibration import log_loss_cap
from recsys_models.metrics.lists import item_bits, novelty_cap
from simulations.synthetic import synthetic_log
from tests.privacy.accounting.test_plan import plan
from tests.tiny_federation import small_federation

N_ITEMS = 40
MODEL = {"encoder": "mean-pool", "dim": 8, "max_length": 12, "blocks": 1, "heads": 1, "dropout": 0.0}


def parts() -> tuple[ClientModel, BehaviourLog, PublicState]:
    log = BehaviourLog(synthetic_log(30, N_ITEMS, seed=3).sequences)
    generator = np.random.default_rng(0)
    public = PublicState(N_ITEMS, 8)
    public.update(
        {
            "popularity": generator.random(N_ITEMS).astype(np.float32),
            "item_tower": generator.normal(size=(N_ITEMS, 8)).astype(np.float32),
        }
    )
    return ClientModel(MODEL, b"x"), log, public


def test_it_measures_the_lists_that_users_get() -> None:
    model, log, public = parts()
    detail = user_detail(model, log, public, "test", diversity="item-tower")
    users = np.flatnonzero(log.targets("test") >= 0)
    bits = item_bits(public.popularity)
    for row, user in enumerate(users):
        history = log.seen("test")[user]
        shown = [r.item for r in recommend(model, public, history)]
        assert [i for i in detail.lists[row] if i >= 0] == shown
        assert detail.events[row] == len(log.training[user])
        novelty, new, _, loss = detail.properties[row]
        given = {r.item: r.probability for r in recommend(model, public, history, count=N_ITEMS)}
        assert detail.confidences[row] == pytest.approx(sum(given[item] for item in shown))
        surprise = -np.log(given.get(int(log.targets("test")[user]), 0.0) or 1e-300)
        assert loss * log_loss_cap(N_ITEMS) == pytest.approx(min(surprise, log_loss_cap(N_ITEMS)))
        assert novelty * novelty_cap(N_ITEMS) == pytest.approx(bits[shown].mean())
        assert not set(shown) & set(history.tolist())
        assert (new < 1.0) == bool(len(set(shown) ^ set(_unfiltered(model, public, history))))
        target = int(log.targets("test")[user])
        assert (detail.ranks[row] <= 10) == (target in shown)


def _unfiltered(model: ClientModel, public: PublicState, history: np.ndarray) -> list[int]:
    from recsys_models.retrieval.blend import ChannelScores

    scores = model.scores([history], ChannelScores(public.channels()))[0].numpy()
    return np.argsort(-scores, kind="stable")[:10].tolist()


def test_diversity_by_attributes_and_by_nothing_known() -> None:
    model, log, public = parts()
    tower = user_detail(model, log, public, "validation", diversity="item-tower")
    genres = user_detail(model, log, public, "validation", diversity="attributes")
    assert np.array_equal(tower.properties[:, :2], genres.properties[:, :2])
    assert not np.array_equal(tower.properties[:, 2], genres.properties[:, 2])
    with pytest.raises(InputError, match="'item-tower' and 'attributes' are known"):
        user_detail(model, log, public, "test", diversity="taste")


def detail_plan(least: Any) -> Any:
    base = plan()
    release = replace(base.releases[1], name="metrics-detail", kind="metrics-detail")
    evaluation = {} if least is None else {"evaluation": {"min_group_users": least}}
    return plan(releases=(base.releases[0], release), settings=evaluation)


@pytest.mark.parametrize(
    ("least", "code"), [(19, "group-too-small"), (None, "plan-incomplete"), ("x", "plan-incomplete")]
)
def test_a_client_holds_the_server_to_its_least_size_of_group(least: Any, code: str) -> None:
    policy = ClientPolicy()
    policy.check(detail_plan(20), catalogue_sha256="cd" * 32, users=50)
    with pytest.raises(PolicyRefusal) as refusal:
        policy.check(detail_plan(least), catalogue_sha256="cd" * 32, users=50)
    assert refusal.value.reason_code == code


def test_the_detail_is_charged_to_every_ledger_before_it_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_federation(tmp_path, monkeypatch, {"evaluation.detail": "on"})
    small.federation.run()
    events = [entry.event for entry in small.federation.ledger.entries()]
    assert [event.name for event in events][-1] == "metrics-detail"
    for client in small.clients.values():
        assert [entry.event for entry in client.ledger.entries()] == events
        again = client.answer(wire.EVALUATE, small.wire.answers(wire.EVALUATE, client.client_id)[-1].request)
        assert wire.Answer.decode(again).refusal
    plan_of = small.federation.plan
    assert small.federation.ledger.epsilon_spent() <= plan_of.epsilon
