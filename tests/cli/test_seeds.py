"""``--seeds`` through the whole command and the worker's own code: the verdict over draws and its exit code."""

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
from initaudit.cli import main
from tests.cli.test_bad_input import InProcess

Invoke = Callable[..., Result]

MODEL = """
import torch
from torch import nn

initaudit_inputs = torch.randn(32, 32)
BUILT = []

class Net(nn.Sequential):
    bad = ()

    def __init__(self):
        BUILT.append(torch.initial_seed())
        layers = [nn.Linear(32, 32) for _ in range(12)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
            if torch.initial_seed() in self.bad:
                nn.init.normal_(layer.weight, std=1e-3)
        super().__init__(*(m for layer in layers for m in (layer, nn.ReLU())), nn.Linear(32, 4))

class Unlucky(Net):
    bad = (2,)

class Bad(Net):
    bad = range(100)

built = nn.Linear(32, 4)
"""


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


def audits(result: Result) -> dict[str, Any]:
    return {audit["target"].rpartition("::")[2]: audit for audit in json.loads(result.stdout)["audits"]}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["model.py::Net"], 0),
        (["model.py::Unlucky"], 0),
        (["model.py::Unlucky", "--fail-on", "warning"], 1),
        (["model.py::Unlucky", "--seed", "2"], 1),
        (["model.py::Bad"], 1),
        (["model.py::built"], 4),
    ],
)
def test_exit_codes(invoke: Invoke, arguments: list[str], code: int) -> None:
    assert invoke(*arguments, *([] if "--seed" in arguments else ["--seeds", "3"])).exit_code == code


def test_the_verdict_of_each_model_and_its_draws(invoke: Invoke) -> None:
    found = audits(invoke("model.py", "--seeds", "3", "--seed", "1", "--format", "json"))
    assert {name: audit["verdict"] for name, audit in found.items()} == {
        "Net": "pass", "Unlucky": "pass", "Bad": "fail", "built": "pass",
    }  # fmt: skip
    assert found["Net"]["seeds"] == [1, 2, 3]
    assert found["built"]["seeds"] == []
    assert [part["reason"] for part in found["built"]["not_judged"]] == [session.ONE_DRAW.reason]
    unlucky = [f for f in found["Unlucky"]["findings"] if f["severity"] == "warning"]
    assert {tuple(f["draws"]) for f in unlucky} == {(2,)}
    assert {tuple(f["draws"]) for f in found["Bad"]["findings"] if f["severity"] == "error"} == {(1, 2, 3)}
    assert all(p["reproducible"] is True for p in found["Net"]["parameters"])


def test_draws_after_the_first_are_built_once(invoke: Invoke) -> None:
    invoke("model.py::Net", "--seeds", "3")
    (module,) = [
        m for m in sys.modules.values() if str(vars(m).get("__file__")).endswith("model.py") and hasattr(m, "BUILT")
    ]
    assert module.BUILT == [0, 0, 1, 1, 2]  # the first is compared with a second build and with another seed


def test_through_a_worker_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    run = subprocess.run(
        [sys.executable, "-m", "initaudit", "model.py::Unlucky", "--seeds", "3"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    text = " ".join(run.stdout.split())
    assert "3 draws with seeds 0 to 2, layers as with seed 0" in text
    assert "in 1 of 3 draws (seed 2): an unlucky draw" in text


def test_what_a_file_makes_on_import_follows_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "made.py"
    path.write_text(
        "import torch\nfrom torch import nn\n\nmodel = nn.Linear(8, 4)\ninitaudit_inputs = torch.randn(16, 8)\n",
        encoding="utf-8",
    )

    def figures(*arguments: str) -> list[Any]:
        command = [sys.executable, "-m", "initaudit", str(path), "--format", "json", *arguments]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        (audit,) = json.loads(run.stdout)["audits"]
        return audit["layers"]

    assert figures() == figures() != figures("--seed", "1")
