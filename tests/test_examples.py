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

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

# Model factory of each example, and the verdict of its audit.
VERDICTS = {
    "deep_relu_mlp.py::DeepReLU": "fail",
    "deep_relu_mlp_he.py::DeepReLU": "pass",
    "lecture.py::build_standard": "pass",
    "lecture.py::build_xavier": "pass",
    "cnn.py::SmallResNet": "pass",
    "transformer.py::SmallGPT": "pass",
    "lstm.py::LanguageModel": "pass",
    "custom_gelu.py::GELUNet": "pass",
}


def audit(example: str) -> initaudit.Report:
    """Audit one factory in place, with what its file says to feed it."""
    file, name = example.split("::")
    namespace = runpy.run_path(str(EXAMPLES / file))
    inputs = namespace.get("initaudit_inputs")
    if isinstance(inputs, dict):
        inputs = inputs[name]
    elif callable(inputs):
        inputs = inputs()
    return initaudit.audit(namespace[name], inputs, loss=namespace.get("initaudit_loss"))


@pytest.mark.parametrize(("example", "verdict"), VERDICTS.items())
def test_verdict(example: str, verdict: str) -> None:
    report = audit(example)
    assert report.verdict == verdict, [(f.code, f.severity.value, f.fqn, f.message) for f in report.findings]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_the_docstring_opens_with_the_verdict(path: Path) -> None:
    opening = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]
    verdicts = {verdict for example, verdict in VERDICTS.items() if example.startswith(path.name)}
    words = {"fail": "the audit fails", "pass": "pass"}
    assert verdicts, f"{path.name} is not audited here"
    assert all(words[verdict] in opening for verdict in verdicts), opening


def test_the_deep_relu_network_names_its_first_layer_and_the_cure() -> None:
    worst = audit("deep_relu_mlp.py::DeepReLU").findings[0]
    assert worst.fqn == "body.0"
    assert worst.advice is not None
    assert worst.advice.code == 'nn.init.kaiming_normal_(m.body[0].weight, nonlinearity="relu")'


def test_standard_and_xavier_differ_in_the_lecture_as_published() -> None:
    # Glorot and Bengio (2010): activations shrink under the standard initialization and hold under theirs.
    def last_activation(example: str) -> float:
        stats = audit(example).layers[4].calls[0].activation
        assert stats is not None
        return stats.rms

    assert last_activation("lecture.py::build_standard") == pytest.approx(0.047, rel=0.05)
    assert last_activation("lecture.py::build_xavier") == pytest.approx(0.322, rel=0.05)


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments], cwd=EXAMPLES.parent, capture_output=True, text=True, check=False
    )


def test_the_command_audits_all_examples_of_a_folder() -> None:
    result = run("-m", "initaudit", "examples", "--format", "json")
    audits = json.loads(result.stdout)["audits"]
    verdicts = {f"{Path(a['target'].split('::')[0]).name}::{a['target'].split('::')[1]}": a["verdict"] for a in audits}
    assert verdicts == VERDICTS
    assert result.returncode == 1


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_runs_as_a_script(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr(rich, "print", shown.append)
    runpy.run_path(str(path), run_name="__main__")
    assert shown
    assert all(isinstance(report, initaudit.Report) for report in shown)
