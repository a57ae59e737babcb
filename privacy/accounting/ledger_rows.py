"""What the rows of a ledger mean.

==================  =======================================================================================
kind                meaning
==================  =======================================================================================
``open``            the population and its budget; a later one changes the budget alone
``reserve``         a release is set aside, charged to the population
``reserve_for``     the same, charged to a deployment's slice, about one data window, or both
``commit``          something of a reservation left
``release_unused``  nothing of a reservation left: it costs nothing
``slice``           a deployment may spend up to an epsilon of its own until a date
``close_slice``     it may spend no more; what it spent stays spent
``close_window``    the logs of a data window are gone; no release may read them again
==================  =======================================================================================

Compatibility law: a kind never changes its meaning, new kinds are added, and a kind this version does not know is
refused, never skipped, because it might have spent something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from privacy.accounting.analytic_gaussian import check_delta, check_epsilon
from privacy.accounting.chain import Row
from privacy.accounting.events import ReleaseEvent
from privacy.errors import BudgetExceeded, InputError, LedgerError

Status = Literal["reserved", "committed", "released"]
SliceStatus = Literal["open", "expired", "closed"]

UNIT = "user"
RELATION = "add/remove"


@dataclass(frozen=True)
class LedgerEntry:
    """One release in the ledger.

    Attributes:
        reservation: its number, as given by ``reserve``.
        event: what was to be released.
        status: "reserved" (counts as spent), "committed" (spent), or "released" (nothing left; free again).
        at: when it was reserved, UTC, ISO 8601.
        deployment: whose slice bounds it, or None for the population's own.
        window: the data window it read, or None for whole logs.
    """

    reservation: int
    event: ReleaseEvent
    status: Status
    at: str
    deployment: str | None = None
    window: str | None = None


@dataclass(frozen=True)
class Slice:
    """A deployment's part of a population's budget.

    Attributes:
        deployment: its name, given once in the life of a ledger.
        epsilon: never to be exceeded by the deployment's own releases, at the ledger's delta.
        expires: the first moment, UTC, at which it allows nothing any more.
        is_closed: whether it was closed before.
    """

    deployment: str
    epsilon: float
    expires: datetime
    is_closed: bool = False

    def status(self, at: datetime) -> SliceStatus:
        """Whether the slice allows releases at this moment."""
        if self.is_closed:
            return "closed"
        return "open" if at < self.expires else "expired"


@dataclass(frozen=True)
class Terms:
    """Whose budget, how much, and at which delta."""

    population: str
    epsilon_budget: float
    target_delta: float

    @classmethod
    def checked(cls, population: str, epsilon_budget: float, target_delta: float) -> Terms:
        """Refuse terms that are none.

        Raises:
            InputError: no population, or the budget is not one.
        """
        if not population:
            raise InputError("a ledger needs the name of its population")
        check_epsilon(epsilon_budget)
        check_delta(target_delta)
        return cls(population, float(epsilon_budget), float(target_delta))

    def require_same_deployment(self, asked: Terms) -> None:
        """Refuse to continue another population's ledger, or to state epsilon at another delta."""
        for name in ("population", "target_delta"):
            if getattr(self, name) != getattr(asked, name):
                raise InputError(
                    f"this ledger has {name}={getattr(self, name)!r}, not {getattr(asked, name)!r}: "
                    "a ledger belongs to one population and one delta; give another path"
                )


@dataclass
class LedgerState:
    """Everything the rows say.

    Attributes:
        terms: as last opened; None before the first row.
        entries: releases by reservation number, in order.
        slices: by deployment, in the order in which they were given.
        closed_windows: when each was closed, by name.
        last_at: time of the newest row, "" if there is none.
    """

    terms: Terms | None = None
    entries: dict[int, LedgerEntry] = field(default_factory=dict[int, LedgerEntry])
    slices: dict[str, Slice] = field(default_factory=dict[str, Slice])
    closed_windows: dict[str, str] = field(default_factory=dict[str, str])
    last_at: str = ""

    @property
    def budget(self) -> float:
        """The population's budget."""
        if self.terms is None:
            raise LedgerError("nothing was opened yet")
        return self.terms.epsilon_budget

    def spent(self) -> list[ReleaseEvent]:
        """Everything committed or still reserved."""
        return [entry.event for entry in self.entries.values() if entry.status != "released"]

    def spent_by(self, deployment: str) -> list[ReleaseEvent]:
        """The part of it that one deployment's slice bounds."""
        return [e.event for e in self._counted() if e.deployment == deployment]

    def spent_outside(self, deployments: Sequence[str]) -> list[ReleaseEvent]:
        """The part of it that none of these deployments' slices bounds."""
        return [e.event for e in self._counted() if e.deployment not in deployments]

    def open_slices(self, at: datetime) -> list[Slice]:
        """The slices that allow releases at this moment."""
        return [s for s in self.slices.values() if s.status(at) == "open"]

    def slice_of(self, deployment: str) -> Slice:
        """A deployment's slice, open or not.

        Raises:
            InputError: it was never given one.
        """
        if deployment not in self.slices:
            known = ", ".join(self.slices) or "none"
            raise InputError(f"deployment {deployment!r} has no slice of this ledger (slices: {known})")
        return self.slices[deployment]

    def check_may_charge(self, deployment: str | None, window: str | None, at: datetime) -> None:
        """Refuse what no budget could allow: a slice that ended, a window whose logs are gone.

        Raises:
            BudgetExceeded: the slice expired or was closed, or the window was closed.
            InputError: the deployment has no slice, or the ledger keeps windows and none was named.
        """
        if deployment is not None:
            given = self.slice_of(deployment)
            status = given.status(at)
            if status != "open":
                raise BudgetExceeded(
                    f"the slice of deployment {deployment!r} is {status} (it was given until "
                    f"{given.expires.isoformat()}): ask the population's owner for a new slice"
                )
        if window is not None and window in self.closed_windows:
            raise BudgetExceeded(
                f"data window {window!r} was closed at {self.closed_windows[window]}: its logs expired and "
                "can be charged no more; name a window that is open"
            )
        if window is None and self.closed_windows:
            raise InputError(
                f"this ledger has closed data windows ({', '.join(self.closed_windows)}): a release must say "
                "which window it reads, because whole logs could hold closed ones"
            )

    def _counted(self) -> list[LedgerEntry]:
        return [entry for entry in self.entries.values() if entry.status != "released"]


def replay(rows: Sequence[Row]) -> LedgerState:
    """Reads the rows as what happened.

    Raises:
        LedgerError: a row does not follow from those before it, or this version does not know its kind.
    """
    state = LedgerState()
    for row in rows:
        try:
            _apply(row, state)
        except (LedgerError, InputError, KeyError, TypeError, ValueError) as error:
            raise LedgerError(f"row {row.number} of the ledger ({row.kind}): {error}") from error
    if state.terms is None:
        raise LedgerError("row 0 of the ledger is missing: it was never opened")
    return state


def _apply(row: Row, state: LedgerState) -> None:
    if row.kind not in _MEANINGS:
        raise LedgerError("this version does not know this kind of row")
    if state.terms is None and row.kind != "open":
        raise LedgerError("nothing was opened yet")
    _MEANINGS[row.kind](row, state)
    # All times are spelled alike (UTC, whole seconds), so the later text is the later time.
    state.last_at = max(state.last_at, str(row.body["at"]))


def _open(row: Row, state: LedgerState) -> None:
    body = row.body
    if body["unit"] != UNIT or body["relation"] != RELATION:
        raise LedgerError(
            f"unit {body['unit']!r} and relation {body['relation']!r} are not those of this version"
        )
    state.terms = Terms.checked(body["population"], body["epsilon_budget"], body["target_delta"])


def _reserve(row: Row, state: LedgerState) -> None:
    event = ReleaseEvent.from_json(row.body["event"])
    state.entries[row.number] = LedgerEntry(row.number, event, "reserved", row.body["at"])


def _reserve_for(row: Row, state: LedgerState) -> None:
    _reserve(row, state)
    deployment, window = row.body["deployment"], row.body["window"]
    if deployment is not None:
        state.slice_of(deployment)
    if window is not None and window in state.closed_windows:
        raise LedgerError(f"window {window!r} was closed already")
    state.entries[row.number] = replace(state.entries[row.number], deployment=deployment, window=window)


def _settle(row: Row, state: LedgerState) -> None:
    outcomes: dict[str, Status] = {"commit": "committed", "release_unused": "released"}
    number = row.body["reservation"]
    if number not in state.entries:
        raise LedgerError(f"there is no reservation {number}")
    if state.entries[number].status != "reserved":
        raise LedgerError(f"reservation {number} is already {state.entries[number].status}")
    state.entries[number] = replace(state.entries[number], status=outcomes[row.kind])


def _give_slice(row: Row, state: LedgerState) -> None:
    body = row.body
    if body["deployment"] in state.slices:
        raise LedgerError(f"deployment {body['deployment']!r} was given a slice before")
    check_epsilon(body["epsilon"])
    expires = moment_of(body["expires"])
    state.slices[body["deployment"]] = Slice(body["deployment"], body["epsilon"], expires)


def _close_slice(row: Row, state: LedgerState) -> None:
    given = state.slice_of(row.body["deployment"])
    if given.is_closed:
        raise LedgerError(f"the slice of {given.deployment!r} was closed before")
    state.slices[given.deployment] = replace(given, is_closed=True)


def _close_window(row: Row, state: LedgerState) -> None:
    window = row.body["window"]
    if window in state.closed_windows:
        raise LedgerError(f"window {window!r} was closed before")
    state.closed_windows[window] = row.body["at"]


_MEANINGS: Mapping[str, Callable[[Row, LedgerState], None]] = {
    "open": _open,
    "reserve": _reserve,
    "reserve_for": _reserve_for,
    "commit": _settle,
    "release_unused": _settle,
    "slice": _give_slice,
    "close_slice": _close_slice,
    "close_window": _close_window,
}


def moment_of(text: str) -> datetime:
    """Reads a time as rows spell it: ISO 8601, UTC.

    Raises:
        InputError: it is not one.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text!r} is not a time like 2026-12-31T00:00:00+00:00") from None
    if moment.tzinfo is None:
        raise InputError(f"{text!r} has no time zone")
    return moment.astimezone(UTC)


def text_of(moment: datetime) -> str:
    """Spells a time as rows do: ISO 8601, UTC, whole seconds."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def body_of_opening(terms: Terms, nonce: str, at: str) -> dict[str, Any]:
    """The body of an ``open`` row; the nonce keeps two ledgers from sharing a hash."""
    return {
        "population": terms.population,
        "unit": UNIT,
        "relation": RELATION,
        "epsilon_budget": terms.epsilon_budget,
        "target_delta": terms.target_delta,
        "nonce": nonce,
        "at": at,
    }
