"""What cleaning did to a log, rule by rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


def _no_rows() -> NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class CleaningStep:
    """One rule applied to the whole log. ``rows_in == dropped + kept`` always.

    Attributes:
        name: stable, machine-readable, e.g. ``"exact-duplicates"``.
        rows_in: rows before the rule.
        dropped: rows the rule removed.
        kept: rows after the rule.
        reason: what the rule removes or changes, for a reader.
        changed: rows that were kept but moved or rewritten.
        dropped_rows: int64 [dropped], ascending row numbers in the file.
    """

    name: str
    rows_in: int
    dropped: int
    kept: int
    reason: str
    changed: int = 0
    dropped_rows: NDArray[np.int64] = field(default_factory=_no_rows, repr=False, compare=False)


@dataclass(frozen=True)
class CleaningReport:
    """All steps in the order they were applied.

    Attributes:
        steps: one per rule that was switched on.
        vocabularies: column -> the values its codes stand for (code = position).
        value_shift: subtracted from ``value``.
        value_scale: ``value`` was divided by this after the shift.
    """

    steps: tuple[CleaningStep, ...] = ()
    vocabularies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    value_shift: float = 0.0
    value_scale: float = 1.0

    @property
    def rows_in(self) -> int:
        """Rows before the first rule."""
        return self.steps[0].rows_in if self.steps else 0

    @property
    def kept(self) -> int:
        """Rows after the last rule."""
        return self.steps[-1].kept if self.steps else 0

    @property
    def dropped(self) -> int:
        """Rows all rules removed together."""
        return sum(step.dropped for step in self.steps)

    def step(self, name: str) -> CleaningStep:
        """The step of that name.

        Raises:
            KeyError: if no such rule was applied.
        """
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def as_rows(self) -> list[dict[str, str | int]]:
        """One flat record a step, fit for JSON or a table. Holds counts and rule texts, no ids."""
        return [
            {
                "step": step.name,
                "rows_in": step.rows_in,
                "dropped": step.dropped,
                "kept": step.kept,
                "changed": step.changed,
                "reason": step.reason,
            }
            for step in self.steps
        ]

    def as_text(self) -> str:
        """A table for a terminal, one line a step and a last line with the sum."""
        table = [["step", "rows in", "dropped", "kept", "changed", "reason"]]
        for step in self.steps:
            numbers = [f"{number:,}" for number in (step.rows_in, step.dropped, step.kept, step.changed)]
            table.append([step.name, *numbers, step.reason])
        changed = sum(step.changed for step in self.steps)
        table.append(["all", f"{self.rows_in:,}", f"{self.dropped:,}", f"{self.kept:,}", f"{changed:,}", ""])
        widths = [max(len(row[column]) for row in table) for column in range(5)]
        lines = []
        for name, *numbers, reason in table:
            cells = [f"{number:>{width}}" for number, width in zip(numbers, widths[1:], strict=True)]
            lines.append("  ".join([f"{name:<{widths[0]}}", *cells, reason]).rstrip())
        return "\n".join(lines)
