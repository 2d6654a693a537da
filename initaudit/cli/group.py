"""A click group with a default command, and the exit codes of the contract."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import click

from initaudit.errors import AuditError, InitauditError

TRACEBACK_VARIABLE = "INITAUDIT_TRACEBACK"


class Exit(IntEnum):
    """The exit codes that no report decides; see :func:`initaudit.report.outcome.exit_code` for the others."""

    FAILED = 2
    INTERNAL = 3
    USAGE = 4
    NOTHING_COLLECTED = 5


class DefaultGroup(click.Group):
    """Runs ``default`` whenever the first argument is not the name of a command.

    Whatever is raised ends in one message on standard error and an exit code; a command returns its exit code.
    """

    def __init__(self, name: str, default: click.Command, commands: Sequence[click.Command]) -> None:
        super().__init__(name=name, commands=commands)
        self.default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command's name before arguments that name no command."""
        named = bool(args) and args[0] in self.commands
        return super().parse_args(ctx, args if named else [str(self.default.name), *args])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name. The default's own name is reached only through :meth:`parse_args`."""
        return self.default if cmd_name == self.default.name else super().get_command(ctx, cmd_name)

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run the command and exit; with ``standalone_mode=False`` return its exit code and let errors through."""
        run: Any = super().main
        if not standalone_mode:
            return run(*args, standalone_mode=False, **extra)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal that lacks a glyph shows "?" instead of failing
        try:
            code = run(*args, standalone_mode=False, **extra)
        except click.ClickException as error:
            _complain(f"{error.format_message()}\nTry 'initaudit --help'.")
            code = Exit.USAGE
        except (click.Abort, KeyboardInterrupt):
            click.echo("Interrupted.", err=True)
            code = Exit.FAILED
        except AuditError as error:
            _complain(str(error))
            code = Exit.FAILED
        except InitauditError as error:
            _complain(str(error))
            code = Exit.USAGE
        except Exception:
            import traceback  # not above: the help waits for each import

            report_defect(traceback.format_exc())
            code = Exit.INTERNAL
        sys.exit(int(code or 0))


def _complain(message: str) -> None:
    click.echo(f"Error: {message}", err=True)


def report_defect(trace: str, *, verbose: bool = False) -> None:
    """Say that initaudit itself is at fault, with the traceback when it was asked for."""
    last = trace.strip().splitlines()[-1]
    if verbose or os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0"):
        click.echo(trace, err=True)
        hint = "Please report it with the traceback above."
    else:
        hint = f"Please report it with the traceback, which -v or {TRACEBACK_VARIABLE}=1 in the environment shows."
    blame = "This is a bug in initaudit, not in your model or your command."
    click.echo(f"Internal error: {last}\n{blame} {hint}", err=True)
