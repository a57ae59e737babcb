"""The figures of a whole federation in one process; ``docs/evaluation.md`` has them as commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import typer

import client.gradients
import fedtower
from client import handlers
from client.behaviour_log import Stage
from client.evaluation import Ranks, metric_contributions, preset_ranks, rank_targets
from client.model import ClientModel
from privacy.accounting.accountant import epsilon
from privacy.accounting.ledger import Ledger
from privacy.bounded import BoundedSum, clip_and_sum
from privacy.errors import BudgetExceeded
from privacy.release_terms import ReleaseTerms
from privacy.wire import federation as wire
from recsys_models.batches import NextItemBatch, next_item_batch
from recsys_models.metrics.ranking import mean_metrics
from recsys_models.metrics.sums import user_metric_rows
from recsys_models.retrieval.presets import PRESETS, comparison_rows
from server.federation import Unwatched
from server.item_tower import random_tower
from server.scenario import Scenario, override
from server.trained_tower import TowerInTraining
from simulations.run import simulate
from tests.recsys_models.data.real_data import real_data
from tests.tiny_federation import SmallFederation, small_federation, small_scenario

ROOT = Path(__file__).resolve().parents[2]
METRICS = {"recall@10": "hit@10", "recall@20": "hit@20", "ndcg@10": "ndcg@10"}


# --- secure recall is plain recall -----------------------------------------------------------------------------


def ranked_anew(small: SmallFederation, stage: Stage) -> Ranks:
    """Everybody's ranks, computed here and not taken from what the clients keep."""
    parts = [rank_targets(c.model, c.log, c.public, stage) for c in small.clients.values()]
    return Ranks(np.concatenate([p.model for p in parts]), np.concatenate([p.popularity for p in parts]))


def test_secure_recall_equals_plain_recall_of_the_same_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"privacy.mode": "off", "fit.steps": 2, "recipe": "hybrid", "gradients.min_users": 0}
    small = small_federation(tmp_path, monkeypatch, changes)
    plain: dict[str, Any] = {}
    votes: dict[str, Any] = {}

    def look(name: str) -> None:
        stage = "test" if name == "metrics-final" else "validation"
        plain[name] = ranked_anew(small, stage)
        by_client = [preset_ranks(c.model, c.log, c.public, stage) for c in small.simulation.clients.values()]
        votes[name] = {preset: np.concatenate([part[preset] for part in by_client]) for preset in PRESETS}

    monkeypatch.setattr(small.federation, "_after_release", look)
    qualities = small.federation.run().qualities
    assert list(qualities) == ["metrics-statistics", "metrics-gradients", "metrics-final"]
    for name, quality in qualities.items():
        assert quality.users == len(plain[name].model) == 60
        for found, ranks in (
            (quality.model, plain[name].model),
            (quality.popularity, plain[name].popularity),
        ):
            central = mean_metrics(ranks)
            for metric, estimate in found.items():
                assert estimate.value == pytest.approx(
                    central[METRICS[metric]], abs=1e-6 if "ndcg" in metric else 0
                )
        assert set(quality.model) == (set(METRICS) if name == "metrics-final" else {"recall@10"})
        ranks = {"model": plain[name].model, "popularity": plain[name].popularity}
        rows = user_metric_rows(ranks) if name == "metrics-final" else comparison_rows(votes[name])
        dense = np.bincount(rows.indices, weights=rows.values, minlength=rows.length)
        terms = small.federation._terms(name)
        assert np.array_equal(small.sums[f"{name}/0"].values * terms.unit, dense)
        assert 0 < mean_metrics(plain[name].model)["hit@10"] < 1  # a figure that could be wrong
    for name in ("metrics-statistics", "metrics-gradients"):
        found = {preset: estimate.value for preset, estimate in qualities[name].compared.items()}
        assert found == {preset: mean_metrics(ranks)["hit@10"] for preset, ranks in votes[name].items()}
        assert found[qualities[name].chosen] == max(found.values())


def test_ranks_that_a_client_keeps_are_those_of_its_model_after_every_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "recipe": "hybrid",
        "gradients.min_users": 0,
        "gradients.rounds": 1,
        "privacy.mode": "off",
        "fit.epochs": 1,
        "simulation.clients": 3,
        "simulation.users": 30,
    }
    small = small_federation(tmp_path, monkeypatch, changes)
    exchange = small.wire.exchange
    was_kept: set[str] = set()
    seen: set[str] = set()

    def watched(kind: str, requests: Any, *, deadline_s: float) -> Any:
        replies = exchange(kind, requests, deadline_s=deadline_s)
        seen.add(kind)
        for each in small.clients.values() if kind != wire.ENROL else ():
            was_kept.update([kind] if each._ranks else [])
            for stage in get_args(Stage):
                kept, anew = each.ranks(stage), rank_targets(each.model, each.log, each.public, stage)
                assert np.array_equal(kept.model, anew.model), (kind, stage)
                assert np.array_equal(kept.popularity, anew.popularity), (kind, stage)
        return replies

    monkeypatch.setattr(small.wire, "exchange", watched)
    small.federation.run()
    assert {wire.AGREE, wire.RELEASE, wire.EVALUATE, wire.PUBLISH, wire.FIT} <= seen
    assert {wire.SURVIVORS, wire.REVEAL} <= was_kept
    assert not was_kept & {wire.AGREE, wire.RELEASE, wire.PUBLISH, wire.FIT}


def test_nobody_is_ranked_twice_for_the_final_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked: list[str] = []

    def noted(model: Any, log: Any, public: Any, stage: Stage) -> Ranks:
        ranked.append(stage)
        return rank_targets(model, log, public, stage)

    monkeypatch.setattr(handlers, "rank_targets", noted)
    report = simulate(small_scenario({"privacy.mode": "off", "fit.epochs": 0}), tmp_path, Unwatched())
    released = {name: metric["value"] for name, metric in report["metrics"].items()}
    exact = report["simulation"]["exact_metrics"]
    assert {name: exact[name] for name in METRICS} == pytest.approx(
        {name: released[name] for name in METRICS}, abs=1e-6
    )
    assert ranked.count("test") == report["clients"]


def test_under_noise_the_sums_before_it_are_the_plain_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_noise: dict[str, list[BoundedSum]] = {}
    add_share = ReleaseTerms.add_share

    def watched(self: ReleaseTerms, total: BoundedSum, randomness: Any) -> Any:
        before_noise.setdefault(self.release.name, []).append(total)
        return add_share(self, total, randomness)

    monkeypatch.setattr(ReleaseTerms, "add_share", watched)
    small = small_federation(tmp_path, monkeypatch)
    small.federation.run()
    central = metric_contributions(ranked_anew(small, "test"))
    terms = small.federation._terms("metrics-final")
    plain = clip_and_sum(central, l2_clip_norm=terms.l2_clip_norm, unit=terms.unit)
    summed = np.sum([total.values for total in before_noise["metrics-final"]], axis=0)
    assert np.array_equal(summed, plain.values)
    released = small.sums["metrics-final/0"].values
    assert not np.array_equal(released, summed)
    assert np.array_equal(released, sum(small.uploads["metrics-final/0"].values()))


# --- one federated step is one centralised step ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "item_tower"),
    [("mean-pool", "ids"), ("attention", "ids"), ("attention", "content"), ("mean-pool", "fusion")],
)
def test_a_federated_gradient_step_is_the_centralised_one(
    encoder: str, item_tower: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[dict[str, Any]] = []

    def watched(histories: list[np.ndarray], **given: Any) -> NextItemBatch:
        if len(histories) == 12:  # a client's step; its guard looks at 8 users
            taken.append({"histories": histories, **given})
        return next_item_batch(histories, **given)

    monkeypatch.setattr(client.gradients, "next_item_batch", watched)
    rate = 0.5
    small = small_federation(
        tmp_path,
        monkeypatch,
        {
            "privacy.mode": "off",
            "recipe": "gradients",
            "encoder": encoder,
            "model.item_tower": item_tower,
            "gradients.rounds": 1,
            "gradients.server_optimizer": "fedavg",
            "gradients.server_learning_rate": rate,
        },
    )
    outcome = small.federation.run()
    plan = small.federation.plan
    head = outcome.arrays["head"]
    seed = int(plan.session[:8], 16)
    content = outcome.arrays.get("content", np.zeros((40, 0), np.float32))
    whole = TowerInTraining(item_tower, None, head, content, dim=8, seed=seed).vectors
    if item_tower == "ids":
        assert np.array_equal(whole, random_tower(head, 40, 8, seed))
    start = whole[head]

    histories = [history for each in taken for history in each["histories"]]
    assert len(histories) == plan.settings["users"] == 60
    pooled = next_item_batch(
        histories,
        max_length=plan.settings["max_length"],
        negatives=np.concatenate([each["negatives"] for each in taken]),
        log_expected_count=np.concatenate([each["log_expected_count"] for each in taken]),
    )
    table = torch.from_numpy(start.copy()).requires_grad_(True)
    model = ClientModel(plan.settings, plan.session.encode())  # the start all clients share
    filled = (pooled.item_ids >= 0).unsqueeze(-1)
    vectors = torch.where(filled, table[pooled.item_ids.clamp(min=0)], 0.0)
    pooled(model.recommender.encoder, vectors).mean().backward()
    assert table.grad is not None
    wanted = whole.copy()
    if item_tower != "content":
        wanted[head] -= rate * table.grad.numpy()
    # The map moves every item of the catalogue, by what its content shares with the head's.
    wanted -= rate * content @ (content[head].T @ table.grad.numpy())

    assert np.abs(wanted - whole)[head].max() > 1e-2
    outside = np.setdiff1d(np.arange(40), head)
    assert not outside.size or bool(np.any(wanted != whole, axis=1)[outside].any()) == (item_tower != "ids")
    np.testing.assert_allclose(outcome.arrays["item_tower"], wanted, atol=5e-6)


# --- the loopback's sum is the plain integer sum ---------------------------------------------------------------


@pytest.mark.parametrize("mode", ["on", "off"])
def test_the_sum_is_the_plain_integer_sum_with_and_without_dropouts(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {
        ("client-01", wire.RELEASE, 0): "before",
        ("client-02", wire.RELEASE, 1): "after",
        ("client-03", wire.SURVIVORS, 2): "before",
        ("client-04", wire.REVEAL, 3): "after",
    }
    small = small_federation(
        tmp_path,
        monkeypatch,
        {"privacy.mode": mode},
        fault=lambda client, kind, count: losses.get((client, kind, count)),
    )
    small.federation.run()
    assert [len(found.survivors) for found in small.sums.values()] == [4, 4, 5, 5]
    for task, found in small.sums.items():
        assert np.array_equal(found.values, sum(small.uploads[task][c] for c in found.survivors)), task


# --- a budget that is too small --------------------------------------------------------------------------------

TOO_MUCH = {
    "privacy.epsilon": 0.5,
    "privacy.noise_multipliers": {
        "popularity": 20.0,
        "statistics": 20.0,
        "metrics-statistics": 5.0,
        "metrics-final": 5.0,
    },
}


def test_a_run_stops_before_the_release_that_would_exceed_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        BudgetExceeded, match=r"release 'metrics-statistics' would raise epsilon from .* budget 0.5"
    ):
        simulate(small_scenario(TOO_MUCH), tmp_path / "run", Unwatched())
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert "'metrics-statistics' would raise epsilon" in report["refused"]
    assert [r["name"] for r in report["privacy"]["releases"]] == ["popularity", "statistics"]
    assert "Stopped" in (tmp_path / "run" / "report.md").read_text()
    for path, population in (
        (tmp_path / "run" / "ledger.sqlite", "built-in"),
        (tmp_path / "run" / "clients" / "client-01" / "ledger.sqlite", "client-01"),
    ):
        ledger = Ledger.open(path, population=population, epsilon_budget=0.5, target_delta=1e-5, create=False)
        ledger.verify()
        recomputed = epsilon([entry.event for entry in ledger.entries()], 1e-5)
        assert 0.2 < recomputed <= 0.5
        assert len(ledger.entries()) == 2
    assert report["privacy"]["epsilon"] == pytest.approx(recomputed)
    assert report["left_the_client"]["masked_metrics"] == 0


# --- the command line ------------------------------------------------------------------------------------------


def toml_of(changes: dict[str, Any]) -> str:
    """A scenario file, from dotted settings; the order puts plain ones first."""
    flat: list[str] = []
    tables: dict[str, list[str]] = {}
    for name, value in changes.items():
        text = (
            json.dumps(value)
            if not isinstance(value, dict)
            else "{" + ", ".join(f"{k} = {v}" for k, v in value.items()) + "}"
        )
        section, _, key = name.rpartition(".")
        (tables.setdefault(section, []) if section else flat).append(f"{key} = {text}")
    return "\n".join(flat + [f"[{s}]\n" + "\n".join(lines) for s, lines in tables.items()]) + "\n"


def small_file(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    from tests.tiny_federation import small_settings

    path = folder / "scenario.toml"
    path.write_text(toml_of(small_settings(changes)))
    return path


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run ``fedtower`` in this process: exit code, stdout, stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        fedtower.run(typer.main.get_command(fedtower.app), [str(a) for a in arguments])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_the_command_prints_the_report_and_writes_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(capsys, "simulate", small_file(tmp_path), "--out", tmp_path / "run", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report == json.loads((tmp_path / "run" / "report.json").read_text())
    for metric in METRICS:
        for place in (report["metrics"], *report["baselines"].values()):
            assert place[metric]["low"] <= place[metric]["value"] <= place[metric]["high"]
            assert isinstance(place[metric]["n"], int)
    assert {"epsilon", "epsilon_budget", "delta", "unit", "noise", "releases"} <= set(report["privacy"])
    assert report["privacy"]["epsilon"] <= 8.0
    assert report["left_the_client"]["user_encoder"] == 0
    assert all(report["left_the_client"][kind] > 0 for kind in ("masked_update", "masked_metrics", "keys"))
    assert (report["clients"], report["users"], report["items"], report["seed"]) == (5, 60, 40, 5)
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert {
        "report.md",
        "report.html",
        "item_tower.safetensors",
        "ledger.sqlite",
        "catalogue.sha256",
    } <= written


def test_a_loss_that_no_round_reads_is_said_in_summary_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small_file(tmp_path, {"recipe": "hybrid", "privacy.mode": "off", "fit.epochs": 0})
    code, out, _ = command(capsys, "simulate", path, "--loss", "bpr", "--out", tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    (line,) = report["notices"]
    assert code == 0 and "gradients.loss = 'bpr'" in line and "here 60 are enrolled" in line
    assert line in " ".join(out.split())
    assert "gradients" not in report["seconds"]


def test_a_spent_budget_is_one_line_and_exit_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small_file(tmp_path, TOO_MUCH)
    code, out, err = command(capsys, "simulate", path, "--out", tmp_path / "run", "--json")
    assert (code, out) == (3, "")
    assert err.startswith("error: release 'metrics-statistics' would raise epsilon")
    assert err.count("\n") == 1


LOG = "user_id,item_id,timestamp\n" + "".join(
    f"u{user},i{(user * 3 + k) % 9},{1_600_000_000 + 60 * k}\n" for user in range(8) for k in range(5)
)
CATALOGUE = "item_id,title\n" + "".join(f"i{k},Item {k}\n" for k in range(9))


@pytest.mark.parametrize(
    ("files", "arguments", "message"),
    [
        ({"log.csv": LOG.replace("item_id", "thing", 1)}, [], "item_id"),
        ({"log.csv": LOG.replace("1600000000", "last tuesday", 1)}, [], "last tuesday"),
        ({"log.csv": "user_id,item_id,timestamp\n"}, [], "log.csv"),
        ({"log.csv": ""}, [], "log.csv"),
        ({"log.csv": "\n".join(LOG.splitlines()[:6]) + "\n"}, [], "user"),
        ({"log.csv": LOG + "u1,i77,1600009999\n", "catalogue.csv": CATALOGUE}, [], "i77"),
        ({"log.csv": LOG}, ["--clients", "20"], "20 clients are more than the 8 users"),
        ({"log.csv": LOG}, ["--clients", "2"], "2 clients enrolled"),
        ({}, ["--epsilon", "-1"], "privacy.epsilon: Input should be greater than 0 (got -1.0)"),
        ({}, ["--epsilon", "nan"], "privacy.epsilon"),
        ({}, ["--recipe", "hybird"], "'hybird'"),
        (
            {},
            ["--recipe", "statistics", "--loss", "bpr"],
            "gradients.loss = 'bpr': read by gradient rounds alone",
        ),
        ({"scenario.toml": "[privacy]\nepsilom = 3\n"}, ["scenario.toml"], "did you mean 'privacy.epsilon'?"),
        ({"scenario.toml": "epsilon = [\n"}, ["scenario.toml"], "not valid TOML"),
        ({}, ["missing.toml"], "missing.toml"),
        ({}, ["--data", "nowhere"], "nowhere"),
        ({}, ["--clients", "many"], "many"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    files: dict[str, str],
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    data = ["--data", "log.csv"] if "log.csv" in files else []
    code, out, err = command(capsys, "simulate", *data, *arguments, "--out", "run")
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert "Traceback" not in err


def test_a_folder_that_holds_a_run_is_not_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ledger.sqlite").write_bytes(b"")
    code, _, err = command(capsys, "simulate", small_file(tmp_path), "--out", tmp_path / "run")
    assert code == 2
    assert "already holds a run's ledger" in err


def test_the_command_as_a_process_ends_in_one_line_too(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG.replace("item_id", "thing", 1))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "fedtower",
            "simulate",
            "--data",
            str(tmp_path / "log.csv"),
            "--out",
            str(tmp_path / "run"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


# --- repeatable ------------------------------------------------------------------------------------------------


def test_a_seed_fixes_the_report_and_another_seed_changes_it(tmp_path: Path) -> None:
    changes = {
        "recipe": "gradients",
        "encoder": "attention",
        "simulation.users": 40,
        # Fixed, because fitting sampled steps to a budget takes most of the time and draws nothing.
        "privacy.noise_multipliers": {
            "popularity": 4.0,
            "gradients": 4.0,
            "metrics-gradients": 6.0,
            "metrics-final": 6.0,
        },
    }
    reports: list[dict[str, Any]] = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        report = simulate(small_scenario(changes | {"seed": seed}), tmp_path / name, Unwatched())
        report.pop("seconds")
        reports.append(json.loads(json.dumps(report, default=str)))
    assert reports[0] == reports[1]
    assert reports[0]["item_tower_sha256"] != reports[2]["item_tower_sha256"]
    assert reports[0]["metrics"] != reports[2]["metrics"]


# --- quality ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_built_in_scenario_beats_popularity_by_half(tmp_path: Path) -> None:
    report = simulate(Scenario(), tmp_path / "run", Unwatched())
    assert report["privacy"]["epsilon"] <= 8.0
    exact = report["simulation"]["exact_metrics"]
    assert exact["recall@10"] >= 1.5 * exact["popularity recall@10"]
    assert (
        report["metrics"]["recall@10"]["value"]
        >= 1.5 * report["baselines"]["popularity"]["recall@10"]["value"]
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("changes", "floor"), [({"privacy.mode": "off"}, 0.12), ({"privacy.epsilon": 8.0}, 0.10)]
)
def test_movielens_100k_reaches_its_floor_on_three_seeds(
    changes: dict[str, Any], floor: float, tmp_path: Path
) -> None:
    data = real_data("ml-100k")
    recalls = [
        simulate(
            override(Scenario(), changes | {"seed": seed}), tmp_path / str(seed), Unwatched(), data=data
        )["simulation"]["exact_metrics"]["recall@10"]
        for seed in range(3)
    ]
    assert np.mean(recalls) >= floor, recalls
