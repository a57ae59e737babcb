"""The privacy budget of one population: what was spent, and the refusal to spend more.

A release is *reserved* before any private data is read, and *committed* when something left. Only a
reservation of which nothing left may be given back; a crash between the two counts as spent. The ledger
stores events, never epsilons: what they cost is recomputed, by two accountants, each time it matters.

The server keeps a ledger and so does every client, and each refuses by itself. Decisions depend on the ledger
alone, which holds public facts only, so a refusal tells nothing about anybody's data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from privacy.accounting.accountant import cross_check, epsilon
from privacy.accounting.analytic_gaussian import check_delta, check_epsilon
from privacy.accounting.chain import ChainedLog, Row
from privacy.accounting.events import ReleaseEvent
from privacy.errors import BudgetExceeded, InputError, LedgerError
from privacy.randomness import SystemRandomness

Status = Literal["reserved", "committed", "released"]

_UNIT = "user"
_RELATION = "add/remove"


@dataclass(frozen=True)
class LedgerEntry:
    """One release in the ledger.

    Attributes:
        reservation: its number, as given by ``reserve``.
        event: what was to be released.
        status: "reserved" (counts as spent), "committed" (spent), or "released" (nothing left; free again).
        at: when it was reserved, UTC, ISO 8601.
    """

    reservation: int
    event: ReleaseEvent
    status: Status
    at: str


@dataclass(frozen=True)
class _Terms:
    population: str
    epsilon_budget: float
    target_delta: float


class Ledger:
    """All releases about one population, within one budget.

    Guarantees:
        After any sequence of calls from any number of threads and processes on one file, crashes included,
        the epsilon of everything reserved or committed is at most the budget. A file that was changed,
        shortened or replaced by an older copy is refused by every call.

    The budget covers every event in the ledger, whether or not it left the client. A deployment that wants
    separate budgets for outsiders and for fellow users of one client keeps two ledgers.
    """

    def __init__(self, log: ChainedLog, terms: _Terms) -> None:
        self._log = log
        self._terms = terms
        with log.transaction() as transaction:
            held = _replay(transaction.rows)[0] if transaction.rows else None
            if held is not None:
                _check_same_deployment(held, terms)
            if held is None or held.epsilon_budget != terms.epsilon_budget:
                transaction.append("open", _opening(terms))

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        population: str,
        epsilon_budget: float,
        target_delta: float,
        create: bool = True,
    ) -> Ledger:
        """Opens the ledger of a population, or starts one.

        Another ``epsilon_budget`` than the file's is allowed (its owner decides), recorded as a row, and
        binding from then on; whoever still holds the file open keeps to the lower of the two.

        Args:
            path: of the file; created readable by its owner alone, with ``<path>.counter`` beside it.
            population: whose users these are; one ledger for each.
            epsilon_budget: never to be exceeded, positive.
            target_delta: at which epsilon is stated, in (0, 1); fixed for the life of the ledger.
            create: False to refuse a path without a ledger.

        Raises:
            InputError: the budget is not one, or the ledger is of another population or delta.
            LedgerError: the file cannot be trusted; the message names the row.
        """
        terms = _checked_terms(population, epsilon_budget, target_delta)
        return cls(ChainedLog(Path(path), create=create), terms)

    @classmethod
    def in_memory(cls, *, population: str, epsilon_budget: float, target_delta: float) -> Ledger:
        """Starts a ledger that ends with the process, for simulations and tests.

        Raises:
            InputError: the budget is not one.
        """
        return cls(ChainedLog(None), _checked_terms(population, epsilon_budget, target_delta))

    @property
    def population(self) -> str:
        """Whose users these are."""
        return self._terms.population

    @property
    def epsilon_budget(self) -> float:
        """The budget this ledger was opened with."""
        return self._terms.epsilon_budget

    @property
    def target_delta(self) -> float:
        """The delta at which every epsilon of this ledger is stated."""
        return self._terms.target_delta

    def reserve(self, event: ReleaseEvent) -> int:
        """Sets the cost of a release aside. Call it before any private data is read.

        Returns:
            The reservation's number, for ``commit`` or ``release_unused``.

        Raises:
            BudgetExceeded: it would cost more than is left. Nothing was changed.
            LedgerError: the ledger cannot be trusted, or two accountants disagree on the cost.
        """
        with self._log.transaction() as transaction:
            held, entries = _replay(transaction.rows)
            spent = _spent(entries)
            budget = min(held.epsilon_budget, self.epsilon_budget)
            after = cross_check([*spent, event], self.target_delta)
            if not after <= budget:
                before = epsilon(spent, self.target_delta)
                raise BudgetExceeded(
                    f"release {event.name!r} would raise epsilon from {before:.4g} to {after:.4g}, above the "
                    f"budget {budget:.4g} (delta {self.target_delta:g}): lower the schedule or "
                    "raise epsilon_budget"
                )
            return transaction.append("reserve", {"event": event.to_json(), "at": _now()}).number

    def commit(self, reservation: int) -> None:
        """Records that something of a reserved release left.

        Raises:
            LedgerError: there is no such open reservation, or the ledger cannot be trusted.
        """
        self._settle(reservation, "commit")

    def release_unused(self, reservation: int) -> None:
        """Gives a reservation back. Only for releases of which *nothing* left: when in doubt, commit.

        Raises:
            LedgerError: there is no such open reservation, or the ledger cannot be trusted.
        """
        self._settle(reservation, "release_unused")

    def epsilon_spent(self, *, left_the_client_only: bool = False) -> float:
        """Returns the epsilon of everything committed or still reserved.

        Args:
            left_the_client_only: leave out what stayed with the client: the view of outsiders.

        Raises:
            LedgerError: the ledger cannot be trusted.
        """
        events = [e for e in _spent(self._entries()) if e.left_the_client or not left_the_client_only]
        return epsilon(events, self.target_delta)

    def epsilon_with(self, events: Sequence[ReleaseEvent]) -> float:
        """Returns what ``epsilon_spent`` would be after these events too; changes nothing, promises nothing.

        Raises:
            LedgerError: the ledger cannot be trusted.
        """
        return epsilon([*_spent(self._entries()), *events], self.target_delta)

    def entries(self) -> list[LedgerEntry]:
        """Returns all releases in the order of their reservation.

        Raises:
            LedgerError: the ledger cannot be trusted.
        """
        return list(self._entries().values())

    def verify(self) -> None:
        """Checks every row, the counter, and the cost by two accountants.

        Raises:
            LedgerError: naming what cannot be trusted.
        """
        cross_check(_spent(self._entries()), self.target_delta)

    def head_hash(self) -> str:
        """Returns the hash of the last row, which stands for the whole history (64 hexadecimal digits)."""
        with self._log.transaction() as transaction:
            return transaction.rows[-1].hash

    def _entries(self) -> dict[int, LedgerEntry]:
        with self._log.transaction() as transaction:
            return _replay(transaction.rows)[1]

    def _settle(self, reservation: int, kind: str) -> None:
        with self._log.transaction() as transaction:
            transaction.append(kind, {"reservation": reservation, "at": _now()})
            _replay(transaction.rows)  # refuses what does not follow; then nothing is written


def _replay(rows: Sequence[Row]) -> tuple[_Terms, dict[int, LedgerEntry]]:
    """Reads the rows as what happened; a row this version does not understand is refused, never skipped."""
    terms: _Terms | None = None
    entries: dict[int, LedgerEntry] = {}
    for row in rows:
        try:
            if row.kind == "open":
                terms = _terms_of(row.body)
            elif terms is None:
                raise LedgerError("nothing was opened yet")
            elif row.kind == "reserve":
                event = ReleaseEvent.from_json(row.body["event"])
                entries[row.number] = LedgerEntry(row.number, event, "reserved", row.body["at"])
            else:
                _apply_settlement(row, entries)
        except (LedgerError, InputError, KeyError, TypeError) as error:
            raise LedgerError(f"row {row.number} of the ledger ({row.kind}): {error}") from error
    if terms is None:
        raise LedgerError("row 0 of the ledger is missing: it was never opened")
    return terms, entries


def _apply_settlement(row: Row, entries: dict[int, LedgerEntry]) -> None:
    outcomes: dict[str, Status] = {"commit": "committed", "release_unused": "released"}
    if row.kind not in outcomes:
        raise LedgerError("this version does not know this kind of row")
    number = row.body["reservation"]
    if number not in entries:
        raise LedgerError(f"there is no reservation {number}")
    if entries[number].status != "reserved":
        raise LedgerError(f"reservation {number} is already {entries[number].status}")
    entries[number] = replace(entries[number], status=outcomes[row.kind])


def _spent(entries: Mapping[int, LedgerEntry]) -> list[ReleaseEvent]:
    return [entry.event for entry in entries.values() if entry.status != "released"]


def _opening(terms: _Terms) -> dict[str, Any]:
    return {
        "population": terms.population,
        "unit": _UNIT,
        "relation": _RELATION,
        "epsilon_budget": terms.epsilon_budget,
        "target_delta": terms.target_delta,
        "nonce": SystemRandomness().random_bytes(16).hex(),  # no two ledgers share a hash
        "at": _now(),
    }


def _terms_of(body: Mapping[str, Any]) -> _Terms:
    if body["unit"] != _UNIT or body["relation"] != _RELATION:
        raise LedgerError(
            f"unit {body['unit']!r} and relation {body['relation']!r} are not those of this version"
        )
    return _checked_terms(body["population"], body["epsilon_budget"], body["target_delta"])


def _checked_terms(population: str, epsilon_budget: float, target_delta: float) -> _Terms:
    if not population:
        raise InputError("a ledger needs the name of its population")
    check_epsilon(epsilon_budget)
    check_delta(target_delta)
    return _Terms(population, float(epsilon_budget), float(target_delta))


def _check_same_deployment(held: _Terms, asked: _Terms) -> None:
    for name in ("population", "target_delta"):
        if getattr(held, name) != getattr(asked, name):
            raise InputError(
                f"this ledger has {name}={getattr(held, name)!r}, not {getattr(asked, name)!r}: "
                "a ledger belongs to one population and one delta; give another path"
            )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
