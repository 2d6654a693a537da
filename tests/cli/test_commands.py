"""Help, version, ``rule`` and ``gain``; and what none of them may import."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import initaudit
from initaudit.cli import main
from initaudit.rules import RULES


def invoke(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="initaudit", env=env)


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
    result = invoke("rule", env={"COLUMNS": "500"})
    assert result.exit_code == 0
    titles, *rows = (re.split(r"  +", line) for line in result.stdout.splitlines())
    assert titles == ["code", "name", "severity", "what it finds"]
    assert rows == [
        [
            rule.code,
            rule.name,
            rule.severity.value,
            (sys.modules[rule.check.__module__].__doc__ or "").partition("\n")[0],
        ]
        for rule in sorted(RULES, key=lambda rule: rule.code)
    ]


def test_the_list_of_rules_wraps_its_last_column() -> None:
    lines = invoke("rule", env={"COLUMNS": "80"}).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(" " * 30) for line in lines)


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
import contextlib, io, json, sys
import initaudit
found = [[name for name in ("click", "dataclasses", "importlib.metadata") if name in sys.modules]]
initaudit.__version__, dir(initaudit)
from initaudit.cli import main
heavy = "torch numpy rich.console initaudit.records initaudit.rules initaudit.settings importlib.metadata".split()
lines = (["--help"], ["--version"], ["rule"], ["rule", "--help"], ["rule", sys.argv[1]], ["x.py", "--config", "none"])
for arguments in lines:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as end:
            found.append([end.code, *(name for name in heavy if name in sys.modules)])
print(json.dumps(found))
"""


def test_nothing_heavy_is_imported_to_say_what_needs_no_model() -> None:
    rules = ["initaudit.records", "initaudit.rules"]
    assert json.loads(run_python(HEAVY, RULES[0].code)) == [
        [], [0], [0], [0], [0], [0, *rules], [4, *rules, "initaudit.settings"],
    ]  # fmt: skip


def test_public_names() -> None:
    assert set(initaudit.__all__) <= set(dir(initaudit))
    assert [name for name in initaudit.__all__ if getattr(initaudit, name, None) is None] == []
    with pytest.raises(AttributeError, match="module 'initaudit' has no attribute 'audti'"):
        initaudit.audti  # noqa: B018


def test_python_m_initaudit_is_the_command() -> None:
    code = "import runpy, sys; sys.argv = ['x', '--version']; runpy.run_module('initaudit', run_name='__main__')"
    assert run_python(code) == f"initaudit {initaudit.__version__}\n"
