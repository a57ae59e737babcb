"""The count finds nothing in the real ledger, and what was planted in a broken one."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy.accounting.accountant import cross_check
from privacy.accounting.events import ReleaseEvent
from privacy.errors import InputError
from simulations.ledger_crashes import ANY_MOMENT, DELTA, POINTS, Kill, _Life, lines_of, run, scratch_folder


def test_no_kill_makes_the_ledger_overspend_or_forget() -> None:
    result = run(schedules=12, seed=3)
    assert result["ok"], result
    assert (result["overspends"], result["releases_without_entry"], result["epsilon_mismatches"]) == (0, 0, 0)
    assert result["kills"] >= 12  # at any moment may come a moment too late
    assert result["releases_that_left"] > 30
    assert result["epsilons_compared"] > 100
    assert lines_of(result)[-1].startswith("0 overspends, 0 releases without an entry")


@pytest.mark.parametrize(
    ("planted", "counted"),
    [("reserve-after-upload", "releases_without_entry"), ("ledger-renewed", "overspends")],
)
def test_a_planted_fault_is_counted(planted: str, counted: str) -> None:
    result = run(schedules=8, seed=3, planted=planted)  # type: ignore[arg-type]
    assert result[counted] > 0
    assert not result["ok"]


@pytest.mark.parametrize("side", ["server", "client"])
def test_every_named_point_is_reached(side: str) -> None:
    """A point that no process ever passes would be a schedule without a kill."""
    for count in range(1, 8):
        cross_check([ReleaseEvent("x", 3.0)] * count, DELTA)  # inherited by the processes, as in a run
    with scratch_folder() as folder:
        for number, point in enumerate(POINTS[side]):  # type: ignore[index]
            life = _Life(Path(folder) / str(number), 3.0, "none")
            assert life.start(Kill(side, point, 1, 0.0)), point  # type: ignore[arg-type]
            assert not life.start(None)
    assert ANY_MOMENT not in POINTS[side]  # type: ignore[index]


def test_no_schedules_prove_nothing() -> None:
    with pytest.raises(InputError, match="at least 1"):
        run(schedules=0)
