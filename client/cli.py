"""``fedtower client``: answer one server from this machine's behaviour log."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def client(
    superlink: Annotated[str, typer.Option(help="The server's link, host:port.")],
    config: Annotated[Path, typer.Option(help="This client's TOML file.")],
    max_wait_s: Annotated[float, typer.Option(help="Seconds to keep trying without a server.")] = 600.0,
    root_certificates: Annotated[
        Path | None, typer.Option(help="PEM file to verify the server; required beyond this machine.")
    ] = None,
    private_key: Annotated[
        Path | None, typer.Option(help="This node's EC key, where the server knows its nodes by key.")
    ] = None,
) -> None:
    """Stay connected to one server and answer its messages until stopped."""
    from client.flower_node import run_node
    from client.supernode import NodeSettings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    run_node(
        NodeSettings(
            superlink=superlink,
            config=config,
            max_wait_s=max_wait_s,
            root_certificates=root_certificates,
            private_key=private_key,
        )
    )
