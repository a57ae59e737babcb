"""``fedtower audit``: try to break a run's promises. Heavy imports wait until a command runs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from simulations.cli import AsJson, Check, Scenario, read_scenario, show
from simulations.cli_options import SpacedLists, finish

audit = typer.Typer(add_completion=False, help="Try to break a run's promises.")


class ReleaseName(StrEnum):
    """Releases that canaries can be planted in."""

    statistics = "statistics"
    gradients = "gradients"


Seed = Annotated[int, typer.Option("--seed", help="Of population, users and noise.")]


@audit.callback(invoke_without_command=True)
def planted(
    context: typer.Context,
    plant: Annotated[
        bool,
        typer.Option("--planted", help="Plant six faults and count which audits notice; then clean runs."),
    ] = False,
    clean_runs: Annotated[int, typer.Option("--clean-runs", help="Runs without a fault.")] = 20,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """Try to break a run's promises."""
    if context.invoked_subcommand is not None:
        return
    if not plant:
        typer.echo(context.get_help())
        return
    from simulations.audits.planted import format_table, run

    result = run(read_scenario(None, {}), clean_runs=clean_runs)
    _finish(result, format_table(result), as_json=as_json, check=check)


@audit.command("sensitivity")
def sensitivity(
    scenario: Scenario = None,
    seed: Seed = 0,
    every_loss: Annotated[
        bool,
        typer.Option("--every-loss", help="Audit gradient rounds with each loss, not the scenario's alone."),
    ] = False,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """Move every release with single users, however strange, and compare with the bound its noise was made for."""
    from recsys_models.sampled_losses import LOSSES
    from simulations.audits.sensitivity import format_table, run

    chosen = read_scenario(scenario, {})
    others = [loss for loss in LOSSES if loss != chosen.gradients.loss] if every_loss else []
    result = run(chosen, seed=seed, losses=others)
    _finish(result, format_table(result), as_json=as_json, check=check)


@audit.command("canary", cls=SpacedLists)
def canary(
    scenario: Scenario = None,
    epsilon: Annotated[list[float], typer.Option("--epsilon", help="Claims to try, e.g. 1 8.")] = [1.0, 8.0],  # noqa: B006
    release: Annotated[
        ReleaseName, typer.Option("--release", help="Where they are planted: statistics or gradients.")
    ] = ReleaseName.statistics,
    canaries: Annotated[int, typer.Option("--canaries", help="Users planted by a coin flip each.")] = 600,
    seed: Seed = 0,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """Tell planted users from absent ones in a released sum: an estimate of epsilon, and a 95 % lower bound."""
    from simulations.audits.canary import format_table, run

    result = run(
        read_scenario(scenario, {}), release=release.value, epsilons=epsilon, canaries=canaries, seed=seed
    )
    _finish(result, format_table(result), as_json=as_json, check=check)


@audit.command("uploads")
def uploads(scenario: Scenario = None, seed: Seed = 0, as_json: AsJson = False, check: Check = False) -> None:
    """Record what leaves the clients of a small run: all charged, and under masks that are never used twice."""
    from simulations.audits.uploads import format_table, run

    result = run(read_scenario(scenario, {}), seed=seed)
    _finish(result, format_table(result), as_json=as_json, check=check)


@audit.command("membership")
def membership(
    scenario: Scenario = None,
    users: Annotated[int, typer.Option("--users", help="Candidates; half of them are members.")] = 600,
    seed: Seed = 0,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """Tell members from strangers by the lists they are served, beside what epsilon allows."""
    from simulations.audits.membership import format_table, run

    result = run(read_scenario(scenario, {}), users=users, seed=seed)
    _finish(result, format_table(result), as_json=as_json, check=check)


@audit.command("inversion")
def inversion(
    scenario: Scenario = None, seed: Seed = 0, as_json: AsJson = False, check: Check = False
) -> None:
    """Read a user's history off one upload: unprotected, masked, summed, summed with noise."""
    from simulations.audits.inversion import format_table, run

    result = run(read_scenario(scenario, {}), seed=seed)
    _finish(result, format_table(result), as_json=as_json, check=check)


@audit.command("leak")
def leak(
    data: Annotated[
        str, typer.Option("--data", help="built-in, ml-100k, ml-1m, amazon-beauty, or a path.")
    ] = "built-in",
    rounds: Annotated[int, typer.Option("--rounds", help="Passes of each user over her own log.")] = 20,
    seed: Seed = 0,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """Ask our evaluation for a model that knows nothing of others: chance, unless held-out items leak into training."""
    from simulations.audits.leak import format_table, run
    from simulations.bench_quality import find_dataset

    dataset = find_dataset(data, read_scenario(None, {}))
    result = run(dataset, rounds=rounds, seed=seed)
    _finish(result, format_table(result), as_json=as_json, check=check)


def _finish(result: dict[str, Any], table: str, *, as_json: bool, check: bool) -> None:
    show(result, as_json=as_json, lines=[table])
    finish(ok=result["ok"], check=check)
