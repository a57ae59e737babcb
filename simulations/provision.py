"""A deployment laid out in folders, so that real server and client processes run the same scenario.

::

    OUT/scenario.toml  catalogue.json  roster.json        for the server
    OUT/clients/client-01/client.toml                     for one client: its log, its key, its policy
                          log.csv  catalogue.json  roster.json  identity.pem

In a real deployment each client makes its own key and log; only catalogue and roster are handed out.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from privacy.errors import InputError
from privacy.randomness import RandomSource, SeededRandomness, SystemRandomness
from privacy.secagg.keys import Identity
from privacy.secagg.roster_file import save_roster
from recsys_models.data.dataset import Dataset
from recsys_models.data.writers import write_csv
from server.scenario import Scenario
from simulations.run import client_names, divide_users, load_dataset, simulated_policy


def provision(scenario: Scenario, out: Path, *, data: Path | None = None) -> list[str]:
    """Write the folders; with a seed in the scenario the clients' randomness is simulated and says so.

    Args:
        scenario: what will be run.
        out: folder, new or empty.
        data: a data set instead of the scenario's.

    Returns:
        The commands that start the deployment, one a line.

    Raises:
        InputError: ``out`` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty: give provision a folder of its own")
    dataset = load_dataset(scenario, data)
    parts = divide_users(scenario, dataset)
    names = client_names(len(parts))
    folders = {name: out / "clients" / name for name in names}
    keys: dict[str, bytes] = {}
    for name, users in zip(names, parts, strict=True):
        folders[name].mkdir(parents=True)
        keys[name] = _write_client(scenario, dataset, name, users, folders[name])
    save_roster(keys, out / "roster.json")
    dataset.catalogue.save(out / "catalogue.json")
    for folder in folders.values():
        shutil.copy(out / "roster.json", folder / "roster.json")
        shutil.copy(out / "catalogue.json", folder / "catalogue.json")
    (out / "scenario.toml").write_text(
        to_toml(scenario.model_dump(mode="json", exclude_none=True)), encoding="utf-8"
    )
    port = 8000
    return [
        f"fedtower server --scenario {out / 'scenario.toml'} --clients {len(names)} --port {port} --out {out / 'run'}",
        *(
            f"fedtower client --superlink 127.0.0.1:{port} --config {f / 'client.toml'}"
            for f in folders.values()
        ),
    ]


def _write_client(scenario: Scenario, dataset: Dataset, name: str, users: np.ndarray, folder: Path) -> bytes:
    part = Dataset(dataset.name, dataset.sequences.subset(users), dataset.catalogue)
    _, table = write_csv(part, folder)
    table.unlink()  # the binding catalogue is catalogue.json, the same file at every client
    randomness: RandomSource = SystemRandomness()
    if scenario.seed is not None:
        randomness = SeededRandomness(scenario.seed).derive(name).derive("identity")
    identity = Identity.generate(randomness)
    identity.save(folder / "identity.pem")
    settings: dict[str, Any] = {
        "client_id": name,
        "log": "log.csv",
        "catalogue": "catalogue.json",
        "identity": "identity.pem",
        "roster": "roster.json",
        "device": scenario.device,
        "policy": simulated_policy(scenario).model_dump(mode="json"),
    }
    if scenario.seed is not None:
        settings["simulation_seed"] = scenario.seed
    (folder / "client.toml").write_text(to_toml(settings), encoding="utf-8")
    return identity.public_bytes()


def to_toml(document: dict[str, Any]) -> str:
    """TOML of nested tables of plain values, all this project writes (the standard library only reads TOML)."""
    lines: list[str] = []
    _table(document, (), lines)
    return "\n".join(lines).strip() + "\n"


def _table(table: dict[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    values = {k: v for k, v in table.items() if not isinstance(v, dict)}
    tables = {k: v for k, v in table.items() if isinstance(v, dict)}
    if path and (values or not tables):
        lines += ["", f"[{'.'.join(path)}]"]
    lines += [f"{_key(name)} = {_value(value)}" for name, value in values.items()]
    for name, inner in tables.items():
        _table(inner, (*path, _key(name)), lines)


def _key(name: str) -> str:
    import json

    return name if name.replace("-", "").replace("_", "").isalnum() else json.dumps(name)


def _value(value: Any) -> str:
    import json

    if isinstance(value, bool):
        return "true" if value else "false"
    # JSON's numbers and strings are TOML's, but for exponents without a point, which Python does not write.
    return json.dumps(value)
