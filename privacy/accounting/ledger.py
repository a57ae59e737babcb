"""The privacy budget of one population: what was spent, and the refusal to spend more.

A release is *reserved* before any private data is read, and *committed* when something left. Only a
reservation of which nothing left may be given back; a crash between the two counts as spent. The ledger
stores events, never epsilons: what they cost is recomputed, by two accountants, each time it matters.

The server keeps a ledger and so does every client, and each refuses by itself. Decisions depend on the ledger
alone, which holds public facts only, so a refusal tells nothing about anybody's data.

A population may give *slices* of its budget to deployments. Separate budgets for several askers, each blind to
the others, are unsound ("Big Bird", SOSP 2025, arXiv:2506.05290): every release of a slice is therefore debited from the
population as well, and the population's budget binds whatever the slices say.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import Any

from privacy.accounting.accountant import cross_check, epsilon
from privacy.accounting.analytic_gaussian import check_epsilon, gaussian_mu
from privacy.accounting.chain import ChainedLog
from privacy.accounting.events import ReleaseEvent, seen_outside
from privacy.accounting.ledger_rows import (
    LedgerEntry,
    LedgerState,
    Slice,
    SliceStatus,
    Status,
    Terms,
    body_of_opening,
    moment_of,
    replay,
    text_of,
)
from privacy.errors import BudgetExceeded, InputError, LedgerError
from privacy.randomness import SystemRandomness

__all__ = ["Ledger", "LedgerEntry", "Slice", "SliceStatement", "Status"]

Clock = Callable[[], datetime]

# Time servers correct a clock by seconds; a larger step back could revive what has expired.
CLOCK_SLACK = timedelta(seconds=60)
_PROMISE_ROUNDING = (
    1.0 + 1e-6
)  # a promise is no release: the accountant's grid may not refuse the whole budget


def utc_now() -> datetime:
    """The operating system's time."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class SliceStatement:
    """A slice and what became of it.

    Attributes:
        slice: as it was given.
        status: "open", "expired" or "closed".
        epsilon_spent: by the deployment's own releases, taken alone.
    """

    slice: Slice
    status: SliceStatus
    epsilon_spent: float


class Ledger:
    """All releases about one population, within one budget.

    Guarantees:
        After any sequence of calls from any number of threads and processes on one file, crashes included,
        the epsilon of everything reserved or committed is at most the budget, and that of each deployment at
        most its slice. A file that was changed, shortened or replaced by an older copy is refused by every
        call; nothing is written by a clock that went back.

    The budget covers every event in the ledger, whether or not it left the client. A deployment that wants
    separate budgets for outsiders and for fellow users of one client keeps two ledgers.
    """

    def __init__(self, log: ChainedLog, terms: Terms, *, clock: Clock = utc_now) -> None:
        self._log = log
        self._terms = terms
        self._clock = clock
        self._deployment: str | None = None
        self._window: str | None = None
        with log.transaction() as transaction:
            state = replay(transaction.rows) if transaction.rows else LedgerState()
            if state.terms is not None:
                state.terms.require_same_deployment(terms)
            if state.terms is None or state.budget != terms.epsilon_budget:
                nonce = SystemRandomness().random_bytes(16).hex()
                transaction.append("open", body_of_opening(terms, nonce, text_of(self._moment(state))))

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        population: str,
        epsilon_budget: float,
        target_delta: float,
        create: bool = True,
        clock: Clock = utc_now,
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
            clock: tells the time, for tests of expiry.

        Raises:
            InputError: the budget is not one, or the ledger is of another population or delta.
            LedgerError: the file cannot be trusted; the message names the row.
        """
        terms = Terms.checked(population, epsilon_budget, target_delta)
        return cls(ChainedLog(Path(path), create=create), terms, clock=clock)

    @classmethod
    def in_memory(
        cls, *, population: str, epsilon_budget: float, target_delta: float, clock: Clock = utc_now
    ) -> Ledger:
        """Starts a ledger that ends with the process, for simulations and tests.

        Raises:
            InputError: the budget is not one.
        """
        return cls(ChainedLog(None), Terms.checked(population, epsilon_budget, target_delta), clock=clock)

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

    # -- releases ---------------------------------------------------------------------------------------------

    def charging(self, *, deployment: str | None = None, window: str | None = None) -> Ledger:
        """Returns this ledger as one deployment uses it: what it reserves is charged to that slice and window.

        Everything else is the population's: spending, entries and budget are the same as here.

        Raises:
            InputError: the deployment has no slice, or a name is empty.
        """
        if deployment == "" or window == "":
            raise InputError(f"deployment={deployment!r}, window={window!r}: a name cannot be empty")
        if deployment is not None:
            self._state().slice_of(deployment)
        view = copy.copy(self)
        view._deployment, view._window = deployment, window
        return view

    def reserve(self, event: ReleaseEvent) -> int:
        """Sets the cost of a release aside. Call it before any private data is read.

        Returns:
            The reservation's number, for ``commit`` or ``release_unused``.

        Raises:
            BudgetExceeded: it would cost more than is left to the population or to the slice, or the slice
                or the data window is no longer open. Nothing was changed.
            InputError: the ledger keeps data windows and none was named (``charging``).
            LedgerError: the ledger cannot be trusted, its clock went back, or two accountants disagree.
        """
        with self._log.transaction() as transaction:
            state = replay(transaction.rows)
            now = self._moment(state)
            state.check_may_charge(self._deployment, self._window, now)
            self._check_fits(state, event, now)
            body: dict[str, Any] = {"event": event.to_json(), "at": text_of(now)}
            if self._deployment is None and self._window is None:
                return transaction.append("reserve", body).number
            body |= {"deployment": self._deployment, "window": self._window}
            return transaction.append("reserve_for", body).number

    def commit(self, reservation: int) -> None:
        """Records that something of a reserved release left.

        Raises:
            LedgerError: there is no such open reservation, or the ledger cannot be trusted.
        """
        self._write("commit", {"reservation": reservation})

    def release_unused(self, reservation: int) -> None:
        """Gives a reservation back. Only for releases of which *nothing* left: when in doubt, commit.

        Raises:
            LedgerError: there is no such open reservation, or the ledger cannot be trusted.
        """
        self._write("release_unused", {"reservation": reservation})

    # -- slices and windows -----------------------------------------------------------------------------------

    def give_slice(self, deployment: str, epsilon: float, expires: datetime) -> None:
        """Gives a deployment a part of the population's budget, until a date.

        The part is set aside: other slices and the population's own releases leave it alone until it is
        spent, closed or expired. What was spent stays spent; the rest falls back to the population.

        Args:
            deployment: its name; each has one slice in the life of a ledger.
            epsilon: of the deployment's own releases together, at the ledger's delta.
            expires: the first moment at which it allows nothing any more; needs a time zone.

        Raises:
            BudgetExceeded: so much is not left.
            InputError: a value is not usable, or the deployment had a slice before.
            LedgerError: the ledger cannot be trusted, or its clock went back.
        """
        check_epsilon(epsilon)
        if not deployment:
            raise InputError("a slice needs the name of its deployment")
        if expires.tzinfo is None:
            raise InputError(f"expires={expires.isoformat()} has no time zone")
        with self._log.transaction() as transaction:
            state = replay(transaction.rows)
            now = self._moment(state)
            if deployment in state.slices:
                raise InputError(
                    f"deployment {deployment!r} has a slice already, and each has one: choose a new name, such as "
                    f"{deployment}-2"
                )
            if not now < expires:
                raise InputError(f"expires={text_of(expires)} is not after {text_of(now)}")
            self._check_promises(state, now, _promise(deployment, epsilon, self.target_delta))
            body = {"deployment": deployment, "epsilon": float(epsilon), "expires": text_of(expires)}
            transaction.append("slice", {**body, "at": text_of(now)})

    def close_slice(self, deployment: str) -> None:
        """Ends a deployment's slice before its date. What it spent stays spent.

        Raises:
            InputError: it has none, or it was closed before.
            LedgerError: the ledger cannot be trusted, or its clock went back.
        """
        if self._state().slice_of(deployment).is_closed:
            raise InputError(f"the slice of deployment {deployment!r} was closed before")
        self._write("close_slice", {"deployment": deployment})

    def close_window(self, window: str) -> None:
        """Records that the logs of a data window are gone: no release may read it any more.

        This refunds nothing, and neither does erasing a user: what was released stays released. From the first closed
        window on, every release must name the window it reads.

        Raises:
            InputError: no name, or it was closed before.
            LedgerError: the ledger cannot be trusted, or its clock went back.
        """
        if not window:
            raise InputError("a data window needs a name, such as 2026-Q1")
        closed = self.closed_windows()
        if window in closed:
            raise InputError(f"data window {window!r} was closed before, at {closed[window]}")
        self._write("close_window", {"window": window})

    def slices(self) -> list[SliceStatement]:
        """Returns all slices ever given, with what was spent of each.

        Raises:
            LedgerError: the ledger cannot be trusted.
        """
        state, now = self._state(), self._clock()
        return [
            SliceStatement(s, s.status(now), epsilon(state.spent_by(s.deployment), self.target_delta))
            for s in state.slices.values()
        ]

    def closed_windows(self) -> dict[str, str]:
        """Returns when each closed data window was closed, by its name.

        Raises:
            LedgerError: the ledger cannot be trusted.
        """
        return self._state().closed_windows

    # -- reading ----------------------------------------------------------------------------------------------

    def epsilon_spent(self, *, left_the_client_only: bool = False) -> float:
        """Returns the epsilon of everything committed or still reserved.

        Args:
            left_the_client_only: the view of outsiders: leave out what stayed with the client and entered nothing that left
                (``privacy.accounting.events.seen_outside``).

        Raises:
            LedgerError: the ledger cannot be trusted.
        """
        events = self._state().spent()
        return epsilon(seen_outside(events) if left_the_client_only else events, self.target_delta)

    def epsilon_with(self, events: Sequence[ReleaseEvent]) -> float:
        """Returns what ``epsilon_spent`` would be after these events too; changes nothing, promises nothing.

        Raises:
            LedgerError: the ledger cannot be trusted.
        """
        return epsilon([*self._state().spent(), *events], self.target_delta)

    def entries(self) -> list[LedgerEntry]:
        """Returns all releases in the order of their reservation.

        Raises:
            LedgerError: the ledger cannot be trusted.
        """
        return list(self._state().entries.values())

    def verify(self) -> None:
        """Checks every row, the counter, and the cost by two accountants.

        Raises:
            LedgerError: naming what cannot be trusted.
        """
        cross_check(self._state().spent(), self.target_delta)

    def head_hash(self) -> str:
        """Returns the hash of the last row, which stands for the whole history (64 hexadecimal digits)."""
        with self._log.transaction() as transaction:
            return transaction.rows[-1].hash

    def remembers(self, head_hash: str) -> bool:
        """Whether the ledger ever had this head: one that does not is another, or an older copy.

        Raises:
            LedgerError: the ledger cannot be trusted.
        """
        with self._log.transaction() as transaction:
            return any(row.hash == head_hash for row in transaction.rows)

    # -- inside -----------------------------------------------------------------------------------------------

    def _state(self) -> LedgerState:
        with self._log.transaction() as transaction:
            return replay(transaction.rows)

    def _write(self, kind: str, body: dict[str, Any]) -> None:
        with self._log.transaction() as transaction:
            now = self._moment(replay(transaction.rows))
            transaction.append(kind, {**body, "at": text_of(now)})
            replay(transaction.rows)  # refuses what does not follow; then nothing is written

    def _moment(self, state: LedgerState) -> datetime:
        """The time to write: never before the newest row, so that nothing expires twice."""
        now = self._clock().astimezone(UTC)
        last = moment_of(state.last_at) if state.last_at else now
        if now < last - CLOCK_SLACK:
            raise LedgerError(
                f"the clock went back: it says {text_of(now)}, the newest row of the ledger was written at "
                f"{state.last_at}; set the clock right"
            )
        return max(now, last)

    def _check_fits(self, state: LedgerState, event: ReleaseEvent, now: datetime) -> None:
        spent = state.spent()
        budget = min(state.budget, self.epsilon_budget)
        self._check_sum(event, spent, budget, "budget", "lower the schedule or raise epsilon_budget")
        if self._deployment is not None:
            given = state.slice_of(self._deployment)
            self._check_sum(
                event,
                state.spent_by(given.deployment),
                given.epsilon,
                f"slice of deployment {given.deployment!r},",
                "lower the schedule or ask for a new slice",
            )
        elif state.open_slices(now):
            self._check_promises(state, now, event)

    def _check_sum(
        self, event: ReleaseEvent, spent: Sequence[ReleaseEvent], budget: float, whose: str, cure: str
    ) -> None:
        after = cross_check([*spent, event], self.target_delta)
        if not after <= budget:
            before = epsilon(spent, self.target_delta)
            raise BudgetExceeded(
                f"release {event.name!r} would raise epsilon from {before:.4g} to {after:.4g}, above the "
                f"{whose} {budget:.4g} (delta {self.target_delta:g}): {cure}"
            )

    def _check_promises(self, state: LedgerState, now: datetime, new: ReleaseEvent) -> None:
        """Refuse what would leave the open slices less than they were promised.

        A slice counts as one Gaussian release of its whole epsilon, whatever it has spent of it.
        """
        given = state.open_slices(now)
        outside = state.spent_outside([s.deployment for s in given])
        promised = [_promise(s.deployment, s.epsilon, self.target_delta) for s in given]
        budget = min(state.budget, self.epsilon_budget)
        after = epsilon([*outside, *promised, new], self.target_delta)
        if not after <= budget * _PROMISE_ROUNDING:
            names = ", ".join(f"{s.deployment!r} ({s.epsilon:g})" for s in given) or "none"
            raise BudgetExceeded(
                f"{new.name!r} would raise what is spent or set aside from "
                f"{epsilon([*outside, *promised], self.target_delta):.4g} to {after:.4g}, above the budget "
                f"{budget:.4g} (delta {self.target_delta:g}; open slices: {names}): ask for less, or close a slice"
            )


def _promise(deployment: str, epsilon_of_slice: float, target_delta: float) -> ReleaseEvent:
    return ReleaseEvent(f"slice of {deployment}", 1.0 / gaussian_mu(epsilon_of_slice, target_delta))
