"""The front door: ``fedtower simulate | server | client | provision | advise | budget | report | bench | demo | audit``.

It mounts what each role offers and holds no logic of its own. A command's module is imported only when that
command is called, so ``fedtower --help`` waits for neither torch nor Flower.

Exit codes: 0 done · 1 unexpected error · 2 wrong input · 3 refused by a budget or a policy · 4 a ledger, a
message or a bound cannot be trusted · 130 interrupted. An error is one line on stderr;
``FEDTOWER_TRACEBACK=1`` shows the whole traceback instead.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import click
import typer
from typer.core import TyperGroup

PACKAGES = ("client", "server", "recsys_models", "privacy", "simulations")

# command: (where it lives, what `fedtower --help` says about it)
COMMANDS: dict[str, tuple[str, str]] = {
    "simulate": (
        "simulations.cli:simulate",
        "Run a whole federation on this machine.",
    ),
    "server": ("server.cli:app", "Start and steer a federation of real client processes."),
    "client": ("client.cli:app", "Answer a server from this machine's behaviour logs."),
    "provision": ("simulations.cli:provision", "Lay out a deployment: one folder a client."),
    "advise": (
        "simulations.advise_cli:advise",
        "Propose a model, a recipe and a head from public facts and this machine.",
    ),
    "budget": ("server.budget_cli:app", "Plan, divide, show, verify and certify a privacy budget."),
    "report": ("server.report_cli:report", "Write a run's report.md and report.html again, or show it."),
    "bench": ("simulations.cli:bench", "Measure the speed and the memory of this machine."),
    "demo": ("simulations.cli:demo", "Show one promise at work, with figures."),
    "audit": ("simulations.audit_cli:audit", "Try to break a run's promises."),
}


class LazyCommand(click.Command):
    """A command known by name and one line of help; the rest is imported when it is called."""

    def __init__(self, name: str, location: str, short_help: str) -> None:
        super().__init__(name, help=short_help)
        self.location = location

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Load the command and parse ``args`` as it would."""
        return _load(self.location).make_context(info_name, args, parent, **extra)


class FrontDoor(TyperGroup):
    """The commands of every role, in the order of ``COMMANDS``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands without importing them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command that loads itself when called, or None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        return LazyCommand(cmd_name, *COMMANDS[cmd_name])


def _load(location: str) -> click.Command:
    module_name, attribute = location.split(":")
    found: typer.Typer | Callable[..., Any] = getattr(import_module(module_name), attribute)
    if not isinstance(found, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command()(found)
        found = app
    return typer.main.get_command(found)


def foreign_packages(packages: Sequence[str] = PACKAGES) -> list[str]:
    """Name the packages that are missing, shadowed, or owned by another distribution.

    Our import names are generic (``client``, ``server``, ...). Software installed beside us can overwrite or
    shadow one of them silently, and a foreign ``privacy`` must never answer for ours. Ours are regular
    packages that share this file's folder.
    """
    home = Path(__file__).resolve().parent
    foreign: list[str] = []
    for name in packages:
        spec = find_spec(name)  # for a top-level name this looks it up without running it
        origin = spec.origin if spec is not None and spec.has_location else None
        if origin is None or Path(origin).resolve().parent.parent != home:
            foreign.append(f"{name} ({origin or 'not a regular package'})")
    return foreign


def _is_wrong_path(error: BaseException) -> bool:
    """Whether a path somebody gave is absent, forbidden, or a folder instead of a file (or the reverse)."""
    kinds = FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError
    return isinstance(error, kinds) and error.filename is not None


def exit_code_of(error: BaseException) -> int:
    """Map an error to the exit code the commands promise (see the module's docstring)."""
    # Imported here: neither is needed while all is well.
    from pydantic import ValidationError

    from privacy.errors import (
        BudgetExceeded,
        InputError,
        LedgerError,
        PolicyRefusal,
        ProtocolError,
        SensitivityViolation,
    )
    from recsys_models.errors import DataError

    if isinstance(error, click.ClickException):
        return error.exit_code
    if isinstance(error, InputError | DataError | ValidationError) or _is_wrong_path(error):
        return 2
    if isinstance(error, BudgetExceeded | PolicyRefusal):
        return 3
    if isinstance(error, LedgerError | ProtocolError | SensitivityViolation):
        return 4
    return 1


def one_line(error: BaseException) -> str:
    """Say what went wrong in one line a person can act on."""
    from pydantic import ValidationError

    if isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, ValidationError):
        text = "; ".join(
            f"{'.'.join(map(str, wrong['loc'])) or error.title}: {wrong['msg']} (got {wrong['input']!r:.80})"
            for wrong in error.errors(include_url=False)
        )
    elif isinstance(error, OSError) and _is_wrong_path(error):
        text = f"{error.filename}: {error.strerror}"
    elif exit_code_of(error) == 1:
        text = f"unexpected {type(error).__name__}: {error} (FEDTOWER_TRACEBACK=1 shows where)"
    else:
        text = str(error)
    return " ".join(text.split())


def run(command: click.Command, args: Sequence[str] | None = None) -> NoReturn:
    """Run a command; turn every error into one line on stderr and an exit code.

    A command sets another exit code by raising ``typer.Exit(code)``.
    """
    try:
        code = command.main(args, prog_name="fedtower", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as help_wanted:
        help_wanted.show()
        sys.exit(help_wanted.exit_code)
    except Exception as error:
        if os.environ.get("FEDTOWER_TRACEBACK") == "1":
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(exit_code_of(error))
    sys.exit(code if type(code) is int else 0)


app = typer.Typer(cls=FrontDoor, add_completion=False, no_args_is_help=True)


@app.callback()
def front_door() -> None:
    """Federated recommendation: user encoders stay, one item tower is shared, one budget is enforced."""


def main() -> NoReturn:
    """Entry point of the ``fedtower`` command."""
    foreign = foreign_packages()
    if foreign:
        print(
            f"error: not fedtower's own: {', '.join(foreign)}; install fedtower in an environment of its own",
            file=sys.stderr,
        )
        sys.exit(1)
    run(typer.main.get_command(app))


if __name__ == "__main__":
    main()
