"""``initaudit TARGET...``: audit every model of the targets and print one report."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from click.core import ParameterSource

from initaudit import settings as settings_file
from initaudit.cli.expression import parse_expression
from initaudit.cli.group import Exit, report_defect
from initaudit.cli.options import audit_options
from initaudit.cli.progress import Progress
from initaudit.errors import UsageError
from initaudit.records import SCHEMA_VERSION, Session
from initaudit.report.outcome import exit_code
from initaudit.settings import Settings, is_path

if TYPE_CHECKING:
    from initaudit.cli.session import Run


@audit_options
@click.pass_context
def audit_command(ctx: click.Context, /, config: str | None, keyword: str | None, collect_only: bool, **_: Any) -> int:
    """Audit the targets, write the report, and return the exit code."""
    start = time.perf_counter()
    settings = _settings(ctx, config)
    from initaudit.cli.session import Run  # not above: the help needs no rules

    keep = parse_expression(keyword) if keyword else lambda name: True
    with Progress(no_color=settings.no_color, quiet=settings.quiet) as progress:
        run = Run(settings, keep, progress)
        if collect_only:
            run.collect()
        else:
            run.audit()
    with _sink(settings.output) as stream:
        if collect_only:
            _write_ids(stream, run, settings)
        else:
            _write_report(stream, run, settings, time.perf_counter() - start)
    for defect in run.defects:
        report_defect(defect, verbose=settings.verbose > 0)
    if run.defects:
        return Exit.INTERNAL
    if collect_only and run.ids and not run.reports:
        return 0
    return exit_code(run.reports, settings.fail_on)


def _settings(ctx: click.Context, /, config: str | None) -> Settings:
    """The file's settings under those that the command line gives."""
    given = {
        name: value
        for name, value in ctx.params.items()
        if name in Settings.__dataclass_fields__ and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    settings = replace(settings_file.load(config), **given)
    from initaudit.rules import matching

    matching((*settings.select, *settings.ignore))  # an unknown code is told now and not after the first model
    if not settings.targets:
        raise UsageError("no TARGET: name a file, a folder or package.module:attr, or set targets in [tool.initaudit]")
    targets = sorted(settings.targets, key=_is_there)  # one that is missing is told before the others are audited
    if settings.output and not Path(settings.output).absolute().parent.is_dir():
        raise UsageError(f"--output {settings.output}: the directory to write it to does not exist; create it first")
    return replace(settings, targets=tuple(targets))


def _is_there(target: str) -> bool:
    return not is_path(target) or os.path.exists(target.partition("::")[0])


@contextmanager
def _sink(output: str | None) -> Iterator[TextIO]:
    """The file to write to, or standard output; a reader of the pipe that has gone is no error."""
    if output:
        try:
            with open(output, "w", encoding="utf-8") as stream:
                yield stream
        except OSError as error:
            raise UsageError(f"--output {output} cannot be written: {error.strerror or error}") from error
        return
    try:
        yield sys.stdout
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich turns the first into the second
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write_report(stream: TextIO, run: Run, settings: Settings, seconds: float) -> None:
    if settings.format == "json":
        from initaudit.report.json import render_json

        stream.write(render_json(run.reports).rstrip("\n") + "\n")
        return
    from rich.console import Console

    from initaudit.report.table import render_session

    console = Console(file=stream, no_color=settings.no_color or None, highlight=False)
    render_session(
        console,
        Session(tuple(run.reports)),
        verbose=settings.verbose,
        quiet=settings.quiet,
        fail_on=settings.fail_on,
        seconds=seconds,
    )


def _write_ids(stream: TextIO, run: Run, settings: Settings) -> None:
    if settings.format == "json":
        errors = [{"target": r.target, **asdict(r.error)} for r in run.reports if r.error]
        document = {"schema_version": SCHEMA_VERSION, "collected": run.ids, "errors": errors}
        stream.write(json.dumps(document, indent=2) + "\n")
        return
    for model in run.ids:
        stream.write(f"{model}\n")
    for report in run.reports:
        click.echo(f"Error: {report.target}: {report.error.message if report.error else ''}", err=True)
