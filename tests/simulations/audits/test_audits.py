"""Each audit passes on the sound engine and notices its fault; the whole table is a slow test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from client.behaviour_log import BehaviourLog
from privacy.bounded import UserContributions
from recsys_models.sampled_losses import LOSSES
from server.scenario import override, parse_scenario
from simulations.audit_cli import audit
from simulations.audits import canary, canary_statistics, inversion, membership, planted, sensitivity, uploads

SMALL = parse_scenario(
    {
        "model": {"dim": 8, "max_length": 12},
        "gradients": {"negatives": 8},
        "encoder": "attention",
    },
    source="test",
)

GHOST = override(SMALL, {"privacy.per_user_gradients": "ghost"})


@pytest.mark.parametrize("encoder", ["attention", "gru", "mean-pool"])
def test_no_user_exceeds_a_bound(encoder: str):
    result = sensitivity.run(SMALL.model_copy(update={"encoder": encoder}), seed=1, random_users=2)
    assert result["ok"], result["findings"]
    kinds = {row["kind"] for row in result["releases"]}
    assert {"popularity", "statistics", "comparison", "gradients", "fit", "metrics"} <= kinds
    assert all(0.9 < row["of_bound"] <= 1.0 + sensitivity.ROUNDING for row in result["releases"])
    assert "no user exceeds a bound" in sensitivity.format_table(result)


def test_no_user_exceeds_a_bound_whatever_the_loss():
    small = override(SMALL, {"encoder": "mean-pool", "fit.steps": 0, "model.dropout": 0.2})
    result = sensitivity.run(small, seed=1, random_users=1, losses=LOSSES[1:])
    assert result["ok"], result["findings"]
    audited = [row for row in result["releases"] if row["kind"] == "gradients"]
    assert [row["release"] for row in audited] == [
        "gradients",
        *(f"gradients, {loss}" for loss in LOSSES[1:]),
    ]
    assert all(row["of_bound"] > 0.99 for row in audited)


def test_no_user_exceeds_a_bound_by_ghost_clipping():
    result = sensitivity.run(GHOST, seed=1, random_users=1)
    assert result["ok"], result["findings"]
    rows = {row["kind"]: row for row in result["releases"]}
    assert rows["gradients"]["off_autograd"] <= sensitivity.ROUNDING
    assert all(row["of_bound"] <= 1.0 for row in rows.values())  # rounding included


@pytest.mark.parametrize("method", ["hooks", "ghost"])
@pytest.mark.parametrize("fault", ["clip x 1.3", "clip off", "tied weights used functionally"])
def test_sensitivity_notices(fault: str, method: str):
    with planted.FAULTS[fault]():
        result = sensitivity.run(SMALL if method == "hooks" else GHOST, seed=1, random_users=0)
    assert any(finding.startswith("gradients: the engine is") for finding in result["findings"])
    assert "FOUND" in sensitivity.format_table(result)


def test_canaries_meet_the_claim_and_notice_missing_noise():
    small = {"canaries": 300, "releases": 3, "items": 150}
    sound = canary.run(SMALL, seed=2, **small)
    assert sound["ok"], sound["findings"]
    for row in sound["rows"]:
        assert row["estimate_less_tolerance"] <= row["claim"]
        assert row["lower_bound_95"] <= row["claim"]
        if row["view"] == "as released":
            assert row["estimate"] <= row["claim"]
        else:
            assert row["estimate"] > 0.5 * row["claim"]  # the attack is no weaker than it could be
    assert "estimate" in canary.format_table(sound)
    assert "lower bound" in canary.format_table(sound)
    with planted.FAULTS["noise off"]():
        assert not canary.run(SMALL, seed=2, **small)["ok"]


def test_what_the_attacker_knows_of_the_statistics_is_computed_once(monkeypatch: pytest.MonkeyPatch):
    computed: list[int] = []
    contributions = canary_statistics.statistics_contributions

    def counting(log: BehaviourLog, *public: Any) -> UserContributions:
        computed.append(log.n_users)
        return contributions(log, *public)

    monkeypatch.setattr(canary_statistics, "statistics_contributions", counting)
    planted_in = canary_statistics.plant_in_statistics(SMALL, epsilon=8.0, canaries=10, items=40, seed=2)
    assert sorted(computed) == [10, 20]  # the canaries' rows, the base users' sum
    computed.clear()
    for repetition in range(3):
        planted_in.attack(np.ones(10, dtype=np.bool_), "as released", repetition)
    # Each client once a release, and nobody more than that.
    assert len(computed) == 3 * planted_in.release.carriers["as released"]
    assert sum(computed) == 3 * 30


GRADIENTS: dict[str, Any] = {"release": "gradients", "canaries": 200, "releases": 4, "items": 60}


@pytest.mark.parametrize(
    ("adaptive", "claim"), [(False, 8.0), (True, 8.0), pytest.param(False, 1.0, marks=pytest.mark.slow)]
)
def test_canaries_in_gradients_meet_the_claim(adaptive: bool, claim: float):
    scenario = override(SMALL, {"gradients.adaptive_clip": adaptive})
    sound = canary.run(scenario, seed=2, epsilons=(claim,), **GRADIENTS)
    assert sound["ok"], sound["findings"]
    for row in sound["rows"]:
        assert row["estimate_less_tolerance"] <= row["claim"]
        assert row["lower_bound_95"] <= row["claim"]
        if row["view"] == "as released":
            assert row["estimate"] <= row["claim"]
        elif row["claim"] == 8.0:
            assert 0.8 * row["claim"] < row["estimate"] < 1.25 * row["claim"]
    assert canary.format_table(sound).splitlines()[-1].startswith("gradients: 200 canaries")


@pytest.mark.parametrize("fault", ["noise off", "clip x 1.3", "clip off"])
def test_canaries_in_gradients_notice(fault: str):
    with planted.FAULTS[fault]():
        result = canary.run(SMALL, seed=2, epsilons=(8.0,), **GRADIENTS)
    assert any(finding.startswith("gradients") for finding in result["findings"])


@pytest.mark.parametrize("fault", [None, "metrics uncharged", "mask reuse"])
def test_uploads(fault: str | None):
    if fault is None:
        result = uploads.run(SMALL, seed=1)
        assert result["ok"], result["findings"]
        assert result["pairs"] >= 3
        return
    statistics = override(SMALL, {"gradients": {}, "recipe": "statistics"})
    with planted.FAULTS[fault]():
        result = uploads.run(statistics if fault == "metrics uncharged" else SMALL, seed=1)
    assert any(("ledger" if fault == "metrics uncharged" else "one mask") in f for f in result["findings"])


def test_random_words_are_not_alike_and_small_ones_are():
    words = np.random.default_rng(0).integers(0, 2**32, 300, dtype=np.uint32)
    assert uploads.concentration(words) < uploads.MOST_ALIKE
    assert uploads.concentration(np.arange(300, dtype=np.uint32) - np.uint32(150)) == 1.0


def test_inversion_works_unprotected_and_nowhere_else():
    result = inversion.run(parse_scenario({"model": {"dim": 16}}, source="test"), users=6, seed=1)
    assert result["ok"], result["findings"]
    assert result["stages"]["unprotected update"] > 0.5
    assert result["stages"]["masked upload"] < result["stages"]["unprotected update"] - 0.3


def test_membership_scores():
    scores = membership.Scores(np.array([3.0, 2.0, 2.0]), np.array([1.0, 2.0] * 50))
    assert scores.area == pytest.approx((100 + 2 * 75) / 300)
    assert scores.true_positives(0.01) == pytest.approx(1 / 3)
    assert scores.true_positives(0.6) == 1.0
    assert membership.most_true_positives(1.0, 1e-5, 0.01) == pytest.approx(0.0271928, abs=1e-4)
    assert (
        membership.gaussian_true_positives(1.0, 1e-5, 0.01)
        < membership.most_true_positives(1.0, 1e-5, 0.01) + 0.02
    )


@pytest.mark.slow
def test_membership_stays_below_what_epsilon_allows():
    result = membership.run(SMALL, users=300, items=80, seed=1)
    assert result["ok"], result["findings"]
    assert result["area_without_privacy"] > result["area"] - 0.05
    assert "area under the curve" in membership.format_table(result)


@pytest.mark.slow
def test_every_planted_fault_is_flagged_and_clean_runs_stay_clean():
    result = planted.run(SMALL, clean_runs=3, seed=5)
    assert result["ok"], planted.format_table(result)
    assert planted.format_table(result).splitlines()[-1] == (
        "flagged 6/6 planted faults, 0 false alarms in 3 clean runs"
    )


def test_the_command_line_offers_the_audits():
    shown = CliRunner().invoke(audit, [])
    assert shown.exit_code == 0
    for command in ("sensitivity", "canary", "uploads", "membership", "inversion", "--planted"):
        assert command in shown.output
