"""Where the report of a run goes, and in which form."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TextIO

import click
from rich.console import Console

from initaudit.cli.session import Run
from initaudit.errors import UsageError
from initaudit.records import SCHEMA_VERSION, Report, Session
from initaudit.report.json import render_json
from initaudit.report.table import render_session
from initaudit.settings import Settings


@contextmanager
def sink(output: str | None) -> Iterator[TextIO]:
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


def write_report(stream: TextIO, run: Run, settings: Settings, seconds: float) -> None:
    """Write the reports in the form that was asked for; ``seconds`` is what the run took."""
    if settings.format == "json":
        stream.write(render_json(run.reports).rstrip("\n") + "\n")
        return
    console = Console(file=stream, no_color=settings.no_color or None, highlight=False)
    render_session(
        console,
        Session(tuple(run.reports)),
        verbose=settings.verbose,
        quiet=settings.quiet,
        fail_on=settings.fail_on,
        seconds=seconds,
    )


def write_figure(path: str, reports: Sequence[Report], titles: Sequence[str] | None = None) -> None:
    """Draw the reports side by side; where nothing ran in any of them, say so on standard error instead."""
    from initaudit.report.plots import figure, save

    if not any(layer.calls for report in reports for layer in report.layers):
        click.echo(f"{path} was not written: no layer was run and measured", err=True)
        return
    save(figure(reports, titles=titles), path)


def write_ids(stream: TextIO, run: Run, settings: Settings) -> None:
    """Write what was collected, a name a line or in JSON, and to standard error what could not be."""
    if settings.format == "json":
        errors = [{"target": r.target, **asdict(r.error)} for r in run.reports if r.error]
        document = {"schema_version": SCHEMA_VERSION, "collected": run.ids, "errors": errors}
        stream.write(json.dumps(document, indent=2) + "\n")
        return
    for model in run.ids:
        stream.write(f"{model}\n")
    for report in run.reports:
        click.echo(f"Error: {report.target}: {report.error.message if report.error else ''}", err=True)
