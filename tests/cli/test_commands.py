"""Help, version, ``rule`` and ``gain``; and what none of them may import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import initaudit
from initaudit.cli import main
from initaudit.rules import RULES


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="initaudit")


def run_python(code: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_help_is_a_page_of_sections() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "Usage: initaudit TARGET... [OPTIONS]"
    assert [line for line in lines if line.endswith(":") and not line.startswith(" ")] == [
        "TARGET is one of:",
        "Which models:",
        "How to run the models:",
        "What to report:",
        "Output:",
        "Other:",
        "Commands:",
        "Examples:",
        "Exit codes:",
    ]
    assert max(map(len, lines)) <= 100


def test_help_names_every_option() -> None:
    text = invoke("--help").stdout
    options = (
        "--input --loss --device --dtype --seed --format --output --verbose --quiet --no-color --select --ignore "
        "--fail-on --collect-only -k -x --timeout --config --version --help"
    )
    assert [option for option in options.split() if f"{option} " not in text and f"{option}\n" not in text] == []


@pytest.mark.parametrize("command", ["rule", "gain"])
def test_help_of_a_command_has_examples(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"Usage: initaudit {command} [OPTIONS]" in result.stdout
    assert f"\n    initaudit {command} " in result.stdout


def test_version() -> None:
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"initaudit {initaudit.__version__}\n")


def test_the_rules_are_listed_with_what_they_find() -> None:
    result = invoke("rule")
    assert result.exit_code == 0
    assert [rule.code for rule in RULES if rule.code not in result.stdout or rule.name not in result.stdout] == []


def test_a_rule_is_found_by_code_and_by_name() -> None:
    rule = RULES[0]
    page = invoke("rule", rule.code)
    assert page.exit_code == 0
    assert page.stdout.startswith("# ")
    assert rule.name in page.stdout
    assert invoke("rule", rule.name).stdout == page.stdout


def test_an_unknown_rule() -> None:
    result = invoke("rule", "IA999")
    assert result.exit_code == 4
    assert "IA999" in result.stderr
    assert result.stderr.startswith("Error: ")


def test_the_gain_of_one_activation() -> None:
    result = invoke("gain", "relu")
    assert result.exit_code == 0
    assert "1.41421" in result.stdout


def test_the_gain_of_a_function_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "acts_of_mine.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    result = invoke("gain", "acts_of_mine:double")
    assert result.exit_code == 0
    assert "0.5" in result.stdout


def test_an_unknown_activation() -> None:
    result = invoke("gain", "gelly")
    assert result.exit_code == 4
    assert result.stderr.startswith("Error: ")
    assert "'gelu'" in result.stderr


def test_the_table_of_gains_has_the_activations_of_torch() -> None:
    result = invoke("gain")
    assert result.exit_code == 0
    assert [
        name for name in ("relu", "tanh", "gelu", "silu", "selu", "swiglu") if f" {name} " not in result.stdout
    ] == []


HEAVY = """
import json, sys
import initaudit
found = {"import": [name for name in ("torch", "numpy", "rich", "click") if name in sys.modules]}
initaudit.Severity, initaudit.UsageError, initaudit.__version__, dir(initaudit)
from initaudit.cli import main
import contextlib, io
for arguments in (["--help"], ["--version"], ["nothing.py", "--config", "none"], ["rule"], ["rule", sys.argv[1]]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    found[arguments[0]] = [code, "torch" in sys.modules, "numpy" in sys.modules]
print(json.dumps(found))
"""


def test_nothing_heavy_is_imported_to_say_what_needs_no_model() -> None:
    assert json.loads(run_python(HEAVY, RULES[0].code)) == {
        "import": [],
        "--help": [0, False, False],
        "--version": [0, False, False],
        "nothing.py": [4, False, False],
        "rule": [0, False, True],
    }


def test_public_names() -> None:
    assert set(initaudit.__all__) <= set(dir(initaudit))
    assert [name for name in initaudit.__all__ if getattr(initaudit, name, None) is None] == []
    with pytest.raises(AttributeError, match="module 'initaudit' has no attribute 'audti'"):
        initaudit.audti  # noqa: B018


def test_python_m_initaudit_is_the_command() -> None:
    code = "import runpy, sys; sys.argv = ['x', '--version']; runpy.run_module('initaudit', run_name='__main__')"
    assert run_python(code) == f"initaudit {initaudit.__version__}\n"
