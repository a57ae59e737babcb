"""The Flower ServerApp: run configuration -> transport -> federation. Nothing is decided here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

from flwr.app import Context, UserConfig
from flwr.serverapp import Grid, ServerApp

from privacy.errors import InputError
from server.flower_transport import FlowerTransport, poll_contents_often
from server.launch import FAILURE

app = ServerApp()

DEFAULT_FEDERATION = "server.run:run_federation"


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Wait for the clients, then run the federation that the run configuration names.

    Run configuration: ``scenario`` (path of a TOML file), ``out`` (directory), ``clients`` (how many to wait
    for), ``wait-for-clients-s`` (seconds), ``resume`` (folder of an earlier run), ``federation`` (``module:function``, for
    tests).
    """
    out = Path(_text(context.run_config, "out"))
    try:
        _run(grid, context.run_config, out)
    except Exception as error:
        # Flower reports no more than "failed"; the process that follows this run reads the reason here.
        (out / FAILURE).write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        raise


def _run(grid: Grid, config: UserConfig, out: Path) -> None:
    run_federation = load_function(str(config.get("federation") or DEFAULT_FEDERATION))
    scenario = Path(_text(config, "scenario"))
    poll_contents_often()
    transport = FlowerTransport(grid)
    transport.wait_for(int(config["clients"]), deadline_s=float(config.get("wait-for-clients-s", 300.0)))
    resume = config.get("resume")
    more = {"resume": Path(str(resume))} if resume else {}
    run_federation(scenario_path=scenario, out=out, transport=transport, **more)


def load_function(reference: str) -> Callable[..., object]:
    """Import ``module:function``.

    Raises:
        InputError: the reference is malformed or names nothing.
    """
    module, colon, name = reference.partition(":")
    if not (module and colon and name):
        raise InputError(f"{reference!r} is not module:function")
    function = getattr(importlib.import_module(module), name, None)
    if not callable(function):
        raise InputError(f"{reference!r} names no function; is it spelt as in the module?")
    return function


def _text(config: Mapping[str, object], key: str) -> str:
    value = config.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"run configuration has {key}={value!r}; it needs a path")
    return value
