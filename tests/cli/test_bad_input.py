"""Bad input through the whole command, all but the process border: one clear message and the right exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import initaudit.cli.session as session
from initaudit import runner, worker
from initaudit.cli import main

Invoke = Callable[..., Result]

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 4)

    def forward(self, x):
        return self.body(x)

class Needy(Net):
    def __init__(self, width):
        super().__init__()

class Raising(Net):
    def forward(self, x):
        raise KeyError("no such head")

class Unbuildable(Net):
    def __init__(self):
        raise ValueError("no such size")
"""


class InProcess(runner.Runner):
    """A runner whose requests are answered here and now, by the worker's own code, in the worker's own format."""

    found: worker.Found

    def _ask(self, request: dict[str, Any], on_stage: Callable[[str], None]) -> dict[str, Any]:
        self._worker = self._worker or NoProcess()  # type: ignore[assignment]
        self.found = getattr(self, "found", {})
        reply = worker.answer(request, self.found, lambda message: on_stage(message["stage"]))
        return self._check(json.loads(json.dumps(reply, allow_nan=False)), "load")


class NoProcess:
    def close(self, *, gently: bool) -> str:
        return ""

    def kill(self) -> None:  # as the run may, where its thread has not ended yet
        pass


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Invoke]:
    """Run the command in a folder with a ``model.py``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("initaudit.cli.audit.Worker", lambda workers: nullcontext())
    monkeypatch.setattr(session, "Runner", InProcess)
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    yield lambda *arguments: CliRunner().invoke(main, list(arguments))
    for name, module in list(sys.modules.items()):
        if str(vars(module).get("__file__")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("arguments", "code", "messages"),
    [
        pytest.param(
            ["modle.py"], 4, ["no such file or folder: modle.py", "did you mean model.py?"], id="missing-file"
        ),
        pytest.param(["model.py", "modle.py"], 4, ["no such file or folder: modle.py"], id="one-missing-file"),
        pytest.param(["model.py::Nett"], 2, ["model.py has no Nett; did you mean Net?"], id="missing-name"),
        pytest.param(["no_such_package.sub:Net"], 2, ["no_such_package"], id="missing-package"),
        pytest.param(["model.py::Needy"], 2, ["needs arguments (width)", "def build_needy()"], id="needs-arguments"),
        pytest.param(["model.py::Unbuildable"], 2, ["could not build", "ValueError", "no such size"], id="unbuildable"),
        pytest.param(["model.py::Raising", "--input", "2x4"], 2, ["stage forward", "no such head"], id="raises"),
        pytest.param(["model.py::Net", "--input", "2x5"], 2, ["stage forward", "2x5 and 4x4"], id="wrong-shape"),
        pytest.param(
            ["model.py::Net", "--input", "2xx5"], 4, ["'2xx5' is malformed", "32x3x224x224"], id="malformed-input"
        ),
        pytest.param(["model.py::Net", "--input", "@none.pt"], 4, ["none.pt"], id="missing-input-file"),
        pytest.param(["model.py::Net", "--loss", "nowhere"], 4, ["nowhere"], id="malformed-loss"),
        pytest.param(["model.py::Net", "--device", "cuda:99"], 4, ["'cuda:99' cannot be used"], id="absent-device"),
        pytest.param(["model.py::Net", "--device", "gpu"], 4, ["'gpu'; expected auto, cpu"], id="unknown-device"),
        pytest.param(["model.py::Net", "--output", "./model.py"], 4, ["would replace the file"], id="audited-output"),
        pytest.param(["fix", "model.py::Net", "--write", "model.py"], 4, ["would replace the file"], id="audited-fix"),
        pytest.param(["model.py::Net", "--select", "IA7"], 4, ["unknown rule 'IA7'"], id="unknown-code"),
    ],
)
def test_one_message_and_the_right_exit_code(
    invoke: Invoke, arguments: list[str], code: int, messages: list[str]
) -> None:
    result = invoke(*arguments)
    shown = result.stdout if code == 2 else result.stderr
    assert result.exit_code == code, result.output
    assert [message for message in messages if message not in " ".join(shown.split())] == []
    assert "Traceback" not in result.output
    if code == 4:
        assert result.stdout == ""


def test_a_syntax_error_names_file_and_line(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\ndef f(:\n")
    result = invoke("broken.py")
    assert result.exit_code == 2
    assert "could not import broken.py" in result.stdout
    assert "SyntaxError" in result.stdout
    assert "broken.py:2" in " ".join(result.stdout.split())
    assert "Traceback" not in result.output


def test_nothing_collected_says_what_would_be(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "empty_handed.py").write_text("import torch\ndef helper(x):\n    return x\n")
    result = invoke("empty_handed.py")
    assert result.exit_code == 5
    assert result.stderr.startswith("no model to audit in empty_handed.py: no nn.Module instance")
    assert "Traceback" not in result.output


def test_a_bad_file_does_not_keep_the_good_one_from_being_audited(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    result = invoke("broken.py", "model.py::Net", "--format", "json")
    document = json.loads(result.stdout)
    assert result.exit_code == 2
    assert [(a["target"], a["verdict"]) for a in document["audits"]] == [
        ("broken.py", "error"),
        ("model.py::Net", "pass"),
    ]
    assert document["audits"][0]["error"]["stage"] == "load"


NOISY = """
import atexit, os, sys
import torch
from torch import nn

print("on import")
atexit.register(lambda: os.write(1, b"at exit"))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 4)

    def forward(self, x):
        print("in forward", flush=True)
        os.system("echo from a child")
        return self.body(x)
"""


def test_a_real_run_writes_its_json_and_nothing_else_to_standard_output(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    run = subprocess.run(
        [sys.executable, "-m", "initaudit", "noisy.py", "--format", "json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert [audit["target"] for audit in json.loads(run.stdout)["audits"]] == ["noisy.py::Net"]
