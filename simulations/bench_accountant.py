"""Our accountant beside four others in ten settings.

A figure is *sound* if it is not below the true epsilon. Without sampling the truth is known (the closed formula). With it,
Opacus' PRV accountant (Gopi, Lee, Wutschitz 2021) encloses the truth between two bounds it proves; ours must not lie below
the lower one, and a Rényi bound, which is above the truth by construction, must not lie below ours.

Values on record: computed in earlier work on this subject with Google's dp_accounting 0.6 (PLD) and Opacus 1.6 (PRV),
rounded to the digits shown; kept here so that a change of a library is noticed. Formulas alone: Balle and Wang 2018.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from privacy.accounting.accountant import epsilon, epsilon_second_opinion
from privacy.accounting.analytic_gaussian import gaussian_epsilon
from privacy.accounting.events import ReleaseEvent

_PRV_ERROR = 1e-3  # half the width, in epsilon, of what PRV encloses
_ROUNDING = 1e-9  # of our own arithmetic
_RECORD = 0.002  # relative: recorded figures came from another grid,
_LAST_DIGIT = 0.01  # and were rounded


@dataclass(frozen=True)
class Setting:
    """One mechanism: ``steps`` Gaussian releases, each on a Poisson sample.

    Attributes:
        recorded: epsilon on record, with the digits that were recorded, or None.
        source: where the recorded value came from.
    """

    name: str
    noise_multiplier: float
    sampling_probability: float
    steps: int
    delta: float
    recorded: float | None = None
    source: str = ""


_PLD = "dp_accounting 0.6, PLD"
SETTINGS = (
    Setting("500 users, batches of 64", 1.0, 64 / 500, 200, 1e-4, 11.39, _PLD),
    Setting("6,040 users, batches of 512", 1.0, 512 / 6040, 300, 1e-5, 10.31, _PLD),
    Setting("the same, less noise", 0.7, 512 / 6040, 300, 1e-5, 21.72, _PLD),
    Setting("138,000 users, batches of 1,000", 1.0, 1000 / 138_000, 1000, 1e-6, 1.515, _PLD),
    Setting("the same, less noise", 0.6, 1000 / 138_000, 1000, 1e-6, 6.77, _PLD),
    Setting("one silo of its own", 1.0, 0.05, 300, 1e-6, 6.61, _PLD),
    Setting("5 silos under a secure sum", math.sqrt(5), 0.05, 300, 1e-6, 1.91, _PLD),
    Setting("50 silos under a secure sum", math.sqrt(50), 0.05, 300, 1e-6, 0.51, _PLD),
    Setting("one release of everybody", 1.0, 1.0, 1, 1e-5),
    Setting("four releases of everybody", 2.0, 1.0, 4, 1e-5),
)


def run() -> dict[str, Any]:
    """Compute every setting by every accountant.

    Returns:
        ``rows``; ``below`` (settings in which ours lies below the tightest sound figure), ``above_renyi``,
        ``off_record``: each must be empty; ``seconds`` and ``ok``.
    """
    started = time.perf_counter()
    rows = [_row(setting) for setting in SETTINGS]
    result: dict[str, Any] = {
        "rows": rows,
        "below": [r["setting"] for r in rows if not r["ours"] >= r["floor"] - _ROUNDING],
        "above_renyi": [r["setting"] for r in rows if r["renyi"] is not None and not r["ours"] <= r["renyi"]],
        "off_record": [r["setting"] for r in rows if _is_off_record(r)],
        "seconds": round(time.perf_counter() - started, 1),
    }
    result["ok"] = not (result["below"] or result["above_renyi"] or result["off_record"])
    return result


def format_table(result: dict[str, Any]) -> str:
    """The rows as text; the verdict is the last line."""
    head = f"{'setting':<34}{'σ/C':>6} {'q':>7} {'steps':>5} {'δ':>6} {'ours':>9} {'floor':>9} {'PRV':>9} {'Rényi':>8} "
    lines = [head + f"{'formula':>9} {'record':>7}"]
    for r in result["rows"]:
        lines.append(
            f"{r['setting']:<34}{r['noise_multiplier']:>6.3f} {r['sampling_probability']:>7.5f} {r['steps']:>5} "
            f"{r['delta']:>6.0e} {r['ours']:>9.5f} {r['floor']:>9.5f} {_shown(r['prv_upper'], 5):>9} "
            f"{_shown(r['renyi'], 4):>8} {_shown(r['formula'], 5):>9} {_shown(r['recorded'], 3):>7}"
        )
    lines.append("ours: PLD. floor: the largest figure proved not to exceed the truth. PRV: its upper bound.")
    lines.append(
        f"{len(result['rows'])} settings: {len(result['below'])} below the floor, {len(result['above_renyi'])} above the "
        f"Rényi bound, {len(result['off_record'])} off the record"
    )
    return "\n".join(lines)


def _row(setting: Setting) -> dict[str, Any]:
    event = ReleaseEvent(
        "x",
        setting.noise_multiplier,
        sampling_probability=setting.sampling_probability,
        count=setting.steps,
    )
    is_sampled = setting.sampling_probability < 1.0
    lower, upper = _prv(setting) if is_sampled else (None, None)
    formula = (
        None
        if is_sampled
        else gaussian_epsilon(math.sqrt(setting.steps) / setting.noise_multiplier, setting.delta)
    )
    return {
        "setting": setting.name,
        "noise_multiplier": setting.noise_multiplier,
        "sampling_probability": setting.sampling_probability,
        "steps": setting.steps,
        "delta": setting.delta,
        "ours": epsilon([event], setting.delta),
        "floor": lower if formula is None else formula,
        "prv_upper": upper,
        "renyi": epsilon_second_opinion([event], setting.delta) if is_sampled else None,
        "formula": formula,
        "recorded": setting.recorded,
        "source": setting.source,
    }


@lru_cache
def _prv(setting: Setting) -> tuple[float, float]:
    """Bounds below and above the truth, by Opacus."""
    from opacus.accountants import PRVAccountant

    accountant: Any = PRVAccountant()
    accountant.history = [(setting.noise_multiplier, setting.sampling_probability, setting.steps)]
    delta_error = setting.delta / 1000
    # get_epsilon gives the upper bound alone; both come from the same composed distribution.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a Rényi order is the largest only widens the domain
        composed = accountant._get_dprv(eps_error=_PRV_ERROR, delta_error=delta_error)
    lower, _, upper = composed.compute_epsilon(setting.delta, delta_error, _PRV_ERROR)
    return float(lower), float(upper)


def _is_off_record(row: dict[str, Any]) -> bool:
    recorded = row["recorded"]
    return recorded is not None and abs(row["ours"] - recorded) > max(_RECORD * recorded, _LAST_DIGIT)


def _shown(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
