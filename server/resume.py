"""``--resume RUN``: a run that goes on from another's published arrays and is charged to the same ledger.

The second run has its own plan, within ``privacy.epsilon`` taken alone; the ledger then adds it to the first, and refuses what
the two together would exceed. A ledger whose budget the first run spent is given more with ``fedtower budget open``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from privacy.errors import InputError
from server.published import read_published
from server.report import read_report
from server.scenario import Scenario, override, parse_scenario

_LAST = "resumed.txt"


def resumed(run: Path, scenario: Scenario | None) -> Scenario:
    """The scenario of a run that continues ``run``.

    Args:
        run: the earlier run's folder.
        scenario: what is asked for now; None for what the earlier run did.

    Raises:
        InputError: the folder holds no published run with a report, or the scenario already says where its tower starts.
    """
    earlier = read_published(run.resolve())
    if not earlier.report:
        raise InputError(f"{run} holds no report.json: a run can be resumed from its own folder only")
    before = parse_scenario(_settings_of(earlier.report), source=str(run / "report.json"))
    first = earlier.folder if before.resume.from_run is None else first_of_chain(before)
    changes: dict[str, Any] = {
        "resume.from": str(earlier.folder),
        "resume.number": 1 + max(before.resume.number, last_number(first)),
    }
    asked = before if scenario is None else scenario
    if asked.item_tower.init != "random":
        # What the tower first started from is in the earlier run's; two starts at once are refused elsewhere.
        if scenario is not None:
            raise InputError(
                "--resume already gives the tower's start: drop item_tower.init from the scenario"
            )
        asked = asked.model_copy(update={"item_tower": type(asked.item_tower)()})
    if asked.ledger.path is None:
        changes["ledger.path"] = str(earlier.ledger_path)
    return override(asked, changes)


def first_of_chain(scenario: Scenario) -> Path:
    """The folder of the run that a chain of resumed runs began with: its simulated clients keep their state there.

    Raises:
        InputError: a run of the chain is gone, or the chain has no beginning.
    """
    seen: list[str] = []
    following = scenario.resume.from_run
    while following is not None:
        if following in seen or not (Path(following) / "report.json").is_file():
            raise InputError(f"{following} is no run that another could have been resumed from")
        seen.append(following)
        following = (_settings_of(read_report(Path(following))).get("resume") or {}).get("from")
    if not seen:
        raise InputError("this scenario resumes no run: give --resume RUN")
    return Path(seen[-1])


def last_number(first: Path) -> int:
    """The highest number that a run resumed from this chain has had, whether it ended well or not; 1 for none."""
    try:
        return int((first / _LAST).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return 1


def remember_number(first: Path, number: int) -> None:
    """Note a resumed run before it begins: clients answer no session twice, so one that was stopped needs another number."""
    (first / _LAST).write_text(f"{max(number, last_number(first))}\n", encoding="ascii")


def _settings_of(report: dict[str, Any]) -> dict[str, Any]:
    settings = report.get("scenario")
    return settings if isinstance(settings, dict) else {}
