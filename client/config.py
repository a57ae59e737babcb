"""This machine's side of a deployment: paths, policy, device. Read from ``client.toml``; nothing of it is sent."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.behaviour_log import BehaviourLog
from client.handlers import ClientHandlers
from client.policy import ClientPolicy
from privacy.accounting.ledger import Ledger
from privacy.errors import InputError
from privacy.randomness import RandomSource, SeededRandomness, SystemRandomness
from privacy.secagg.client_session import SecaggClient
from privacy.secagg.keys import Identity, Roster
from privacy.secagg.memory import ClientMemory
from privacy.secagg.policy import SecaggPolicy
from privacy.secagg.roster_file import load_roster
from recsys_models.data.adapters import load
from recsys_models.data.catalogue import Catalogue
from recsys_models.devices import resolve_device


class ClientConfig(BaseModel):
    """One client's configuration; relative paths are relative to the file.

    Attributes:
        client_id: name in the roster.
        log: behaviour log (CSV, Parquet, JSON lines, ...).
        catalogue: item catalogue, the same file at every client.
        identity: this client's private key (PEM, mode 600).
        roster: JSON file, client id to Ed25519 public key in hex.
        state_dir: private model, ledger, record of answers.
        policy: see ``client.policy``.
        device: where the encoder computes: "auto", "cpu" or "cuda[:n]".
        window: the data window the log is from; needed once this client's ledger has closed one.
        simulation_seed: only for tests and simulations: makes noise, sampling and masks repeatable, hence worthless
            as protection. Its use is written into the ledger's events.
        handlers: read by ``client.runtime``; see there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    client_id: Annotated[str, Field(min_length=1, max_length=64)]
    log: Path
    catalogue: Path
    identity: Path
    roster: Path
    state_dir: Path = Path("state")
    policy: ClientPolicy = ClientPolicy()
    device: str = "auto"
    window: Annotated[str, Field(min_length=1)] | None = None
    simulation_seed: Annotated[int, Field(ge=0)] | None = None
    handlers: str = "client.config:open_client"


def load_config(path: Path) -> ClientConfig:
    """Read ``client.toml``.

    Raises:
        InputError: unreadable, or a field is missing, unknown or out of range; one line that names it.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read client configuration {path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"client configuration {path} is not valid TOML: {error}") from None
    try:
        config = ClientConfig.model_validate(document)
    except ValidationError as error:
        complaints = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InputError(f"{path}: {complaints}") from None
    folder = path.parent
    paths = {
        name: folder / getattr(config, name)
        for name in ("log", "catalogue", "identity", "roster", "state_dir")
    }
    return config.model_copy(update=paths)


def open_client(path: Path) -> ClientHandlers:
    """Build the client that ``client.toml`` describes.

    Raises:
        InputError, DataError: a file is missing or wrong; one line that names it.
    """
    # One thread each: clients of one machine share its cores, and a sum in another order would differ in its last bit.
    torch.set_num_threads(1)
    config = load_config(path)
    catalogue = Catalogue.load(config.catalogue)
    dataset = load(config.log, catalogue=catalogue, minimum_users=1)
    randomness: RandomSource = SystemRandomness()
    if config.simulation_seed is not None:
        randomness = SeededRandomness(config.simulation_seed).derive(config.client_id)
    return build_client(
        config.client_id,
        BehaviourLog(dataset.sequences),
        identity=Identity.load(config.identity),
        roster=load_roster(config.roster),
        policy=config.policy,
        randomness=randomness,
        state_dir=config.state_dir,
        window=config.window,
        device=config.device,
    )


def build_client(
    client_id: str,
    log: BehaviourLog,
    *,
    identity: Identity,
    roster: Roster,
    policy: ClientPolicy,
    randomness: RandomSource,
    state_dir: Path,
    window: str | None = None,
    device: str = "auto",
) -> ClientHandlers:
    """Put a client together; the ledger and the record of answers are opened in ``state_dir``."""
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    ledger = Ledger.open(
        state_dir / "ledger.sqlite",
        population=client_id,
        epsilon_budget=policy.max_epsilon,
        target_delta=policy.delta,
    ).charging(window=window)
    secagg_policy = SecaggPolicy(
        min_cohort=policy.min_cohort,
        # Without noise every difference of two sums is exact; whoever allows that has chosen so for research.
        refuse_sum_difference=not policy.allow_privacy_off,
    )
    answered = state_dir / "answered.json"
    memory = ClientMemory.from_json(answered.read_bytes()) if answered.exists() else None
    secagg = SecaggClient(client_id, identity, roster, secagg_policy, randomness.derive("masks"), memory)
    catalogue = log.sequences.catalogue
    return ClientHandlers(
        client_id=client_id,
        log=log,
        catalogue_sha256=catalogue.sha256,
        n_items=catalogue.n_items,
        identity=identity,
        secagg=secagg,
        ledger=ledger,
        policy=policy,
        randomness=randomness.derive("noise"),
        state_dir=state_dir,
        device=resolve_device(device),
    )
