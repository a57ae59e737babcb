"""``fedtower server``: run one federation with real client processes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def server(
    scenario: Annotated[Path, typer.Option(help="TOML file that describes the federation.")],
    clients: Annotated[int, typer.Option(help="How many clients to wait for.")],
    out: Annotated[Path, typer.Option(help="Directory for results and logs.")],
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 picks a free one.")] = 8000,
    resume: Annotated[
        Path | None, typer.Option(help="Run folder to go on from: its published arrays and its ledger.")
    ] = None,
    wait_for_clients_s: Annotated[float, typer.Option(help="Seconds to wait for the clients.")] = 300.0,
    deadline_s: Annotated[float, typer.Option(help="Seconds the whole run may take.")] = 6 * 3600.0,
    federation: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Start the server, wait for the clients, run the federation, stop the server."""
    from server.launch import LaunchSettings, launch

    settings = LaunchSettings(
        scenario=scenario,
        out=out,
        clients=clients,
        port=port,
        resume=resume,
        wait_for_clients_s=wait_for_clients_s,
        deadline_s=deadline_s,
        federation=federation,
    )
    launch(settings, say=typer.echo)
