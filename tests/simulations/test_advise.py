from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

import fedtower
from privacy.errors import InputError
from server.report import write_report
from server.scenario import Scenario, override, parse_scenario
from simulations import advise as advice
from simulations.advise import PublicFacts, choose, facts_of_log, facts_of_run, scenario_of
from simulations.advise_machine import Machine, StepModel, step_seconds
from simulations.synthetic import synthetic_log

CPU = Machine(cores=2, ram_gb=8.0, gpu=None)
GPU = replace(CPU, gpu="a GPU")
FACTS = PublicFacts(users=2000, items=1000)


def chosen(facts: PublicFacts, machine: Machine = CPU) -> dict[str, Any]:
    return {choice.setting: choice.value for choice in choose(facts, machine)}


def test_noise_asks_for_little_and_its_absence_for_more() -> None:
    private = chosen(FACTS)
    assert (private["encoder"], private["model.size"]) == ("attention", "S")
    assert private["statistics.head"] == 333
    free = replace(FACTS, epsilon=None)
    assert chosen(free)["model.size"] == "M"
    assert (chosen(free, GPU)["model.size"], chosen(free, GPU)["encoder"]) == ("L", "gated-attention")
    assert chosen(FACTS, GPU)["model.size"] == "S"


def test_a_loss_is_proposed_where_gradient_rounds_would_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for facts, loss in ((FACTS, "sampled-softmax"), (replace(FACTS, epsilon=None), "softmax")):
        for recipe, expected in (("gradients", loss), ("hybrid", None), ("statistics", None)):
            choice = advice.Choice("recipe", recipe, "as asked")
            monkeypatch.setattr(advice, "_recipe", lambda _facts, choice=choice: choice)
            assert chosen(facts).get("gradients.loss") == expected
            assert scenario_of(facts, choose(facts, CPU)).recipe == recipe


@pytest.mark.parametrize(
    ("facts", "setting", "value"),
    [
        (replace(FACTS, median_length=3), "encoder", "mean-pool"),
        (replace(FACTS, clients=40), "encoder", "mean-pool"),
        (replace(FACTS, long_length=12), "model.max_length", 20),
        (replace(FACTS, long_length=900), "model.max_length", 50),
        (replace(FACTS, long_length=900, epsilon=None), "model.max_length", 200),
        (replace(FACTS, users=300_000, items=50_000), "statistics.method", "subspace"),
        (replace(FACTS, epsilon=None, items=50_000), "statistics.head", 4000),
        (replace(FACTS, epsilon=1.0), "recipe", "statistics"),
    ],
)
def test_choices_follow_from_public_facts(facts: PublicFacts, setting: str, value: Any) -> None:
    assert chosen(facts)[setting] == value
    assert all(choice.reason for choice in choose(facts, CPU))
    assert scenario_of(facts, choose(facts, CPU)).simulation.clients == facts.clients


def test_facts_that_make_no_federation_are_refused() -> None:
    for wrong in ({"users": 0}, {"items": 1}, {"clients": 2}, {"users": 4}):
        with pytest.raises(InputError):
            replace(FACTS, **wrong)


def test_lengths_come_from_ones_own_log_or_from_released_groups(tmp_path: Path) -> None:
    own = facts_of_log(synthetic_log(200, 100, seed=0))
    assert (own["users"], own["items"]) == (200, 100)
    assert 20 <= own["median_length"] <= own["long_length"] <= 120
    groups = [{"events": "x", "users": n} for n in (10.0, 500.0, 300.0, 150.0, -3.0)]
    report = {
        "users": 960, "items": 77, "clients": 4, "detail": {"groups": groups},
        "scenario": {"evaluation": {"group_bounds": [10, 20, 50, 100]}},
    }  # fmt: skip
    write_report(report, tmp_path)
    found = facts_of_run(tmp_path)
    assert (found["users"], found["items"], found["clients"]) == (960, 77, 4)
    assert (found["median_length"], found["long_length"]) == (21, 101)
    groups[1] = {"events": "x", "suppressed": "too few"}
    write_report(report, tmp_path)
    assert facts_of_run(tmp_path)["median_length"] is None
    write_report({"items": 3}, tmp_path)
    with pytest.raises(InputError, match="give --users and --items"):
        facts_of_run(tmp_path)


def test_a_size_that_takes_too_long_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def calibrated(scenario: Scenario, items: int, *, median_length: int | None) -> StepModel:
        seconds = {"L": 100.0, "M": 20.0, "S": 0.1}[scenario.model.size]
        return StepModel(scenario, 40, (400, items), seconds, 0.0, 0.0)

    monkeypatch.setattr(advice.StepModel, "calibrated", calibrated)
    free = replace(FACTS, epsilon=None)
    found = advice.advise(free, GPU, minutes=5.0)
    assert found["scenario"]["model"]["size"] == "S"
    assert "fits into the time" in next(c["reason"] for c in found["choices"] if c["setting"] == "model.size")
    assert advice.advise(free, GPU, minutes=1e6)["scenario"]["model"]["size"] == "L"
    private = advice.advise(FACTS, GPU)
    assert private["epsilon"] <= 8.0
    assert [r["name"] for r in private["releases"]][:2] == ["popularity", "statistics"]


def test_a_line_goes_through_what_was_measured() -> None:
    drawn = override(Scenario(), {"fit.sampling_probability": 0.5})
    model = StepModel(drawn, 40, (256, 1000), 2.0, 0.005, 0.001)
    assert model.seconds(512, 1000) == pytest.approx(2.0)
    assert model.seconds(1024, 1000) == pytest.approx(2.0 + 256 * 0.005)
    assert model.seconds(1024, 2000) == pytest.approx(2.0 + 256 * 0.005 + 1000 * 0.002)
    assert model.seconds(2, 1) > 0.0


def test_a_step_is_timed_on_a_real_client() -> None:
    small = {"encoder": "mean-pool", "model.dim": 8, "model.max_length": 10, "gradients.loss": "softmax"}
    scenario = override(Scenario(), small)
    assert 0.0 <= step_seconds(scenario, 20, 40, 8, 4) < 5.0


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        fedtower.run(typer.main.get_command(fedtower.app), ["advise", *map(str, arguments)])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_the_command_prints_a_scenario_that_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def calibrated(scenario: Scenario, items: int, *, median_length: int | None) -> StepModel:
        return StepModel(scenario, 40, (100, items), 0.02, 0.0, 0.0)

    monkeypatch.setattr(advice.StepModel, "calibrated", calibrated)
    out = tmp_path / "proposed.toml"
    code, printed, err = command(capsys, "--users", 2000, "--items", 1000, "--json", "--out", out)
    assert (code, err) == (0, "")
    document = tomllib.loads(out.read_text())
    assert parse_scenario(document, source="test").statistics.head == 333
    assert json.loads(printed)["scenario"] == document
    code, printed, _ = command(capsys, "--users", 2000, "--items", 1000)
    assert code == 0
    assert "statistics.head" in printed
    assert "20 steps 0.4 s" in printed
    monkeypatch.setattr("simulations.advise_machine.measured_step", lambda *_: 0.03)
    assert command(capsys, "--users", 2000, "--items", 1000, "--check")[0] == 1
    monkeypatch.setattr("simulations.advise_machine.measured_step", lambda *_: 0.021)
    assert command(capsys, "--users", 2000, "--items", 1000, "--check")[0] == 0
    for arguments, message in (
        ([], "give DATA, --run, or --users and --items"),
        (["--users", 10], "how many items"),
        (["--users", 10, "--items", 5, "--privacy", "maybe"], "use on or off"),
        (["--users", 10, "--items", 5, "--minutes", "nan"], "positive"),
    ):
        code, _, err = command(capsys, *arguments)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_predicted_step_times_are_within_a_quarter_of_measured_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(capsys, "--users", 2000, "--items", 1000, "--check")[0] == 0
