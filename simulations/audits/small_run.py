"""A federation over a few clients in this process, for audits that need a whole run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from client.runtime import Handlers
from privacy.accounting.ledger import Ledger
from privacy.errors import BudgetExceeded, InputError, PolicyRefusal, ProtocolError, SensitivityViolation
from recsys_models.data.catalogue import Catalogue
from recsys_models.errors import DataError
from server.federation import Federation, Unwatched
from server.run import content_of, session_name
from server.scenario import Scenario
from simulations.loopback import Loopback

_REFUSALS = (BudgetExceeded, InputError, PolicyRefusal, ProtocolError, SensitivityViolation, DataError)


def run_small(scenario: Scenario, clients: Mapping[str, Handlers], folder: Path, catalogue: Catalogue) -> str:
    """Run all releases of a scenario.

    Args:
        scenario: what is run; with a seed.
        clients: by name.
        folder: for the server's ledger.
        catalogue: the clients'.

    Returns:
        Why the run stopped early, or nothing.
    """
    ledger = Ledger.open(
        folder / "ledger.sqlite",
        population="audit",
        epsilon_budget=scenario.privacy.epsilon,
        target_delta=scenario.privacy.delta,
    )
    federation = Federation(
        scenario,
        Loopback(clients),
        ledger,
        None,
        session=session_name(scenario),
        n_items=catalogue.n_items,
        catalogue_sha256=catalogue.sha256,
        watcher=Unwatched(),
        content=None if scenario.model.item_tower == "ids" else content_of(scenario, catalogue),
    )
    try:
        federation.run()
    except _REFUSALS as error:
        return str(error)
    return ""
