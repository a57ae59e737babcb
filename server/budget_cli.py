"""``fedtower budget``: plan a budget, divide it, show what was spent, verify and certify it.

All commands but ``plan`` read a ledger file and nothing else. ε is recomputed from the events in it, by two accountants.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Plan, divide, show, verify and certify a privacy budget.",
)

LedgerPath = Annotated[Path, typer.Argument(help="The ledger file; its .counter lies beside it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def plan(
    scenario: Annotated[
        Path | None, typer.Argument(metavar="[SCENARIO.toml]", help="The built-in scenario if left out.")
    ] = None,
    users: Annotated[int | None, typer.Option(help="Enrolled users, over all clients.")] = None,
    items: Annotated[int | None, typer.Option(help="Items of the catalogue.")] = None,
    clients: Annotated[int | None, typer.Option(help="Clients that take part.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="Budget instead of the scenario's.")] = None,
    delta: Annotated[float | None, typer.Option(help="Delta instead of the scenario's.")] = None,
    noise_multiplier: Annotated[
        float | None,
        typer.Option(help="The other way round: this noise for every release; what does it cost?"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a budget buys, from public facts alone: noise and ε per release, and the accuracy to expect."""
    from server.budget_console import print_plan
    from server.budget_plan import plan_statement
    from server.scenario import Scenario, load_scenario, override

    chosen = load_scenario(scenario) if scenario is not None else Scenario()
    changes = {"privacy.epsilon": epsilon, "privacy.delta": delta}
    chosen = override(chosen, {name: value for name, value in changes.items() if value is not None})
    facts = chosen.simulation
    statement = plan_statement(
        chosen,
        users=facts.users if users is None else users,
        items=facts.items if items is None else items,
        clients=facts.clients if clients is None else clients,
        noise_multiplier=noise_multiplier,
    )
    if as_json:
        typer.echo(json.dumps(statement, indent=2))
    else:
        print_plan(statement)


@app.command()
def show(ledger: LedgerPath, as_json: AsJson = False) -> None:
    """Show every release in the ledger, what it cost, and what is left."""
    from server.budget_console import print_statement
    from server.ledger_statement import ledger_statement, open_ledger

    statement = ledger_statement(open_ledger(ledger))
    if as_json:
        typer.echo(json.dumps(statement, indent=2))
    else:
        print_statement(statement)


@app.command()
def verify(
    ledger: LedgerPath,
    report: Annotated[
        Path | None, typer.Option(help="A report.json, or its run folder, to compare with.")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="A head hash noted earlier, such as a certificate's: it must be in the chain."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the chain of hashes, recompute ε, and compare it with a report; exit code 4 if anything fails."""
    from privacy.errors import LedgerError
    from server.ledger_statement import TOLERANCE, compare_with_report, open_ledger

    opened = open_ledger(ledger)
    opened.verify()
    if head is not None and not opened.remembers(head):
        raise LedgerError(f"{ledger}: never had the head {head}: an older copy, or another ledger")
    found: dict[str, Any] = {
        "population": opened.population,
        "epsilon": opened.epsilon_spent(),
        "epsilon_budget": opened.epsilon_budget,
        "delta": opened.target_delta,
        "head_hash": opened.head_hash(),
        "verified": True,
    }
    if report is not None:
        found["report_difference"] = compare_with_report(opened, report)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(
        f"ledger   holds: ε = {found['epsilon']:.6f} of {found['epsilon_budget']:g} at δ = {found['delta']:g}"
    )
    if report is not None:
        typer.echo(f"report   agrees: |difference| = {found['report_difference']:.1e}, at most {TOLERANCE:g}")
    typer.echo(f"head     {found['head_hash']}")


@app.command("open")
def open_population(
    ledger: Annotated[
        Path, typer.Argument(help="Where the ledger shall be; its .counter will lie beside it.")
    ],
    population: Annotated[str, typer.Option(help="Whose users these are; one ledger for each population.")],
    epsilon: Annotated[float, typer.Option(help="Never to be exceeded by all deployments together.")],
    delta: Annotated[
        float, typer.Option(help="At which epsilon is stated, for the life of the ledger.")
    ] = 1e-5,
) -> None:
    """Open the ledger of a population, or change the budget of one that is open; both are recorded."""
    from privacy.accounting.ledger import Ledger

    opened = Ledger.open(ledger, population=population, epsilon_budget=epsilon, target_delta=delta)
    typer.echo(
        f"open     population {population!r}: ε = {opened.epsilon_spent():.6f} of {epsilon:g} spent, δ = {delta:g}"
    )
    typer.echo(f"head     {opened.head_hash()}")


@app.command("slice")
def give_slice(
    ledger: LedgerPath,
    deployment: Annotated[str, typer.Option(help="Name of the deployment; each has one slice.")],
    epsilon: Annotated[float, typer.Option(help="What its own releases may cost, at the ledger's delta.")],
    expires: Annotated[
        str, typer.Option(metavar="DATE", help="Last day (UTC), 2026-12-31, or a time with its zone.")
    ],
) -> None:
    """Give a deployment a part of the population's budget, until a date."""
    from server.ledger_statement import end_of, open_ledger

    opened = open_ledger(ledger)
    opened.give_slice(deployment, epsilon, end_of(expires))
    typer.echo(
        f"slice    {deployment}: ε = {epsilon:g} until {end_of(expires):%Y-%m-%d %H:%M} UTC, "
        f"debited from population {opened.population!r} (ε = {opened.epsilon_budget:g})"
    )
    typer.echo(f"head     {opened.head_hash()}")


@app.command()
def close(
    ledger: LedgerPath,
    window: Annotated[
        str | None, typer.Option(help="A data window whose logs are gone, such as 2026-Q1.")
    ] = None,
    deployment: Annotated[str | None, typer.Option("--slice", help="A deployment's slice.")] = None,
) -> None:
    """Close a data window or a deployment's slice for good; what was spent stays spent."""
    from server.ledger_statement import open_ledger

    if (window is None) == (deployment is None):
        raise typer.BadParameter("give either --window NAME or --slice DEPLOYMENT")
    opened = open_ledger(ledger)
    if window is not None:
        opened.close_window(window)
        typer.echo(f"closed   data window {window}: it cannot be charged again")
    if deployment is not None:
        opened.close_slice(deployment)
        typer.echo(f"closed   slice of deployment {deployment}: it allows nothing more")
    # Said each time, because it is what people hope for when data is deleted.
    typer.echo(
        f"spent    ε = {opened.epsilon_spent():.6f} of {opened.epsilon_budget:g}, as before: nothing is refunded"
    )
    typer.echo(f"head     {opened.head_hash()}")


@app.command()
def certificate(
    source: Annotated[Path, typer.Argument(metavar="RUN_OR_LEDGER", help="A run folder, or a ledger file.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write into; default beside the ledger.")] = None,
    as_json: AsJson = False,
) -> None:
    """Certify what a ledger proves: for machines (JSON), and for the people whose logs are used (a page)."""
    from server.certificate import certificate as certify
    from server.disclosure import write_pages

    stated = certify(source)
    folder = out or (source if source.is_dir() else source.parent)
    files = write_pages(stated, folder)
    if as_json:
        typer.echo(json.dumps(stated, indent=2, ensure_ascii=False))
        return
    guarantee = stated["guarantee"]
    if stated["protects"] is False:
        typer.echo("SIMULATED: the noise came from a seed; this certifies the arithmetic and protects nobody")
    typer.echo(
        f"states   ε = {guarantee['epsilon']:.6f} of {guarantee['epsilon_budget']:g} at δ = {guarantee['delta']:g}; "
        f"{guarantee['unit']}, {guarantee['relation']}"
    )
    own_view = stated["trust_model"]["epsilon_of_one_clients_uploads_if_secure_aggregation_failed"]
    shown = "not recorded" if own_view is None else f"ε = {own_view:.2f}"
    typer.echo(f"if masks failed, one client's own uploads: {shown}")
    for file in files:
        typer.echo(f"wrote    {file}")
    typer.echo(f"head     {stated['ledger']['head_hash']}")
