"""The default command with a stand-in for the worker: options, exit codes, what goes to which stream."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import initaudit.cli.session as session
from initaudit.cli import main
from initaudit.errors import AuditError, UsageError
from initaudit.records import Environment, Finding, Severity, Trace
from initaudit.runner import Collection, InternalError, ProbeOptions

Invoke = Callable[..., Result]

TRACEBACK = "Traceback (most recent call last):\n  File ...\nKeyError: 'fan_in'\n"


class FakeRunner:
    """Targets are files whose models are named after what becomes of them; the name before a dot is free."""

    seen: list[Any]

    def __init__(
        self, target: str, options: ProbeOptions, *, timeout: float | None, workers: int, worker: object
    ) -> None:
        self.target = target
        self.seen += [("target", target, options, timeout)]
        self._printed = ""

    def __exit__(self, *error: object) -> None:
        self.seen.append(("closed", self.target))

    def collect(self) -> Collection:
        content = Path(self.target).read_text().split()
        if "unloadable" in content:
            self._printed = "half loaded\n"
            raise AuditError("load", f"could not import {self.target}: SyntaxError")
        if not content:
            return Collection((), f"no model to audit in {self.target}")
        ids = tuple(f"{self.target}::{name}" for name in content)
        return Collection(ids, instances=frozenset(i for i in ids if "::instance" in i))

    def probe(self, model: str, on_stage: Callable[[str], None], *, seed: int, compare: bool) -> Trace:
        self.seen.append(model)
        self.seen.append(("draw", seed, compare))
        on_stage("forward")
        self._printed = f"{model} says hello\n"
        match model.rpartition("::")[2].partition(".")[0]:
            case "raising":
                raise AuditError("forward", "RuntimeError: shapes do not fit")
            case "misused":
                raise UsageError("input '3xx5' is malformed")
            case "buggy":
                raise InternalError("backward", TRACEBACK)
            case "interrupted":
                raise KeyboardInterrupt
        return Trace(
            model, Environment("2.9", "cpu", "float32", seed), "float32[2,4]", "--input", "none", True, (), (), ()
        )

    def printed(self) -> str:
        text, self._printed = self._printed, ""
        return text


def fake_diagnose(trace: Trace, *, select: Sequence[str], ignore: Sequence[str]) -> tuple[Finding, ...]:
    FakeRunner.seen.append(("diagnose", select, ignore))
    name = trace.target.rpartition("::")[2].partition(".")[0]
    if name == "undiagnosable":
        raise ZeroDivisionError("division by zero")
    if name == "unlucky" and trace.environment.seed == 2:
        name = "error"
    if name in ("error", "warning", "note"):
        return (Finding("IA101", "vanishing-activations", Severity(name), "body.0", "the signal is gone"),)
    return ()


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run the command on a file ``m.py`` that holds the models named; further arguments follow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INITAUDIT_TRACEBACK", raising=False)
    monkeypatch.setattr("initaudit.cli.audit.Worker", lambda workers: nullcontext())
    monkeypatch.setattr(session, "Runner", FakeRunner)
    monkeypatch.setattr(session, "diagnose", fake_diagnose)
    monkeypatch.setattr(FakeRunner, "seen", [], raising=False)

    def run(models: str, *arguments: str) -> Result:
        (tmp_path / "m.py").write_text(models)
        return CliRunner().invoke(main, ["m.py", *arguments])

    return run


def probed() -> list[str]:
    return [entry.rpartition("::")[2] for entry in FakeRunner.seen if isinstance(entry, str)]


@pytest.mark.parametrize(
    ("models", "arguments", "code"),
    [
        ("fine", [], 0),
        ("fine error", [], 1),
        ("warning note", [], 0),
        ("warning", ["--fail-on", "warning"], 1),
        ("note", ["--fail-on", "warning"], 0),
        ("note", ["--fail-on", "note"], 1),
        ("error", ["--fail-on", "never"], 0),
        ("raising", ["--fail-on", "never"], 2),
        ("unloadable", [], 2),
        ("error raising", [], 2),
        ("error raising buggy", [], 3),
        ("undiagnosable raising", [], 3),
        ("misused", [], 4),
        ("error", ["--seeds", "3"], 1),
        ("unlucky", ["--seeds", "3"], 0),
        ("unlucky", ["--seeds", "3", "--fail-on", "warning"], 1),
        ("unlucky", ["--seeds", "2", "--seed", "2"], 1),
        ("unlucky", ["--seed", "2"], 1),
        ("instance fine", ["--seeds", "3"], 0),
        ("raising", ["--seeds", "3"], 2),
        ("", [], 5),
        ("fine", ["-k", "other"], 5),
        ("fine error", ["-k", "not error"], 0),
    ],
)
def test_exit_codes(invoke: Invoke, models: str, arguments: list[str], code: int) -> None:
    assert invoke(models, *arguments).exit_code == code


def test_one_bug_does_not_keep_the_others_from_being_audited(invoke: Invoke) -> None:
    result = invoke("buggy undiagnosable fine")
    assert probed() == ["buggy", "undiagnosable", "fine"]
    assert "PASS m.py::fine" in result.stdout
    assert "failed at stage backward:\n  internal error, a bug in initaudit: KeyError: 'fan_in'" in result.stdout
    assert (
        "Internal error: KeyError: 'fan_in'\n"
        "This is a bug in initaudit, not in your model or your command. Please report it with the traceback, "
        "which -v or INITAUDIT_TRACEBACK=1 in the environment shows.\n"
    ) in result.stderr
    assert "Internal error: ZeroDivisionError: division by zero\n" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("arguments", "variable"), [(["-v"], "0"), ([], "1")])
def test_the_traceback_of_a_bug_is_shown_when_asked_for(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, arguments: list[str], variable: str
) -> None:
    monkeypatch.setenv("INITAUDIT_TRACEBACK", variable)
    result = invoke("buggy", *arguments)
    assert TRACEBACK in result.stderr
    assert "Please report it with the traceback above." in result.stderr


def test_a_bug_in_the_command_itself_is_told_alike(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "Runner", None)
    result = invoke("fine")
    assert result.exit_code == 3
    assert result.stderr.startswith("Internal error: TypeError: 'NoneType' object is not callable\nThis is a bug in")


def test_interrupted(invoke: Invoke) -> None:
    result = invoke("interrupted fine")
    assert result.exit_code == 2
    assert result.stderr.strip() == "Interrupted."
    assert probed() == ["interrupted"]
    assert FakeRunner.seen[-1] == ("closed", "m.py")


@pytest.mark.parametrize(
    ("models", "arguments", "expected"),
    [
        ("fine error raising", [], ["fine", "error"]),
        ("raising fine", [], ["raising"]),
        ("warning error", ["--fail-on", "warning"], ["warning"]),
        ("warning fine", [], ["warning", "fine", "warning", "fine"]),
    ],
)
def test_exitfirst_stops_at_the_first_that_fails_of_all_targets(
    invoke: Invoke, models: str, arguments: list[str], expected: list[str]
) -> None:
    invoke(models, "-x", "m.py", *arguments)
    assert probed() == expected


def test_json_is_one_document_and_nothing_else(invoke: Invoke) -> None:
    result = invoke("fine error raising", "--format", "json", "-v")
    document = json.loads(result.stdout)
    assert [(audit["target"], audit["verdict"]) for audit in document["audits"]] == [
        ("m.py::fine", "pass"),
        ("m.py::error", "fail"),
        ("m.py::raising", "error"),
    ]
    assert document["audits"][2]["error"] == {"stage": "forward", "message": "RuntimeError: shapes do not fit"}
    assert result.stdout.startswith("{")
    assert result.stdout.endswith("}\n")


def test_json_of_nothing_collected_is_still_a_document(invoke: Invoke) -> None:
    result = invoke("", "--format", "json")
    assert json.loads(result.stdout)["audits"] == []
    assert result.stderr == "no model to audit in m.py\n"


def test_output_to_a_file(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("fine", "--output", "report.txt")
    assert result.stdout == ""
    text = (tmp_path / "report.txt").read_text(encoding="utf-8")
    assert "PASS m.py::fine" in text
    assert "\x1b" not in text


def test_output_that_cannot_be_written_is_told_before_anything_runs(invoke: Invoke) -> None:
    result = invoke("fine", "--output", "none/report.txt")
    assert result.exit_code == 4
    assert result.stderr == (
        "Error: --output none/report.txt: the directory to write it to does not exist; create it first\n"
    )
    assert FakeRunner.seen == []


def test_output_that_turns_out_unwritable(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    result = invoke("fine", "--output", "taken")
    assert result.exit_code == 4
    assert result.stderr.startswith("Error: --output taken cannot be written: ")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [([], ["raising"]), (["-v"], ["fine", "raising"]), (["-q"], [])],
)
def test_what_models_print_is_shown_on_failure_or_when_verbose(
    invoke: Invoke, arguments: list[str], shown: list[str]
) -> None:
    result = invoke("fine raising", *arguments)
    assert [name for name in ("fine", "raising") if f"m.py::{name} says hello" in result.stderr] == shown
    assert [name for name in ("fine", "raising") if f"printed by m.py::{name} ---" in result.stderr] == shown
    assert "says hello" not in result.stdout


def test_what_a_file_that_fails_to_load_printed_is_shown(invoke: Invoke) -> None:
    assert "half loaded" in invoke("unloadable").stderr


def test_collect_only_lists_and_runs_nothing(invoke: Invoke) -> None:
    result = invoke("fine error raising", "--collect-only", "-k", "not error")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "m.py::fine\nm.py::raising\n", "")
    assert probed() == []


def test_collect_only_as_json(invoke: Invoke) -> None:
    result = invoke("fine", "--collect-only", "--format", "json")
    assert json.loads(result.stdout) == {"schema_version": 1, "collected": ["m.py::fine"], "errors": []}


@pytest.mark.parametrize(
    ("models", "code", "message"),
    [
        ("unloadable", 2, "Error: m.py: could not import m.py: SyntaxError"),
        ("", 5, "no model to audit in m.py"),
    ],
)
def test_collect_only_of_nothing(invoke: Invoke, models: str, code: int, message: str) -> None:
    result = invoke(models, "--collect-only")
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == message


def test_deselected_models_are_named(invoke: Invoke) -> None:
    result = invoke("one two", "-k", "three")
    assert result.stderr == "m.py: -k matches none of the models collected: m.py::one and m.py::two\n"


def test_options_reach_the_worker_and_the_diagnosis(invoke: Invoke) -> None:
    arguments = "--input 2x4 --input mask=2x4 --loss l:f --device cuda:0 --dtype bfloat16 --seed 3 --timeout 2.5"
    invoke("fine", *arguments.split(), "--select", "IA1,IA2", "--select", "IA3", "--ignore", "dead-units")
    options = ProbeOptions(["2x4", "mask=2x4"], "l:f", "cuda:0", "bfloat16", 3)
    assert FakeRunner.seen[0] == ("target", "m.py", options, 2.5)
    assert ("diagnose", ("IA1,IA2", "IA3"), ("dead-units",)) in FakeRunner.seen


def draws() -> list[tuple[int, bool]]:
    return [entry[1:] for entry in FakeRunner.seen if entry[0] == "draw"]


def test_every_draw_is_probed_and_only_the_first_compared(invoke: Invoke) -> None:
    result = invoke("unlucky", "--seeds", "3", "--seed", "1")
    assert draws() == [(1, True), (2, False), (3, False)]
    assert "the signal is gone; an error in 1 of 3 draws (seed 2): an unlucky draw" in " ".join(result.stdout.split())
    assert "3 draws with seeds 1 to 3, layers as with seed 1" in " ".join(result.stdout.split())


def test_draws_in_json(invoke: Invoke) -> None:
    (audit,) = json.loads(invoke("unlucky", "--seeds", "3", "--format", "json").stdout)["audits"]
    (finding,) = audit["findings"]
    assert (audit["seeds"], audit["verdict"], audit["environment"]["seed"]) == ([0, 1, 2], "pass", 0)
    assert (finding["severity"], finding["draws"]) == ("warning", [2])
    (audit,) = json.loads(invoke("error", "--format", "json").stdout)["audits"]
    assert (audit["seeds"], audit["findings"][0]["draws"]) == ([], [])


def test_an_instance_among_others_has_one_draw_and_says_so(invoke: Invoke) -> None:
    result = invoke("instance fine", "--seeds", "2", "-v")
    assert draws() == [(0, True), (0, True), (1, False)]
    said = " ".join(result.stdout.split())
    assert said.count("not judged: 1 part the whole model: it is built already, so there is one draw of it") == 1


def test_an_instance_that_was_asked_for_by_name_has_no_seeds(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeRunner, "collect", lambda self: Collection((self.target,), "", frozenset({self.target})))
    result = invoke("", "--seeds", "2")
    assert result.exit_code == 4
    assert result.stderr == (
        "Error: --seeds 2: m.py is built already, so there is one draw of it; "
        "name a class or a function that builds it anew\n"
    )
    assert invoke("").exit_code == 0


def test_a_draw_that_fails_is_named(invoke: Invoke) -> None:
    result = invoke("raising", "--seeds", "2", "--seed", "7")
    assert "with seed 7: RuntimeError: shapes do not fit" in result.stdout
    assert "with seed" not in invoke("raising").stdout


def test_defaults(invoke: Invoke) -> None:
    invoke("fine")
    assert FakeRunner.seen[0] == ("target", "m.py", ProbeOptions(None, None, "auto", None, 0), None)


def test_settings_of_the_project_hold_unless_the_command_line_says_otherwise(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.initaudit]\nfail-on = 'warning'\nseed = 5\ninput = '2x4'")
    assert invoke("warning", "--seed", "0").exit_code == 1
    assert FakeRunner.seen[0][2] == ProbeOptions(["2x4"], None, "auto", None, 0)
    assert invoke("warning", "--fail-on", "error").exit_code == 0


def test_targets_of_the_project(invoke: Invoke, tmp_path: Path) -> None:
    invoke("fine")
    (tmp_path / "initaudit.toml").write_text("targets = ['m.py']")
    result = CliRunner().invoke(main, ["--config", "initaudit.toml", "-q"])
    assert result.exit_code == 0
    assert result.stdout.startswith("PASS  m.py::fine")


def test_a_target_named_like_a_command_is_reached_by_its_path(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "rule").write_text("fine")
    result = CliRunner().invoke(main, ["./rule", "-q"])
    assert result.stdout.startswith("PASS  ./rule::fine")
    (tmp_path / "audit").write_text("fine")
    result = CliRunner().invoke(main, ["audit", "-q"])
    assert result.stdout.startswith("PASS  audit::fine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "gpu"], "Invalid value for '--device': 'gpu'; expected auto, cpu, cuda, cuda:N or mps"),
        (
            ["--dtype", "float8"],
            "Invalid value for '--dtype': 'float8' is not one of 'float32', 'bfloat16', 'float16', 'float64'.",
        ),
        (["--seed", "x"], "Invalid value for '--seed': 'x' is not a valid integer"),
        (["--seeds", "0"], "Invalid value for '--seeds': 0 is not in the range x>=1"),
        (["--timeout", "0"], "Invalid value for '--timeout': 0.0 is not in the range x>0"),
        (["--format", "xml"], "Invalid value for '--format': 'xml' is not one of 'table', 'json'."),
        (["--sede", "1"], "No such option '--sede'"),
        (["-k", "a b"], "-k 'a b': 'b' is out of place"),
        (["--select", "IA1,XX1"], "unknown rule 'XX1'"),
        (["--ignore", "dead-unit"], "unknown rule 'dead-unit': did you mean dead-units"),
        (["--config", "none.toml"], "cannot read the configuration file none.toml: No such file or directory"),
    ],
)
def test_usage_errors_are_one_message_and_exit_code_4(invoke: Invoke, arguments: list[str], message: str) -> None:
    result = invoke("fine", *arguments)
    assert result.exit_code == 4
    assert result.stdout == ""
    assert result.stderr.startswith(f"Error: {message}")
    assert "Traceback" not in result.stderr
    assert FakeRunner.seen == []


def test_malformed_settings_name_the_file(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.initaudit]\nfail-on = 'fatal'")
    result = invoke("fine")
    assert result.exit_code == 4
    assert result.stderr == (
        f"Error: {tmp_path / 'pyproject.toml'}: fail-on = 'fatal', expected one of error, warning, note, never\n"
    )


def test_without_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 4
    assert result.stderr == (
        "Error: no TARGET: name a file, a folder or package.module:attr, or set targets in [tool.initaudit]\n"
    )


class FakeTerminal:
    """Enough of a terminal for the line that follows the run."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


@pytest.mark.parametrize(("quiet", "expected"), [(0, True), (1, False)])
def test_progress_names_model_and_stage_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, quiet: int, expected: bool
) -> None:
    from initaudit.cli.progress import Progress

    terminal = FakeTerminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Progress(no_color=True, quiet=quiet) as progress:
        progress.show("[2/5] model.py::Net: backward")
    assert ("[2/5] model.py::Net: backward" in terminal.text) is expected


def test_no_progress_where_there_is_no_terminal(invoke: Invoke) -> None:
    assert invoke("fine").stderr == ""


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize("arguments", [[], ["--format", "json"], ["--collect-only"]])
def test_a_reader_that_has_gone_changes_nothing_about_the_exit_code(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    expected = invoke("error", *arguments).exit_code
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main.main(["m.py", *arguments], standalone_mode=False) == expected
    assert capsys.readouterr().err == ""
