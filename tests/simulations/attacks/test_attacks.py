from __future__ import annotations

import pytest

from simulations import attacks
from simulations.attacks import weak_prg


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_the_attack_fails_here_and_works_on_the_unprotected_system(name: str):
    result = attacks.run((name,), seed=1)
    (row,) = result["attacks"]
    assert row["here"] <= 0.05
    assert row["unprotected"] > 0.5
    assert result["ok"]
    assert row["attack"] in attacks.format_table(result)


def test_a_verdict_needs_an_attack_that_works_somewhere():
    assert attacks.verdict("x", "y", here=0.0, unprotected=1.0)["ok"]
    assert not attacks.verdict("x", "y", here=0.0, unprotected=0.0)["ok"]
    assert not attacks.verdict("x", "y", here=0.2, unprotected=1.0)["ok"]


def test_the_recurrence_is_the_mersenne_twisters():
    recurrence = weak_prg.last_bit_recurrence()
    assert len(recurrence) - 1 == weak_prg.DEGREE
    assert recurrence.sum() == 135  # terms of MT19937's characteristic polynomial (Matsumoto, Nishimura 1998)
