"""``--figure`` of the three commands, on real models of a few units."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from initaudit.cli import main

pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib, of the extra `figures`")

MODELS = """
from torch import nn

def stack(initialize):
    layers = []
    for _ in range(12):
        linear = nn.Linear(64, 64)
        initialize(linear)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers)

def build_default() -> nn.Module:
    return stack(lambda linear: None)

def build_he() -> nn.Module:
    return stack(lambda linear: nn.init.kaiming_normal_(linear.weight, nonlinearity="relu"))
"""


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    """Run the command in a folder that holds ``m.py``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.py").write_text(MODELS)

    class Invoke:
        def __new__(cls, *arguments: str) -> Result:  # type: ignore[misc]
            return CliRunner().invoke(main, list(arguments))

    return Invoke


def is_svg(path: str) -> bool:
    return Path(path).read_text(encoding="utf-8").rstrip().endswith("</svg>")


def test_a_figure_is_written_and_the_json_is_what_it_is_without(invoke: type) -> None:
    plain = invoke("m.py", "--format", "json")
    drawn = invoke("m.py", "--format", "json", "--figure", "m.svg")
    assert is_svg("m.svg")
    assert (plain.exit_code, drawn.exit_code) == (1, 1)
    without_time = [
        [{k: v for k, v in audit.items() if "seconds" not in k} for audit in json.loads(result.stdout)["audits"]]
        for result in (plain, drawn)
    ]
    assert len(without_time[0]) == 2
    assert without_time[0] == without_time[1]
    assert drawn.stderr == plain.stderr == ""


def test_fix_draws_before_and_after(invoke: type) -> None:
    result = invoke("fix", "m.py::build_default", "--figure", "fix.png")
    assert result.exit_code == 0, result.output
    assert Path("fix.png").read_bytes().startswith(b"\x89PNG")


def test_gain_draws_one_activation(invoke: type) -> None:
    result = invoke("gain", "elu", "--figure", "elu.svg")
    assert result.exit_code == 0, result.output
    assert is_svg("elu.svg")
    assert "forward gain" in result.stdout
    result = invoke("gain", "--figure", "all.svg")
    assert result.exit_code == 4
    assert "--figure all.svg needs an ACTIVATION" in result.stderr


@pytest.mark.parametrize("command", [["m.py"], ["fix", "m.py"], ["gain", "elu"]], ids=" ".join)
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("m.gif", "--figure m.gif: the ending says what to write; expected one of .svg, .png, .pdf"),
        ("no/m.svg", "--figure no/m.svg: the directory to write it to does not exist; create it first"),
    ],
)
def test_a_path_that_makes_no_sense_is_told_at_once(invoke: type, command: list[str], path: str, message: str) -> None:
    result = invoke(*command, "--figure", path)
    assert result.exit_code == 4
    assert result.stderr.startswith(f"Error: {message}\n")
    assert result.stdout == ""


def test_a_file_that_cannot_be_written_is_told_after_the_report(invoke: type) -> None:
    Path("folder.svg").mkdir()
    result = invoke("m.py::build_he", "-q", "--figure", "folder.svg")
    assert result.exit_code == 4
    assert result.stderr.startswith("Error: --figure folder.svg cannot be written:")
    assert result.stdout.startswith("PASS  m.py::build_he")


def test_without_matplotlib(invoke: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = invoke("m.py", "--figure", "m.svg")
    assert result.exit_code == 4
    assert "matplotlib, which is not installed: pip install 'initaudit[figures]'" in result.stderr
    assert result.stdout == ""


def test_where_nothing_ran_there_is_no_figure_and_the_exit_code_stays(invoke: type) -> None:
    Path("broken.py").write_text("import no_such_module\n")
    result = invoke("broken.py", "-q", "--figure", "broken.svg")
    assert result.exit_code == 2
    assert result.stderr == "broken.svg was not written: no layer was run and measured\n"
    assert not Path("broken.svg").exists()


def test_weights_only_has_nothing_to_draw(invoke: type) -> None:
    result = invoke("m.py", "--weights-only", "--figure", "m.svg")
    assert result.exit_code == 4
    assert "--weights-only runs nothing, and --figure draws what was measured" in result.stderr


def test_the_projects_settings_may_name_the_file(invoke: type) -> None:
    Path("pyproject.toml").write_text("[tool.initaudit]\nfigure = 'set.svg'\n")
    assert invoke("m.py::build_he", "-q").exit_code == 0
    assert is_svg("set.svg")
    Path("set.svg").unlink()
    assert invoke("m.py", "--collect-only").exit_code == 0
    assert not Path("set.svg").exists()
