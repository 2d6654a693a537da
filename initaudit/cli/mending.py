"""What ``initaudit fix`` does: every model of the targets, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from initaudit.choices import is_checkpoint
from initaudit.cli.group import Exit, report_defect
from initaudit.errors import AuditError, UsageError

if TYPE_CHECKING:
    from initaudit.cli.progress import Progress
    from initaudit.records import Cure
    from initaudit.settings import Settings

DRAWS = 3  # that a cure is tried on, unless --seeds says otherwise


def fix(ctx: click.Context, *, write: str | None, keyword: str | None, config: str | None) -> int:
    """Mend the targets and say what became of each; the options are read from ``ctx``."""
    from initaudit.cli.audit import check_writable, settings_of
    from initaudit.cli.expression import parse_expression
    from initaudit.cli.progress import Progress
    from initaudit.report.fix import cure_exit_code

    settings = settings_of(ctx, config)
    if write is not None:
        check_writable("--write", write, settings.targets)
    if weights := next(filter(is_checkpoint, settings.targets), None):
        what = f"{weights} is a checkpoint, which holds weights and no model to mend"
        raise UsageError(f"{what}; to have them judged: initaudit {weights} --weights-only")
    given = ctx.get_parameter_source("seeds") is ParameterSource.COMMANDLINE
    keep = parse_expression(keyword) if keyword else lambda name: True
    with Progress(no_color=settings.no_color, quiet=settings.quiet) as progress:
        run = _Run(settings, keep, progress, settings.seeds if given else DRAWS, single=write is not None)
        cures = list(run.cures())
    _show(cures, settings)
    if write is not None:
        _write(write, cures)
    if settings.figure:
        _draw(settings.figure, cures)
    for defect in run.defects:
        report_defect(defect, verbose=settings.verbose > 0)
    return Exit.INTERNAL if run.defects else cure_exit_code(cures, settings.fail_on)


@dataclass
class _Run:
    """Every model of the targets, one after the other. ``single``: there may be but one."""

    settings: Settings
    keep: Callable[[str], bool]
    progress: Progress
    draws: int
    single: bool
    defects: list[str] = field(default_factory=list)

    def cures(self) -> Iterator[Cure]:
        """What became of each model; one that cannot be loaded or run is told as an error."""
        from initaudit.runner import InternalError, ProbeOptions, Runner

        s, held = self.settings, 0
        options = ProbeOptions(inputs=list(s.input) or None, loss=s.loss, device=s.device, dtype=s.dtype, seed=s.seed)
        for target in s.targets:
            with Runner(target, options, timeout=s.timeout) as runner:
                self.progress.show(f"{target}: load")
                try:
                    ids = [model for model in runner.collect().ids if self.keep(model)]
                except (AuditError, InternalError) as error:
                    yield self._failed(target, error)
                    continue
                held += len(ids)
                if self.single and held > 1:
                    raise UsageError(
                        f"--write takes the code of one model, {' and '.join(s.targets)} hold {held}: name one of them"
                    )
                for model in ids:
                    try:
                        yield runner.cure(
                            model, lambda stage, at=model: self.progress.show(f"{at}: {stage}"),  # type: ignore[misc]
                            draws=self.draws, select=s.select, ignore=s.ignore,
                        )  # fmt: skip
                    except (AuditError, InternalError) as error:
                        yield self._failed(model, error)
                    if runner.printed().strip() and s.verbose:
                        self.progress.say(f"{model} printed something; audit it with -v to see it")

    def _failed(self, name: str, error: Exception) -> Cure:
        from initaudit.records import Cure, Failure, Report

        stage = getattr(error, "stage", "load")
        if not isinstance(error, AuditError):
            self.defects.append(getattr(error, "traceback", str(error)))
        return Cure(Report(name, error=Failure(stage, str(error))))


def _show(cures: list[Cure], settings: Settings) -> None:
    from initaudit.report.fix import cure_lines, render_cures_json

    if settings.format == "json":
        click.echo(render_cures_json(cures, settings.fail_on))
        return
    from rich.console import Console

    console = Console(no_color=settings.no_color or None, highlight=False)
    ascii_only = console.options.ascii_only
    for cure in cures:
        for line in cure_lines(cure, width=console.width, fail_on=settings.fail_on, ascii_only=ascii_only):
            console.print(line, soft_wrap=True)
        console.print()


def _draw(path: str, cures: list[Cure]) -> None:
    """Before and after side by side, of each model."""
    from initaudit.cli.output import write_figure

    audits = [(cure.before.target, word, report) for cure in cures
              for word, report in (("before", cure.before), ("after", cure.after)) if report is not None]  # fmt: skip
    titles = [word if len(cures) == 1 else f"{target}, {word}" for target, word, _ in audits]
    write_figure(path, [report for *_, report in audits], titles)


def _write(path: str, cures: list[Cure]) -> None:
    code = next((cure.code for cure in cures if cure.code), "")
    if not code:
        click.echo(f"{path} was not written: there is no code to write", err=True)
        return
    try:
        Path(path).write_text(code, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--write {path} cannot be written: {error.strerror or error}") from error
