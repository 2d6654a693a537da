"""A report for people: heading, table of layers, findings; and the lines that open and close a whole run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from initaudit.records import Report, Session, Severity
from initaudit.report.figures import counted, duration, number
from initaudit.report.findings import finding_lines
from initaudit.report.glyphs import ASCII, UNICODE, Glyphs
from initaudit.report.layers import layer_lines
from initaudit.report.lines import packed, paragraph
from initaudit.report.outcome import EXIT_MEANING, exit_code, outcome

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_TOLD = 0.05  # seconds from which what building the model took is worth a word
BADGE = {"pass": ("PASS", "bold green"), "fail": ("FAIL", "bold red"), "error": ("ERROR", "bold magenta")}


def report_renderables(
    report: Report, *, width: int, verbose: int = 0, fail_on: str = "error", ascii_only: bool = False
) -> Iterator[RenderableType]:
    """The report as lines of at most ``width`` cells, save for code, which is left whole to be copied.

    ``verbose`` 1 or more shows every layer, every note and what was not judged. ``ascii_only`` is for consoles that
    cannot encode block characters (rich's ``ConsoleOptions.ascii_only``).
    """
    glyphs = ASCII if ascii_only else UNICODE
    word, style = BADGE[outcome(report, fail_on)]
    title = f"{glyphs.rule * 2} {word} {glyphs.clean(report.target)} "
    yield Text(title + glyphs.rule * (width - cell_len(title)), style, no_wrap=False, overflow="fold")
    if report.error is not None:
        yield from paragraph(f"failed at stage {report.error.stage}:", glyphs, width=width)
        yield from paragraph(report.error.message, glyphs, width=width, indent=2)
        return
    yield from _circumstances(report, glyphs, width)
    yield Text()
    yield from layer_lines(report, glyphs, width=width, verbose=verbose)
    yield from finding_lines(report, glyphs, width=width, verbose=verbose)


def render_session(
    console: Console,
    session: Session,
    *,
    verbose: int = 0,
    quiet: int = 0,
    fail_on: str = "error",
    seconds: float | None = None,
) -> None:
    """Print a whole run: every report, the counts, what the exit status means, and the closing line.

    ``quiet`` 1 leaves one line for each model, 2 or more only the closing line. ``seconds`` is the wall time of the
    run; without it, the sum of the reports' own.
    """
    ascii_only = console.options.ascii_only
    glyphs = ASCII if ascii_only else UNICODE

    def show(line: RenderableType) -> None:
        console.print(line, soft_wrap=True)

    if quiet == 1:
        for report in session.reports:
            show(_one_line(report, glyphs, fail_on))
    elif not quiet:
        for report in session.reports:
            lines = report_renderables(
                report, width=console.width, verbose=verbose, fail_on=fail_on, ascii_only=ascii_only
            )
            for line in lines:
                show(line)
            show(Text())
        show(Text(f"findings: {_severities(session.count)}"))
        code = exit_code(session.reports, fail_on)
        show(Text(f"exit status {code}: {EXIT_MEANING[code].format(fail_on=fail_on)}"))
    show(_closing(session, console.width, fail_on, seconds))


def _circumstances(report: Report, glyphs: Glyphs, width: int) -> Iterator[Text]:
    """What was run, on what, and at what cost."""
    trace = report.trace
    if trace is None:
        return
    loss = trace.loss if trace.loss_value is None else f"{trace.loss} = {number(trace.loss_value)}"
    environment = trace.environment
    seed = f"seed {environment.seed}"
    if report.seeds:
        first, last = report.seeds[0], report.seeds[-1]
        seed = f"{counted(len(report.seeds), 'draw')} with seeds {first} to {last}, layers as with seed {first}"
    where = f"{environment.device} {environment.dtype}, {seed}, torch {environment.torch}"
    if environment.ranks > 1:
        where += f", merged over {environment.ranks} ranks"
    cost = f"audit {duration(report.seconds)}"
    if trace.model_seconds > 0:
        cost += f", of which the model's own passes {duration(trace.model_seconds)}"
    if trace.build_seconds >= _TOLD:
        cost += f" and building it {duration(trace.build_seconds)}"
    facts = (f"inputs {trace.inputs}, {trace.inputs_source}", f"loss: {loss}", where, cost)
    for line in packed(facts, glyphs, width):
        yield from paragraph(line, glyphs, width=width, style="dim")


def _one_line(report: Report, glyphs: Glyphs, fail_on: str) -> Text:
    word, style = BADGE[outcome(report, fail_on)]
    if report.error is not None:
        detail = f"{report.error.stage}: {report.error.message.strip().partition(chr(10))[0]}"
    else:
        detail = _severities(lambda severity: sum(f.severity is severity for f in report.findings))
        worst = report.findings[0] if report.findings else None
        if worst is not None and worst.severity is not Severity.NOTE:
            detail += f"; {worst.code} {worst.name} at {worst.fqn or 'the whole model'}"
    return Text.assemble((f"{word:<5}", style), f" {glyphs.clean(report.target)}  ", (glyphs.clean(detail), "dim"))


def _severities(count: Callable[[Severity], int]) -> str:
    """``2 errors, 1 warning``, or ``none``."""
    found = [counted(count(severity), severity.value) for severity in Severity if count(severity)]
    return ", ".join(found) or "none"


def _closing(session: Session, width: int, fail_on: str, seconds: float | None) -> Text:
    """The last line, as pytest has it: ``==== 1 failed, 2 passed, 1 error in 3.2 s ====``."""
    outcomes = [outcome(report, fail_on) for report in session.reports]
    failed, passed, errors = map(outcomes.count, ("fail", "pass", "error"))
    texts = {f"{failed} failed": failed, f"{passed} passed": passed, counted(errors, "error"): errors}
    parts = ", ".join(text for text, count in texts.items() if count) or "nothing collected"
    spent = sum(report.seconds for report in session.reports) if seconds is None else seconds
    text = f" {parts} in {duration(spent)} "
    style = "bold red" if failed or errors else "bold green" if passed else "bold yellow"
    return Text(text.center(width, "="), style, no_wrap=True, overflow="ignore")
