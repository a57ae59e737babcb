"""``fedtower advise``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

MOST_OFF = 0.25
"""``--check``: how far a predicted step may be from a measured one."""


def advise(
    data: Annotated[
        Path | None, typer.Argument(metavar="[DATA]", help="Your own log or data set folder, to count in.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="A run folder: take the facts from what that run released.")
    ] = None,
    users: Annotated[int | None, typer.Option(help="Users over all clients.")] = None,
    items: Annotated[int | None, typer.Option(help="Items of the catalogue.")] = None,
    clients: Annotated[int | None, typer.Option(help="Clients that take part; 5 if nothing says.")] = None,
    median_length: Annotated[int | None, typer.Option(help="Events of the median user.")] = None,
    long_length: Annotated[int | None, typer.Option(help="Events that nine of ten users stay below.")] = None,
    epsilon: Annotated[float, typer.Option(help="Budget.")] = 8.0,
    delta: Annotated[float, typer.Option(help="At which epsilon is stated.")] = 1e-5,
    privacy: Annotated[str, typer.Option(help="on, or off for research.")] = "on",
    minutes: Annotated[float, typer.Option(help="That a client's fit may take.")] = 10.0,
    out: Annotated[Path | None, typer.Option(help="Write the proposed scenario there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Measure a step at full size; exit 1 above 25 % off.")
    ] = False,
) -> None:
    """Propose encoder, size, loss, recipe and head from public facts and this machine, with times and ε."""
    from privacy.errors import InputError
    from simulations.advise import PublicFacts, scenario_of
    from simulations.advise import advise as propose
    from simulations.advise_machine import measured_step, this_machine

    if privacy not in ("on", "off"):
        raise InputError(f"privacy = {privacy!r}: use on or off")
    if not minutes > 0.0:
        raise InputError(f"minutes = {minutes} must be a positive number")
    given = {
        "users": users,
        "items": items,
        "clients": clients,
        "median_length": median_length,
        "long_length": long_length,
    }
    found = _found(data, run) | {name: value for name, value in given.items() if value is not None}
    missing = [name for name in ("users", "items") if not found.get(name)]
    if missing:
        raise InputError(
            f"nothing says how many {' and '.join(missing)} there are: give DATA, --run, or --users and --items"
        )
    found: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
    facts = PublicFacts(epsilon=None if privacy == "off" else epsilon, delta=delta, **found)
    advice = propose(facts, this_machine(), minutes=minutes)
    if check:
        timed = advice["time"]
        choices = {c["setting"]: c["value"] for c in advice["choices"]}
        measured = measured_step(
            scenario_of(facts, _as_choices(choices)),
            facts.users_a_client,
            facts.items,
            timed["median_length"],
            timed["step_seconds"],
        )
        timed |= {
            "measured_step_seconds": measured,
            "off_by": timed["step_seconds"] / max(measured, 1e-9) - 1.0,
        }
        timed["ok"] = abs(timed["off_by"]) <= MOST_OFF
    _show(advice, out, as_json=as_json)
    if check and not advice["time"]["ok"]:
        raise typer.Exit(1)


def _as_choices(values: dict[str, Any]) -> list[Any]:
    from simulations.advise import Choice

    return [Choice(setting, value, "") for setting, value in values.items()]


def _found(data: Path | None, run: Path | None) -> dict[str, Any]:
    from privacy.errors import InputError

    if data is not None and run is not None:
        raise InputError("give either your own DATA or --run, not both")
    if data is not None:
        from recsys_models.data.adapters import load
        from simulations.advise import facts_of_log

        return facts_of_log(load(data))
    if run is not None:
        from simulations.advise import facts_of_run

        return facts_of_run(run)
    return {}


def _show(advice: dict[str, Any], out: Path | None, *, as_json: bool) -> None:
    from simulations.provision import to_toml

    toml = to_toml(advice["scenario"])
    if out is not None:
        out.write_text(toml, encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(advice, indent=2))
        return
    from rich.console import Console

    from server.console import print_table
    from server.report_tables import Table, number

    facts, machine, timed = advice["facts"], advice["machine"], advice["time"]
    console = Console(highlight=False)
    note = (
        f"{facts['users']:,} users, {facts['items']:,} items, {facts['clients']} clients ({facts['source']})"
    )
    rows = [(c["setting"], str(c["value"]), c["reason"]) for c in advice["choices"]]
    print_table(Table("Proposal", ("setting", "value", "because"), rows, note, frozenset({0, 1, 2})), console)
    cells = [
        (r["name"], number(r["epsilon_alone"], 3), number(r["epsilon_after"], 3), str(r["steps"]))
        for r in advice["releases"]
    ]
    if cells:
        print_table(Table("Cost", ("release", "ε alone", "ε after", "steps"), cells), console)
    ram = "memory unknown" if machine["ram_gb"] is None else f"{machine['ram_gb']:g} GB"
    console.print(f"\nmachine  {machine['cores']} cores, {ram}, {machine['gpu'] or 'no GPU'}")
    console.print(
        f"time     a step of a client's fit {timed['step_seconds'] * 1e3:,.0f} ms ({timed['clock']} time, "
        f"{timed['users_a_client']:,} users), {timed['steps']} steps {timed['fit_seconds']:,.1f} s",
        soft_wrap=True,
    )
    if "measured_step_seconds" in timed:
        verdict = "within" if timed["ok"] else "ABOVE"
        console.print(
            f"check    measured {timed['measured_step_seconds'] * 1e3:,.0f} ms: {timed['off_by']:+.0%}, {verdict} 25 %"
        )
    if out is None:
        console.print(f"\n# scenario.toml\n{toml}", markup=False)
    else:
        console.print(f"wrote    {out}")
