"""A slice is bounded twice: by what its deployment was given, and by what the population has left."""

from __future__ import annotations

import multiprocessing
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from privacy.accounting import chain
from privacy.accounting.accountant import epsilon
from privacy.accounting.calibration import noise_multiplier_for
from privacy.accounting.events import ReleaseEvent
from privacy.accounting.ledger import Ledger
from privacy.errors import BudgetExceeded, InputError, LedgerError

DELTA = 1e-5
START = datetime(2026, 3, 1, tzinfo=UTC)


class Clock:
    """Says what it is told."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def shop(path: Path, clock: Clock) -> Ledger:
    return Ledger.open(path, population="shop", epsilon_budget=8.0, target_delta=DELTA, clock=clock)


def event(name: str = "x", noise: float = 3.0) -> ReleaseEvent:
    return ReleaseEvent(name, noise)


class TestSlices:
    def test_releases_are_debited_from_both(self, shop: Ledger) -> None:
        shop.reserve(event("own"))
        shop.give_slice("web", 4.0, START + timedelta(days=30))
        web = shop.charging(deployment="web")
        web.commit(web.reserve(event("web's")))
        [statement] = shop.slices()
        assert (statement.status, statement.epsilon_spent) == ("open", epsilon([event()], DELTA))
        assert shop.epsilon_spent() == web.epsilon_spent() == epsilon([event(), event()], DELTA)
        assert [e.deployment for e in shop.entries()] == [None, "web"]

    def test_a_slice_binds_before_the_population_does(self, shop: Ledger) -> None:
        shop.give_slice("web", 2.0, START + timedelta(days=30))
        head = shop.head_hash()
        wanted = "would raise epsilon from 0 to 4.377, above the slice of deployment 'web', 2 "
        with pytest.raises(BudgetExceeded, match=re.escape(wanted)):
            shop.charging(deployment="web").reserve(event(noise=1.0))
        assert shop.head_hash() == head
        assert shop.reserve(event(noise=1.0))  # the population itself has room for it

    def test_the_population_binds_whatever_the_slice_says(
        self, shop: Ledger, path: Path, clock: Clock
    ) -> None:
        shop.give_slice("web", 8.0, START + timedelta(days=30))
        Ledger.open(path, population="shop", epsilon_budget=1.0, target_delta=DELTA, clock=clock)
        with pytest.raises(BudgetExceeded, match="above the budget 1 "):
            shop.charging(deployment="web").reserve(event(noise=1.0))

    def test_a_promised_slice_is_left_alone_by_others(self, shop: Ledger, clock: Clock) -> None:
        shop.give_slice("web", 7.0, START + timedelta(days=30))
        with pytest.raises(BudgetExceeded, match=r"set aside from 7 .*open slices: 'web' \(7\)"):
            shop.reserve(event(noise=1.0))
        with pytest.raises(BudgetExceeded, match="set aside"):
            shop.give_slice("app", 5.0, START + timedelta(days=30))
        shop.close_slice("web")
        assert shop.reserve(event(noise=1.0))

    def test_the_whole_budget_can_be_one_slice_and_be_spent(self, shop: Ledger) -> None:
        shop.give_slice("web", 8.0, START + timedelta(days=30))
        web = shop.charging(deployment="web")
        for _ in range(4):
            web.commit(web.reserve(event(noise=noise_multiplier_for(8.0, DELTA, steps=4))))
        assert 7.99 < shop.epsilon_spent() <= 8.0

    def test_a_closed_or_expired_slice_refuses_and_what_it_spent_stays_spent(
        self, shop: Ledger, clock: Clock
    ) -> None:
        for name in ("web", "app"):
            shop.give_slice(name, 3.0, START + timedelta(days=30))
            shop.charging(deployment=name).reserve(event())
        before = shop.epsilon_spent()
        shop.close_slice("web")
        with pytest.raises(BudgetExceeded, match="slice of deployment 'web' is closed"):
            shop.charging(deployment="web").reserve(event())
        clock.now = START + timedelta(days=30, seconds=-1)
        shop.charging(deployment="app").reserve(event(noise=20.0))
        clock.now = START + timedelta(days=30)
        with pytest.raises(BudgetExceeded, match="slice of deployment 'app' is expired"):
            shop.charging(deployment="app").reserve(event(noise=20.0))
        assert [s.status for s in shop.slices()] == ["closed", "expired"]
        assert shop.epsilon_spent() > before > 0.0

    def test_unusable_slices_are_refused(self, shop: Ledger) -> None:
        later = START + timedelta(days=1)
        for name, budget, expires in (
            ("", 1.0, later),
            ("web", 0.0, later),
            ("web", float("nan"), later),
            ("web", 1.0, START),
            ("web", 1.0, later.replace(tzinfo=None)),
        ):
            with pytest.raises(InputError):
                shop.give_slice(name, budget, expires)
        with pytest.raises(BudgetExceeded):
            shop.give_slice("web", 8.1, later)
        with pytest.raises(InputError, match="has no slice"):
            shop.charging(deployment="web")
        shop.give_slice("web", 1.0, later)
        with pytest.raises(InputError, match="has a slice already"):
            shop.give_slice("web", 1.0, later)
        assert len(shop.slices()) == 1


class TestWindows:
    def test_a_closed_window_cannot_be_charged_again(self, shop: Ledger) -> None:
        old, new = shop.charging(window="2025"), shop.charging(window="2026")
        old.commit(old.reserve(event()))
        shop.close_window("2025")
        spent = shop.epsilon_spent()
        with pytest.raises(BudgetExceeded, match="data window '2025' was closed at 2026-03-01"):
            old.reserve(event(noise=50.0))
        with pytest.raises(InputError, match="must say which window it reads"):
            shop.reserve(event(noise=50.0))
        new.commit(new.reserve(event(noise=50.0)))
        assert shop.epsilon_spent() > spent  # closing refunds nothing
        assert [e.window for e in shop.entries()] == ["2025", "2026"]

    def test_a_release_under_way_is_settled_after_its_window_closed(self, shop: Ledger) -> None:
        old = shop.charging(window="2025")
        under_way = old.reserve(event())
        shop.close_window("2025")
        old.commit(under_way)
        assert shop.entries()[0].status == "committed"
        with pytest.raises(InputError, match="closed before"):
            shop.close_window("2025")


class TestClock:
    def test_a_clock_that_went_back_writes_nothing(self, shop: Ledger, clock: Clock) -> None:
        shop.give_slice("web", 2.0, START + timedelta(days=30))
        clock.now = START + timedelta(days=31)
        reserved = shop.reserve(event())
        head = shop.head_hash()
        clock.now = START  # the slice would be alive again
        web = shop.charging(deployment="web")
        for write in (
            lambda: web.reserve(event(noise=30.0)),
            lambda: shop.commit(reserved),
            lambda: shop.close_window("2025"),
            lambda: shop.close_slice("web"),
            lambda: shop.give_slice("app", 1.0, START + timedelta(days=90)),
        ):
            with pytest.raises(LedgerError, match="clock went back"):
                write()
        assert shop.head_hash() == head

    def test_a_time_server_may_correct_it_by_seconds(self, shop: Ledger, clock: Clock) -> None:
        shop.reserve(event())
        clock.now = START - timedelta(seconds=30)
        shop.reserve(event())
        assert [e.at for e in shop.entries()] == ["2026-03-01T00:00:00+00:00"] * 2


class TestCompatibility:
    def test_rows_of_the_first_version_keep_their_meaning(self, path: Path) -> None:
        """Written by hand as version 0.1 wrote them: no slices, no windows, a counter without the file's hash."""
        with chain.ChainedLog(path).transaction() as transaction:
            transaction.append(
                "open",
                {
                    "population": "shop", "unit": "user", "relation": "add/remove", "epsilon_budget": 8.0,
                    "target_delta": DELTA, "nonce": "00", "at": "2026-01-01T00:00:00+00:00",
                },
            )  # fmt: skip
            for number, kind in ((1, "commit"), (3, "release_unused")):
                body = {"event": event().to_json(), "at": "2026-01-01T00:00:00+00:00"}
                transaction.append("reserve", body)
                transaction.append(kind, {"reservation": number, "at": "2026-01-01T00:00:00+00:00"})
        chain._write_counter(chain._counter_path(path), 5, transaction.rows[-1].hash)
        held = Ledger.open(path, population="shop", epsilon_budget=8.0, target_delta=DELTA)
        assert [(e.status, e.deployment, e.window) for e in held.entries()] == [
            ("committed", None, None),
            ("released", None, None),
        ]
        assert held.epsilon_spent() == epsilon([event()], DELTA)

    def test_releases_without_slice_or_window_are_still_written_as_before(
        self, shop: Ledger, path: Path
    ) -> None:
        shop.reserve(event())
        with chain.ChainedLog(path).transaction() as transaction:
            assert (transaction.rows[1].kind, sorted(transaction.rows[1].body)) == (
                "reserve",
                ["at", "event"],
            )


def _ask(path: Path, deployment: str, noise: float, start: object, granted: object) -> None:
    shop = Ledger.open(path, population="shop", epsilon_budget=8.0, target_delta=DELTA)
    mine = shop.charging(deployment=deployment)
    start.wait()  # type: ignore[attr-defined]
    for _ in range(4):
        try:
            mine.commit(mine.reserve(event(noise=noise)))
            granted.put(deployment)  # type: ignore[attr-defined]
        except BudgetExceeded:
            pass


def test_concurrent_runs_of_two_deployments_cannot_overspend_together(path: Path) -> None:
    """Two runs of each deployment at once: room for 2 releases in each slice, 16 are asked for."""
    far = datetime.now(UTC) + timedelta(days=1)
    shop = Ledger.open(path, population="shop", epsilon_budget=8.0, target_delta=DELTA)
    for name in ("web", "app"):
        shop.give_slice(name, 4.0, far)
    context = multiprocessing.get_context("fork")
    start, granted = context.Barrier(4), context.Queue()
    noise = noise_multiplier_for(4.0, DELTA, steps=2)
    runs = [
        context.Process(target=_ask, args=(path, name, noise, start, granted))
        for name in ("web", "app", "web", "app")
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0] * 4
    assert sorted(granted.get(timeout=1) for _ in range(4)) == ["app", "app", "web", "web"]
    assert len(shop.entries()) == 4
    assert all(3.99 < s.epsilon_spent <= 4.0 for s in shop.slices())
    assert shop.epsilon_spent() <= 8.0
    shop.verify()
