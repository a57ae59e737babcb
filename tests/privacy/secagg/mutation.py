"""Disable every guard at every place where it is called, one at a time, and see a test fail.

``python -m tests.privacy.secagg.mutation`` prints caught/total. A first run with all guards in place notes
which tests make which call site refuse; a mutant is then judged by exactly those tests, as no other test
can tell it from the original.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.secagg import guards
from privacy.secagg.server_round import ServerRound

PACKAGE = Path(guards.__file__).parent
TEST_MODULES = tuple(f"tests.privacy.secagg.test_guards_{side}" for side in ("epoch", "client", "server"))
# Two checks that need the server's records and so are methods, not functions of ``guards``.
METHODS = ("_check_conflict", "_check_pairs")


@dataclass(frozen=True, order=True)
class Site:
    """One place in the code that calls one guard."""

    file: str
    line: int
    end_line: int
    guard: str

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line} {self.guard}"


def call_sites() -> list[Site]:
    """Every ``guards.check_…(…)`` in the package."""
    sites = []
    for path in sorted(PACKAGE.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "guards":
                sites.append(Site(str(path), node.lineno, node.end_lineno or node.lineno, node.func.attr))
    return sorted(sites)


def guard_tests() -> list[Callable[[], None]]:
    """All test functions of the guard suites; they take no arguments."""
    return [
        function
        for name in TEST_MODULES
        for attribute, function in vars(importlib.import_module(name)).items()
        if attribute.startswith("test_")
    ]


class Watch:
    """Stands in for all guards: notes which call site refused, and lets one of them pass everything."""

    def __init__(self, sites: list[Site]) -> None:
        self._by_place = {(s.file, line): s for s in sites for line in range(s.line, s.end_line + 1)}
        self.refused: set[Site] = set()
        self.disabled: Site | None = None

    def around(self, guard: Callable[..., None]) -> Callable[..., None]:
        """The guard, watched."""

        def watched(*args: Any, **kwargs: Any) -> None:
            frame = sys._getframe(1)
            site = self._by_place.get((frame.f_code.co_filename, frame.f_lineno))
            if site is not None and site == self.disabled:
                return
            try:
                guard(*args, **kwargs)
            except Exception:
                if site is not None:
                    self.refused.add(site)
                raise

        return watched


@contextmanager
def watched_guards(watch: Watch) -> Iterator[None]:
    """Every guard replaced by its watched self for a while."""
    originals = {name: getattr(guards, name) for name in guards.GUARDS}
    for name, original in originals.items():
        setattr(guards, name, watch.around(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(guards, name, original)


def fails(test: Callable[[], None]) -> bool:
    """Whether the test fails (pytest's own failures are not ``Exception``s)."""
    try:
        test()
    except KeyboardInterrupt:
        raise
    except BaseException:
        return True
    return False


def survivors() -> tuple[list[str], int]:
    """Mutants that no test notices, and the number of all mutants."""
    sites, tests = call_sites(), guard_tests()
    watch = Watch(sites)
    judges: dict[Site, list[Callable[[], None]]] = {site: [] for site in sites}
    with watched_guards(watch):
        for test in tests:
            watch.refused = set()
            if fails(test):
                raise RuntimeError(f"{test.__name__} fails with all guards in place")
            for site in watch.refused:
                judges[site].append(test)
        alive = []
        for site in sites:
            watch.disabled = site
            if not any(fails(test) for test in judges[site]):
                alive.append(str(site))
    return alive + _surviving_methods(tests), len(sites) + len(METHODS)


def _surviving_methods(tests: list[Callable[[], None]]) -> list[str]:
    alive = []
    for name in METHODS:
        original = getattr(ServerRound, name)
        setattr(ServerRound, name, lambda *_: None)
        try:
            if not any(fails(test) for test in tests):
                alive.append(f"ServerRound.{name}")
        finally:
            setattr(ServerRound, name, original)
    return alive


if __name__ == "__main__":
    alive, total = survivors()
    for mutant in alive:
        print(f"survives: {mutant}")
    print(f"{total - len(alive)}/{total} disabled guards caught")
    sys.exit(bool(alive))
