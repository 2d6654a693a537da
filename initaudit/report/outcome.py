"""What a report comes to under ``--fail-on``, and the exit status of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from initaudit.choices import NEVER, check_fail_on
from initaudit.records import Finding, Report, Severity

EXIT_MEANING = {
    0: "nothing at or above --fail-on {fail_on}",
    1: "findings at or above --fail-on {fail_on}",
    2: "a model could not be loaded or run",
    5: "no model was collected",
}


def failing(findings: Iterable[Finding], fail_on: str = "error") -> tuple[Finding, ...]:
    """The findings of severity ``fail_on`` or worse; none for ``"never"``.

    Raises:
        UsageError: ``fail_on`` is none of error, warning, note, never.
    """
    check_fail_on(fail_on)
    if fail_on == NEVER:
        return ()
    return tuple(f for f in findings if f.severity.rank <= Severity(fail_on).rank)


def outcome(report: Report, fail_on: str = "error") -> str:
    """``"error"``, ``"fail"`` or ``"pass"``: the verdict, with ``fail_on`` in place of severity error."""
    if report.error is not None:
        return "error"
    return "fail" if failing(report.findings, fail_on) else "pass"


def exit_code(reports: Sequence[Report], fail_on: str = "error") -> int:
    """0 nothing to fail on, 1 findings, 2 a model that could not be loaded or run, 5 no model at all."""
    outcomes = {outcome(report, fail_on) for report in reports}
    if not outcomes:
        return 5
    return 2 if "error" in outcomes else int("fail" in outcomes)
