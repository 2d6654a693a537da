"""Each shipped example gets the verdict that its docstring promises."""

import ast
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import rich

import initaudit
from initaudit import Report

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

# The models of each example and the verdict of each audit.
VERDICTS = {
    "deep_relu_mlp.py": {"DeepReLU": "fail"},
    "deep_relu_mlp_he.py": {"DeepReLU": "pass"},
    "lecture.py": {"build_standard": "pass", "build_xavier": "pass"},
    "cnn.py": {"SmallResNet": "pass"},
    "transformer.py": {"SmallGPT": "pass"},
    "lstm.py": {"LanguageModel": "pass"},
    "custom_gelu.py": {"GELUNet": "pass"},
}


def run_as_script(name: str, monkeypatch: pytest.MonkeyPatch) -> list[Report]:
    """The reports that ``python examples/NAME`` prints."""
    reports: list[Report] = []
    monkeypatch.setattr(rich, "print", reports.append)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return reports


@pytest.mark.parametrize("name", VERDICTS)
def test_an_example_run_as_a_script_prints_the_report_that_its_docstring_promises(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = run_as_script(name, monkeypatch)
    told = [(f.code, f.severity.value, f.fqn, f.message) for report in reports for f in report.findings]
    assert {report.target: report.verdict for report in reports} == VERDICTS[name], told
    opening = (ast.get_docstring(ast.parse((EXAMPLES / name).read_text(encoding="utf-8"))) or "").splitlines()[0]
    assert ("the audit fails" if "fail" in VERDICTS[name].values() else "pass") in opening


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == VERDICTS.keys()


def test_the_deep_relu_network_names_its_first_layer_and_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    (report,) = run_as_script("deep_relu_mlp.py", monkeypatch)
    worst = report.findings[0]
    assert worst.fqn == "body.0"
    assert worst.root_cause
    assert worst.advice is not None
    assert worst.advice.code == 'nn.init.kaiming_normal_(m.body[0].weight, nonlinearity="relu")'


def test_the_networks_of_the_lecture_have_the_published_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    # Glorot and Bengio (2010), a thousand units per layer: the activations shrink under the standard initialization.
    standard, xavier = (
        [layer.calls[0].activation.std for layer in report.layers[:5]]
        for report in run_as_script("lecture.py", monkeypatch)
    )
    assert standard == pytest.approx([0.460, 0.250, 0.141, 0.081, 0.047], rel=0.05)
    assert xavier == pytest.approx([0.630, 0.487, 0.409, 0.359, 0.322], rel=0.05)


def test_the_command_takes_input_and_loss_from_the_file() -> None:
    command = [sys.executable, "-m", "initaudit", "examples", "-k", "SmallGPT or GELUNet", "--format", "json"]
    run = subprocess.run(command, cwd=EXAMPLES.parent, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    gelu, transformer = json.loads(run.stdout)["audits"]
    assert (transformer["target"], transformer["inputs"]) == ("examples/transformer.py::SmallGPT", "int64[8,64]")
    assert (gelu["target"], gelu["inputs"]) == ("examples/custom_gelu.py::GELUNet", "float32[32,64]")


def test_the_hand_written_gelu_is_seen_as_one_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    (report,) = run_as_script("custom_gelu.py", monkeypatch)
    gains = [layer.nonlinearity.gain for layer in report.layers[:6] if layer.nonlinearity]
    assert gains == pytest.approx([initaudit.gain("gelu(tanh)")] * 6, rel=1e-6)
