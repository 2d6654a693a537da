from types import ModuleType

import pytest

from initaudit.errors import UsageError
from initaudit.records import Severity
from initaudit.report.outcome import EXIT_MEANING, exit_code, failing, outcome


@pytest.mark.parametrize(
    ("fail_on", "severities"),
    [
        ("error", [Severity.ERROR]),
        ("warning", [Severity.ERROR, Severity.WARNING]),
        ("note", [Severity.ERROR, Severity.WARNING, Severity.NOTE]),
        ("never", []),
    ],
)
def test_failing(make: ModuleType, fail_on: str, severities: list[Severity]) -> None:
    findings = [make.finding(severity=severity) for severity in Severity]
    assert [finding.severity for finding in failing(findings, fail_on)] == severities


def test_an_unknown_level_says_what_was_expected() -> None:
    with pytest.raises(UsageError, match="fail_on is 'warn', expected one of error, warning, note, never"):
        failing([], "warn")


def test_outcome_and_exit_code(make: ModuleType) -> None:
    warned = make.report(findings=(make.finding(severity=Severity.WARNING),))
    assert outcome(warned) == "pass"
    assert outcome(warned, "warning") == "fail"
    assert outcome(make.failed(), "never") == "error"
    assert [exit_code([warned], level) for level in ("error", "warning", "never")] == [0, 1, 0]
    assert exit_code([warned, make.failed()], "warning") == 2
    assert exit_code([]) == 5
    assert set(EXIT_MEANING) == {0, 1, 2, 5}
