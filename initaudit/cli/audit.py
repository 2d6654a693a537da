"""What ``initaudit TARGET...`` does: audit every model of the targets and print one report."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from initaudit import settings as settings_file
from initaudit.cli.expression import parse_expression
from initaudit.cli.group import Exit, report_defect
from initaudit.errors import UsageError
from initaudit.launcher import launched
from initaudit.report.plots_canvas import check_path
from initaudit.runner import Worker
from initaudit.settings import Settings, is_path


def audit(ctx: click.Context, *, config: str | None, keyword: str | None, collect_only: bool) -> int:
    """Audit the targets, write the report, and return the exit code; ``ctx`` has the options."""
    start = time.perf_counter()
    settings = settings_of(ctx, config)
    keep = parse_expression(keyword) if keyword else lambda name: True
    with Worker(settings.workers) as worker:  # it takes longest to start: what this process needs is imported meanwhile
        from initaudit.cli.output import sink, write_figure, write_ids, write_report
        from initaudit.cli.progress import Progress
        from initaudit.cli.session import Run
        from initaudit.report.outcome import exit_code
        from initaudit.rules import matching

        matching((*settings.select, *settings.ignore))  # an unknown code is told now and not after the first model
        with Progress(no_color=settings.no_color, quiet=settings.quiet) as progress:
            run = Run(settings, keep, progress)
            (run.collect if collect_only else run.audit)(worker)
    with sink(settings.output) as stream:
        if collect_only:
            write_ids(stream, run, settings)
        else:
            write_report(stream, run, settings, time.perf_counter() - start)
    if settings.figure and not collect_only:
        write_figure(settings.figure, run.reports)
    for defect in run.defects:
        report_defect(defect, verbose=settings.verbose > 0)
    if run.defects:
        return Exit.INTERNAL
    if collect_only and run.ids and not run.reports:
        return 0
    return exit_code(run.reports, settings.fail_on)


def settings_of(ctx: click.Context, /, config: str | None) -> Settings:
    """The file's settings under those that the command line gives."""
    given = {
        name: value
        for name, value in ctx.params.items()
        if name in Settings.__dataclass_fields__ and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    settings = replace(settings_file.load(config), **given)
    if settings.weights_only and (unused := sorted({"input", "loss", "device", "dtype"} & given.keys())):
        raise UsageError(f"--weights-only runs nothing, and --{unused[0]} says how to run: leave one of them out")
    if settings.weights_only and "figure" in given:
        raise UsageError("--weights-only runs nothing, and --figure draws what was measured: leave one of them out")
    if not settings.targets:
        raise UsageError("no TARGET: name a file, a folder or package.module:attr, or set targets in [tool.initaudit]")
    targets = sorted(settings.targets, key=_is_there)  # one that is missing is told before the others are audited
    if settings.output:
        check_writable("--output", settings.output, targets)
    if settings.figure:
        check_path(settings.figure)
    settings = replace(settings, targets=tuple(targets))
    rank, size = launched()
    if size > 1:  # the processes of a launcher audit each model together, and the first of them reports
        settings = replace(settings, workers=1)
        if rank > 0:
            settings = replace(settings, output=None, figure=None, format="table")
    return settings


def check_writable(option: str, path: str, targets: Sequence[str]) -> None:
    """Raise :class:`UsageError`, before minutes are spent, where the file that ``option`` names has no directory.

    Or where it is one of the files audited, which would be gone.
    """
    if not Path(path).absolute().parent.is_dir():
        raise UsageError(f"{option} {path}: the directory to write it to does not exist; create it first")
    if any(os.path.realpath(path) == os.path.realpath(target.partition("::")[0]) for target in targets):
        raise UsageError(f"{option} {path} would replace the file that is audited: name another one")


def _is_there(target: str) -> bool:
    return not is_path(target) or os.path.exists(target.partition("::")[0])
