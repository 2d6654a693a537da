"""A cure as text and as JSON, from records made by hand."""

from __future__ import annotations

import json
import math

from initaudit.records import Cure, Failure, Finding, Report, Severity, Vitals
from initaudit.report.fix import cure_exit_code, cure_lines, cure_outcome, render_cures_json

ERROR = Finding("IA101", "vanishing-activations", Severity.ERROR, "net.0", "it shrinks")
WARNING = Finding("IA503", "unlike-its-equals", Severity.WARNING, "net.1", "it differs")
SICK = Report("m.py::Net", (ERROR, WARNING), severity_score=33.0)
CODE = "def init_weights(model):\n    pass\n"
BEFORE = (Vitals(0, 0.05, 0.6, 2e-8), Vitals(1, 0.06, 0.7, 3e-8))
AFTER = (Vitals(0, 0.9, 1.4, 0.3), Vitals(1, 0.9, 1.5, None))


def cured(*left: Finding, remarks: tuple[str, ...] = ()) -> Cure:
    after = Report("m.py::Net", left, severity_score=0.5)
    return Cure(SICK, after, CODE, ("a.weight", "b.weight"), 3, False, BEFORE, AFTER, remarks)


def text(cure: Cure, **options: object) -> list[str]:
    return [line.plain for line in cure_lines(cure, width=80, **options)]  # type: ignore[arg-type]


def test_before_and_after_stand_side_by_side_above_the_code() -> None:
    lines = text(cured())
    assert lines[0].startswith("── FIXED m.py::Net ─")
    assert lines[2:11] == [
        "                                     before (2 draws)          after (2 draws)",
        "verdict                              fail                      pass",
        "findings                             1 error, 1 warning        none above a note",
        "severity score                       33                        0.5",
        "smallest rms of a pre-activation     0.05 to 0.06              0.9",
        "largest rms of a pre-activation      0.6 to 0.7                1.4 to 1.5",
        "gradient rms, first over last layer  2.0e-08 to 3.0e-08        0.3",
        "",
        "sets 2 of 3 parameters; call init_weights(model) after building the model:",
    ]
    assert lines[12:] == CODE.splitlines()


def test_what_stays_open_is_told_last() -> None:
    lines = text(cured(WARNING, remarks=("IA503 at net.1: because",)))
    assert lines[-2:] == ["stays open:", "  IA503 at net.1: because"]
    nothing = text(Cure(SICK, parameters=3, vitals_before=BEFORE, remarks=("why",)))
    assert nothing[0].startswith("── OPEN ")
    assert nothing[-2:] == ["stays open, for no initialization that was tried is better:", "  why"]


def test_outcomes_and_exit_codes() -> None:
    healthy = Cure(Report("x"))
    broken = Cure(Report("x", error=Failure("load", "no such file")))
    cases = [
        (healthy, "nothing to fix", 0), (cured(), "fixed", 0), (cured(ERROR), "better", 1),
        (Cure(SICK), "open", 1), (broken, "error", 2),
    ]  # fmt: skip
    for cure, outcome, code in cases:
        assert (cure_outcome(cure), cure_exit_code([cure])) == (outcome, code)
    assert (cure_outcome(cured(WARNING)), cure_outcome(cured(WARNING), "warning")) == ("fixed", "better")
    assert cure_exit_code([cured(WARNING)], "warning") == 1
    assert cure_exit_code([Cure(SICK)], "never") == 0
    assert cure_exit_code([]) == 5
    assert cure_exit_code([healthy, broken, Cure(SICK)]) == 2


def test_an_error_is_told_with_its_stage() -> None:
    assert text(Cure(Report("x", error=Failure("load", "no such file"))))[1:] == [
        "failed at stage load:",
        "  no such file",
    ]


def test_ascii_consoles() -> None:
    assert text(cured(), ascii_only=True)[0].startswith("-- FIXED m.py::Net -")


def test_json_has_no_literals_that_are_none() -> None:
    odd = Cure(SICK, vitals_before=(Vitals(0, 0.0, math.inf, None),), remarks=("why",))
    document = json.loads(render_cures_json([odd, cured()]))
    first, second = document["cures"]
    assert first["vitals"]["before"] == [{"seed": 0, "smallest": 0.0, "largest": "inf", "gradient_ratio": None}]
    assert (first["outcome"], first["code"], first["after"], first["open"]) == ("open", None, None, ["why"])
    assert (second["outcome"], second["changed"]) == ("fixed", ["a.weight", "b.weight"])
    assert second["after"]["verdict"] == "pass"
