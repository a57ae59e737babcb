"""Command-line options that take several values after one name: ``--clients 20 50``."""

from __future__ import annotations

import click
from typer.core import TyperCommand

from privacy.errors import InputError


class SpacedLists(TyperCommand):
    """A command whose repeatable options also accept their values in a row.

    ``--clients 20 50`` is read as ``--clients 20 --clients 50``; click itself knows only the second spelling.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the option's name before each further value, then parse as usual."""
        repeatable = {
            name
            for parameter in self.params
            if getattr(parameter, "multiple", False)
            for name in parameter.opts
        }
        spelled: list[str] = []
        current: str | None = None
        fresh = False
        for argument in args:
            if argument.startswith("--"):
                current = argument if argument in repeatable else None
                fresh = True
            elif current is not None and not fresh:
                spelled.append(current)
            spelled.append(argument)
            fresh = argument.startswith("--")
        return super().parse_args(ctx, spelled)


def whole_number(text: str) -> int:
    """Read ``100000`` or ``1e5``.

    Raises:
        InputError: not a whole number of at least 1.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not (value >= 1 and value == int(value)):
        raise InputError(f"{text!r} is not a whole number of at least 1: write 100000 or 1e5")
    return int(value)


def positive_number(text: str) -> float:
    """Read ``8``, ``0.5`` or ``inf``.

    Raises:
        InputError: not a number above 0.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not value > 0:
        raise InputError(f"{text!r} is not a number above 0: write 8, 0.5 or inf")
    return value


def finish(*, ok: bool, check: bool) -> None:
    """End with status 1 when a check was asked for and the figure falls short."""
    if check and not ok:
        raise click.exceptions.Exit(1)
