from types import ModuleType

from initaudit.records import Report, Severity
from initaudit.report.findings import finding_lines
from initaudit.report.glyphs import UNICODE


def lines(report: Report, width: int = 80, verbose: int = 0) -> list[str]:
    return [line.plain for line in finding_lines(report, UNICODE, width=width, verbose=verbose)]


def test_a_finding_has_place_figure_cure_and_reason(make: ModuleType) -> None:
    affected = ("body.2", "body.4", "body.6", "body.8", "body.10")
    report = make.report(make.layer("body.0"), findings=(make.finding(affected=affected, advice=make.kaiming()),))
    assert lines(report, width=100) == [
        "",
        "error IA101 vanishing-activations at body.0",
        "  The signal shrinks by 0.41 per layer from here on.",
        "  1.2e-09 times the first layer's rms, limit 1.0e-04 · affects body.2, body.4, body.6 and 2 more",
        "  cure: kaiming_normal_ with gain 1.41: std 0.0884, found 0.0361",
        '    nn.init.kaiming_normal_(m.body[0].weight, nonlinearity="relu")',
        "  why: A ReLU halves the second moment, so the weights need variance 2/fan_in = 2/256 to keep it.",
    ]


def test_a_finding_without_figure_or_cure(make: ModuleType) -> None:
    bare = make.finding(fqn="", observed=None, message="The output is constant.")
    assert lines(make.report(findings=(bare,))) == [
        "",
        "error IA101 vanishing-activations at the whole model",
        "  The output is constant.",
    ]


def test_what_follows_stands_below_its_root_cause(make: ModuleType) -> None:
    first = make.finding("IA101", "a", affected=("b",))
    second = make.finding("IA201", "x", affected=("y",))
    follower = make.finding("IA103", "y", Severity.WARNING, root_cause=False, message="Half are dead.")
    orphan = make.finding("IA104", "z", Severity.WARNING, root_cause=False)
    shown = lines(make.report(findings=(first, second, follower, orphan)))
    place = shown.index("    ↳ warning IA103 vanishing-activations at y: Half are dead.")
    assert shown.index("error IA201 vanishing-activations at x") < place
    assert place < shown.index("warning IA104 vanishing-activations at z")


def test_many_of_one_code_are_counted_unless_verbose(make: ModuleType) -> None:
    findings = tuple(make.finding("IA301", f"h.{i}", Severity.WARNING) for i in range(12))
    report = make.report(findings=findings)
    brief, full = lines(report), lines(report, verbose=1)
    assert sum(line.startswith("warning IA301") for line in brief) == 5
    assert brief[-1] == "7 more IA301 vanishing-activations at h.5, h.6, h.7 and 4 more (-v shows all)"
    assert sum(line.startswith("warning IA301") for line in full) == 12


def test_notes_are_counted_by_code(make: ModuleType) -> None:
    notes = [make.finding("IA305", f"h.{i}", Severity.NOTE, name="zero-init") for i in range(8)]
    notes.append(make.finding("IA501", "x", Severity.NOTE, name="torch-default"))
    assert lines(make.report(findings=tuple(notes))) == [
        "",
        "9 notes: IA305 zero-init ×8, IA501 torch-default (-v shows them)",
    ]


def test_a_healthy_report_has_nothing_to_say(make: ModuleType) -> None:
    assert lines(make.report(make.layer("body"))) == []


def test_long_messages_wrap_and_keep_their_indent(make: ModuleType) -> None:
    shown = lines(make.report(findings=(make.finding(message="word " * 40 + "\nsecond line"),)), width=60)
    body = shown[2 : shown.index("  second line")]
    assert len(body) == 4
    assert all(line.startswith("  word") and len(line) <= 60 for line in body)


def test_uncalled_modules_are_always_told(make: ModuleType) -> None:
    assert lines(make.report(uncalled=("a", "b"))) == ["", "never called: a and b"]
