from __future__ import annotations

from privacy.secagg import guards
from tests.privacy.secagg import mutation


def test_every_guard_is_called_somewhere():
    assert {site.guard for site in mutation.call_sites()} == set(guards.GUARDS)


def test_every_disabled_guard_makes_a_test_fail():
    alive, total = mutation.survivors()
    assert total > 90
    assert not alive, f"no test notices when these are disabled: {alive}"
