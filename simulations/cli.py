"""``fedtower simulate``, ``provision``, ``bench`` and ``demo``. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from privacy.errors import InputError
from simulations.cli_options import SpacedLists, finish, positive_number, whole_number

Scenario = Annotated[
    Path | None,
    typer.Argument(metavar="[SCENARIO.toml]", help="What to run; the built-in scenario if left out."),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="A behaviour log or data set folder; the built-in log if left out."),
]
Clients = Annotated[int | None, typer.Option("--clients", help="Number of clients.")]
Epsilon = Annotated[float | None, typer.Option("--epsilon", help="Privacy budget of the whole run.")]
Encoder = Annotated[
    str | None, typer.Option("--encoder", help="attention, gated-attention, hstu, gru, cnn or mean-pool.")
]
Size = Annotated[str | None, typer.Option("--size", help="Of the encoder: S, M or L.")]
Loss = Annotated[
    str | None,
    typer.Option("--loss", help="Of gradient rounds: sampled-softmax, softmax, bpr, bce or gbce."),
]
ItemTower = Annotated[
    str | None, typer.Option("--item-tower", help="What gradient rounds train: ids, content or fusion.")
]
Reranker = Annotated[str | None, typer.Option("--reranker", help="none or neumf.")]
Recipe = Annotated[str | None, typer.Option("--recipe", help="statistics, gradients or hybrid.")]
Privacy = Annotated[str | None, typer.Option("--privacy", help="on, or off for research.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda[:n], for the encoders.")]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Makes the run repeatable (and its noise no protection).")
]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/<name>-<time>.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]

Check = Annotated[bool, typer.Option("--check", help="Exit with 1 when the figure falls short.")]

bench = typer.Typer(add_completion=False, help="Measure, in pairs and in one run.")
demo = typer.Typer(add_completion=False, help="Show one promise at work, with figures.")


def simulate(
    scenario: Scenario = None,
    data: Data = None,
    clients: Clients = None,
    epsilon: Epsilon = None,
    encoder: Encoder = None,
    size: Size = None,
    loss: Loss = None,
    item_tower: ItemTower = None,
    reranker: Reranker = None,
    recipe: Recipe = None,
    privacy: Privacy = None,
    seed: Seed = None,
    device: Device = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", help="Run folder to go on from: its arrays, its clients, its ledger."),
    ] = None,
    out: Out = None,
    as_json: AsJson = False,
    user_column: Annotated[str, typer.Option(help="What the log calls its users.")] = "user_id",
    item_column: Annotated[str, typer.Option(help="What the log calls its items.")] = "item_id",
    timestamp_column: Annotated[str, typer.Option(help="What the log calls its times.")] = "timestamp",
) -> None:
    """Run a whole federation on this machine: real client handlers, real messages, one process."""
    from rich.console import Console

    from recsys_models.data.schema import LogColumns
    from server.console import RunProgress, print_summary
    from server.report import report_json
    from simulations.run import simulate as run_simulation

    chosen = read_scenario(
        scenario,
        {
            "simulation.clients": clients,
            "privacy.epsilon": epsilon,
            "encoder": encoder,
            "model.size": size,
            "gradients.loss": loss,
            "model.item_tower": item_tower,
            "model.reranker": reranker,
            "recipe": recipe,
            "privacy.mode": privacy,
            "seed": seed,
            "device": device,
        },
        resume=resume,
    )
    columns = LogColumns(user=user_column, item=item_column, timestamp=timestamp_column)
    folder = out or run_folder(chosen.name if data is None else data.resolve().name)
    console = Console(stderr=True, quiet=as_json)
    with RunProgress(
        console, epsilon_budget=chosen.privacy.epsilon, privacy_off=not chosen.private
    ) as watcher:
        report = run_simulation(chosen, folder, watcher, data=data, columns=columns)
    if as_json:
        typer.echo(report_json(report))
    else:
        print_summary(report, Console(), folder)


def provision(
    out: Annotated[
        Path, typer.Option("--out", help="Folder to fill: scenario, catalogue, roster, one folder a client.")
    ],
    scenario: Scenario = None,
    data: Data = None,
    clients: Clients = None,
    seed: Seed = None,
) -> None:
    """Lay out a deployment for real processes: each client's log, key and configuration in a folder of its own."""
    from simulations.provision import provision as lay_out

    chosen = read_scenario(scenario, {"simulation.clients": clients, "seed": seed})
    for line in lay_out(chosen, out, data=data):
        typer.echo(line)


@bench.callback()
@demo.callback()
def _several() -> None:
    """Keep these groups groups, however many commands they hold."""


@bench.command("secagg", cls=SpacedLists)
def bench_secagg(
    clients: Annotated[list[str], typer.Option("--clients", help="Cohort sizes, e.g. 20 50.")] = ["20", "50"],  # noqa: B006
    words: Annotated[list[str], typer.Option("--words", help="Vector lengths, e.g. 1e5 1e6.")] = ["1e5"],  # noqa: B006
    dropout: Annotated[float, typer.Option("--dropout", help="Share of clients that never upload.")] = 0.1,
    against_flower: Annotated[
        bool, typer.Option("--against-flower", help="Beside Flower's SecAgg+.")
    ] = False,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """CPU time and bytes of one secure aggregation round, mask stream beside openssl."""
    from simulations.bench_secagg import format_table, run, shortfalls

    result = run(
        [whole_number(c) for c in clients], [whole_number(w) for w in words], dropout, against_flower
    )
    result["shortfalls"] = shortfalls(result)
    show(result, as_json=as_json, lines=[format_table(result), *result["shortfalls"]])
    finish(ok=result["ok"] and not result["shortfalls"], check=check)


@bench.command("quality", cls=SpacedLists)
def bench_quality(
    dataset: Annotated[str, typer.Argument(help="built-in, ml-100k, ml-1m, amazon-beauty, or a path.")],
    epsilon: Annotated[list[str], typer.Option("--epsilon", help="Budgets, e.g. inf 8 4 1.")] = ["inf", "8"],  # noqa: B006
    seeds: Annotated[int, typer.Option("--seeds", help="Runs for each budget.")] = 3,
    scenario: Annotated[Path | None, typer.Option("--scenario", help="Everything else.")] = None,
    clients: Clients = None,
    encoder: Encoder = None,
    size: Size = None,
    loss: Loss = None,
    reranker: Reranker = None,
    recipe: Recipe = None,
    within_client: Annotated[
        bool | None,
        typer.Option("--protect-within-client/--no-protect-within-client", help="See docs/privacy.md."),
    ] = None,
    also_unprotected: Annotated[
        bool,
        typer.Option(
            "--also-unprotected", help="At each budget both: users of one client protected, and not."
        ),
    ] = False,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Central baselines too.")
    ] = True,
    protocol: Annotated[
        str,
        typer.Option("--protocol", help="last-out, time, negatives-99 or lightgcn; see docs/evaluation.md."),
    ] = "last-out",
    twins: Annotated[
        list[str],
        typer.Option(
            "--twins", help="Encoders to train centrally too, at --size (minutes a seed), or all, or none."
        ),
    ] = ["none"],  # noqa: B006
    out: Annotated[Path, typer.Option("--out", help="Finished runs are kept here and not repeated.")] = Path(
        "runs/bench-quality"
    ),
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """Recall and NDCG of the federation at several budgets, beside every baseline, on the same users."""
    from rich.console import Console

    from server.console import RunProgress
    from simulations.bench_quality import format_table, run
    from simulations.bench_report import write_bench

    if also_unprotected and within_client is not None:
        raise InputError("--also-unprotected measures both: leave --(no-)protect-within-client out")
    changes = {
        "simulation.clients": clients,
        "encoder": encoder,
        "model.size": size,
        "gradients.loss": loss,
        "model.reranker": reranker,
        "recipe": recipe,
        "privacy.protect_within_client": within_client,
    }
    chosen = read_scenario(scenario, changes)
    with RunProgress(Console(quiet=True)) as watcher:
        result = run(
            dataset,
            [positive_number(e) for e in epsilon],
            seeds,
            scenario=chosen,
            folder=out,
            watcher=watcher,
            baselines=baselines,
            also_unprotected=also_unprotected,
            protocol=protocol,
            twins=twins,
            say=lambda line: typer.echo(line, err=True),
        )
    name = Path(dataset).name
    page = write_bench(result, out / (name if protocol == "last-out" else f"{name}-{protocol}"))
    show(result, as_json=as_json, lines=[f"report   {page}", format_table(result), *result["shortfalls"]])
    finish(ok=result["ok"], check=check)


@bench.command("users", cls=SpacedLists)
def bench_users(
    users: Annotated[list[str], typer.Option("--users", help="Users of the built-in log, e.g. 2000 1e4.")] = [  # noqa: B006
        "2000",
        "10000",
        "50000",
    ],
    epsilon: Annotated[list[str], typer.Option("--epsilon", help="Budgets, e.g. 1 4 8.")] = ["1", "4", "8"],  # noqa: B006
    seeds: Annotated[int, typer.Option("--seeds", help="Logs and runs for each cell.")] = 1,
    scenario: Annotated[Path | None, typer.Option("--scenario", help="Everything else.")] = None,
    clients: Clients = None,
    encoder: Encoder = None,
    size: Size = None,
    recipe: Recipe = None,
    out: Annotated[Path, typer.Option("--out", help="Finished runs are kept here and not repeated.")] = Path(
        "runs/bench-users"
    ),
    as_json: AsJson = False,
) -> None:
    """Recall of the federation as the population of the built-in log grows, at several budgets, beside popularity.

    A seed of the default takes about 12 minutes and 1.5 GB: 12 seconds a cell of 2,000 users, 33 of 10,000, 230 of 50,000.
    """
    from rich.console import Console

    from server.console import RunProgress
    from simulations.bench_plots import draw_users
    from simulations.bench_users import format_table, run

    changes = {
        "simulation.clients": clients,
        "encoder": encoder,
        "model.size": size,
        "recipe": recipe,
    }
    with RunProgress(Console(quiet=True)) as watcher:
        result = run(
            [whole_number(count) for count in users],
            [positive_number(e) for e in epsilon],
            seeds,
            scenario=read_scenario(scenario, changes),
            folder=out,
            watcher=watcher,
            say=lambda line: typer.echo(line, err=True),
        )
    draw_users(result, out / "users.png")
    show(result, as_json=as_json, lines=[format_table(result)])


@bench.command("cold-items")
def bench_cold_items(
    dataset: Annotated[str, typer.Argument(help="built-in, ml-100k, amazon-beauty, or a path.")],
    seed: Annotated[int, typer.Option("--seed", help="Which items are cold.")] = 0,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes of the trained towers.")] = 5,
    text: Annotated[
        str, typer.Option("--text", help="hashed, or pretrained (needs the extra fedtower[text]).")
    ] = "hashed",
    networks: Annotated[
        bool, typer.Option("--networks", help="Also networks over words; built-in: pictures, sounds too.")
    ] = False,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """Items held out of training: found through content, never through their index. No federation, no privacy."""
    from simulations.bench_cold_items import format_table, run
    from simulations.bench_quality import find_dataset

    if text not in ("hashed", "pretrained"):
        raise InputError(f"--text {text!r}: use hashed or pretrained")
    method = "wordllama" if text == "pretrained" else "hashed"
    result = run(
        find_dataset(dataset, read_scenario(None, {})),
        seed=seed,
        epochs=epochs,
        text=method,
        networks=networks,
        say=lambda line: typer.echo(line, err=True),
    )
    show(result, as_json=as_json, lines=[*result["shortfalls"], format_table(result)])
    finish(ok=result["ok"], check=check)


@bench.command("ratings")
def bench_ratings(
    dataset: Annotated[str, typer.Argument(help="ml-100k, ml-1m, or a path to a log with a column value.")],
    scale: Annotated[tuple[float, float], typer.Option("--scale", help="Lowest and highest rating.")] = (
        1.0,
        5.0,
    ),
    seed: Annotated[int, typer.Option("--seed", help="Of the division among clients and the fit.")] = 1,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """RMSE and MAE of predicted ratings, fitted by each client for itself, beside the bias baseline."""
    from simulations.bench_ratings import format_table, run

    result = run(dataset, scale=scale, seed=seed)
    show(result, as_json=as_json, lines=[format_table(result)])
    finish(ok=result["ok"], check=check)


@bench.command("dp-step", cls=SpacedLists)
def bench_dp_step(
    items: Annotated[
        list[str] | None, typer.Option("--items", help="Sizes of the item table; 4e3 1e5 1e6 if left out.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="Interleaved steps of each engine.")] = 9,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """Time and memory of one private step: no DP, Opacus' hooks, ghost clipping, ours."""
    from simulations.bench_dp_step import format_table, run

    result = run([whole_number(size) for size in items or ("4e3", "1e5", "1e6")], rounds=rounds)
    show(result, as_json=as_json, lines=[format_table(result)])
    finish(ok=result["ok"], check=check)


@demo.command("secagg")
def demo_secagg(
    clients: Annotated[int, typer.Option("--clients", help="Cohort size.")] = 50,
    dropout: Annotated[
        float, typer.Option("--dropout", help="Chance that a client is lost in a round.")
    ] = 0.3,
    schedules: Annotated[int, typer.Option("--schedules", help="Random drop-out schedules to run.")] = 200,
    words: Annotated[str, typer.Option("--words", help="Vector length.")] = "1000",
    seed: Annotated[int, typer.Option("--seed", help="Of the schedules and values.")] = 0,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """Random drop-outs at every step: an exact sum, or a clean abort below the threshold."""
    from simulations.demo_secagg import format_table, run

    result = run(clients, dropout, schedules, whole_number(words), seed)
    show(result, as_json=as_json, lines=[format_table(result)])
    finish(ok=result["ok"], check=check)


@demo.command("attacks", cls=SpacedLists)
def demo_attacks(
    attack: Annotated[list[str] | None, typer.Option("--attack", help="Only these.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the victims' data.")] = 0,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """What each known attack gets here, and from a system without the defence."""
    from simulations.attacks import ATTACKS, format_table, run

    result = run(tuple(attack) if attack else ATTACKS, seed)
    show(result, as_json=as_json, lines=[format_table(result)])
    finish(ok=result["ok"], check=check)


@bench.command("accountant")
def bench_accountant(as_json: AsJson = False, check: Check = False) -> None:
    """Ours beside dp-accounting, Opacus PRV, the closed formula and values on record, in ten settings."""
    from simulations.bench_accountant import format_table, run

    result = run()
    show(result, as_json=as_json, lines=[format_table(result)])
    finish(ok=result["ok"], check=check)


@bench.command("budget", cls=SpacedLists)
def bench_budget(
    users: Annotated[list[str], typer.Option("--users", help="Users of the built-in log, e.g. 500 2000.")] = [  # noqa: B006
        "500",
        "2000",
        "6000",
    ],
    epsilon: Annotated[list[str], typer.Option("--epsilon", help="Budgets, e.g. 1 2 4 8.")] = [  # noqa: B006
        "1",
        "2",
        "4",
        "8",
    ],
    recipe: Annotated[list[str], typer.Option("--recipe", help="Recipes to measure.")] = [  # noqa: B006
        "statistics",
        "hybrid",
        "gradients",
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The table that budget plan reads: written after every cell, gone on with."
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure cells that the table has already as well.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What a budget costs in accuracy on the built-in log: the table behind fedtower budget plan."""
    from rich.console import Console

    from server.console import RunProgress
    from simulations.bench_budget import format_table, run

    with RunProgress(Console(quiet=True)) as watcher:
        result = run(
            [whole_number(u) for u in users],
            [positive_number(e) for e in epsilon],
            watcher=watcher,
            recipes=recipe,
            out=out,
            again=again,
            say=lambda line: typer.echo(line, err=True),
        )
    show(result, as_json=as_json, lines=[format_table(result)])


@demo.command("ledger")
def demo_ledger(
    crash_schedules: Annotated[
        int, typer.Option("--crash-schedules", help="Lives of a population, each with one to three kills.")
    ] = 500,
    seed: Annotated[int, typer.Option("--seed", help="Of who is killed where.")] = 0,
    as_json: AsJson = False,
    check: Check = False,
) -> None:
    """Kill server and client at every step of a release: no overspend, no release without an entry."""
    from simulations.ledger_crashes import lines_of, run

    result = run(crash_schedules, seed)
    show(result, as_json=as_json, lines=lines_of(result))
    finish(ok=result["ok"], check=check)


def read_scenario(path: Path | None, changes: dict[str, Any], *, resume: Path | None = None) -> Any:
    """A scenario file, or the resumed run's, or the built-in scenario, with command-line options over it."""
    from server.resume import resumed
    from server.scenario import Scenario as Model
    from server.scenario import load_scenario, override

    scenario = load_scenario(path) if path is not None else None
    scenario = resumed(resume, scenario) if resume is not None else scenario or Model()
    given = {name: value for name, value in changes.items() if value is not None}
    return override(scenario, given) if given else scenario


def run_folder(name: str) -> Path:
    """A folder of its own for a run, under ``runs/``."""
    from datetime import datetime

    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path("runs") / f"{name}-{stamp}"
    count = 1
    while folder.exists():
        count += 1
        folder = Path("runs") / f"{name}-{stamp}-{count}"
    return folder


def show(result: dict[str, Any], *, as_json: bool, lines: list[str]) -> None:
    """Print a bench's or demo's result: the JSON alone, or its lines with the figure last."""
    if as_json:
        typer.echo(json.dumps(result, indent=2, sort_keys=True))
    else:
        for line in lines:
            typer.echo(line)
