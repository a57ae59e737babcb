"""Known attacks on secure aggregation, run against this system and against an unprotected one.

Every attack is one file with ``run(seed=0) -> dict``: what the attacker gets *here* and what the very same
code gets from a system without the defence (``unprotected``), as a fraction between 0 (nothing, or guessing)
and 1 (everything). An attack that gets nothing from the unprotected system proves nothing, so that is checked
too.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

ATTACKS = (
    "upload_inversion",
    "both_shares",
    "split_view",
    "model_inconsistency",
    "sum_difference",
    "weak_prg",
)


def run(names: tuple[str, ...] = ATTACKS, seed: int = 0) -> dict[str, Any]:
    """Run attacks by name.

    Returns:
        ``attacks`` (one result each) and ``ok``: every attack fails here and works on the unprotected system.
    """
    results = [import_module(f"simulations.attacks.{name}").run(seed=seed) for name in names]
    return {"attacks": results, "ok": all(result["ok"] for result in results)}


def verdict(attack: str, gets: str, here: float, unprotected: float, **details: Any) -> dict[str, Any]:
    """One attack's result.

    Args:
        attack: what the attacker does.
        gets: what the two fractions measure.
        here: fraction obtained from this system; at most 0.05 is taken for nothing.
        unprotected: fraction obtained without the defence; must exceed 0.5.
        details: how this system answered, and anything else worth reading.
    """
    return {
        "attack": attack,
        "gets": gets,
        "here": round(here, 4),
        "unprotected": round(unprotected, 4),
        **details,
        "ok": here <= 0.05 and unprotected > 0.5,
    }


def format_table(result: dict[str, Any]) -> str:
    """The verdicts as text."""
    lines = [f"{'here':>6} {'unprotected':>11}  attack"]
    for row in result["attacks"]:
        lines.append(f"{row['here']:>6.2f} {row['unprotected']:>11.2f}  {row['attack']} ({row['gets']})")
        if "answer" in row:
            lines.append(f"{'':>20}answer here: {row['answer']}")
    return "\n".join(lines)
