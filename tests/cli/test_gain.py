"""``initaudit gain`` as people type it: files, arguments, depth, and what it says when it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from initaudit.cli import main

ACTS = """
import torch
from torch import nn


def my_act(x, power=2):
    return torch.relu(x) ** power


class Learned(nn.Module):
    def __init__(self, slope=0.25):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x):
        return torch.where(x > 0, x, self.slope * x)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "acts_here.py").write_text(ACTS)
    (tmp_path / "broken_here.py").write_text("raise RuntimeError('not today')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    return tmp_path


def gain(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["gain", *arguments], prog_name="initaudit", env={"COLUMNS": "80"})


@pytest.mark.parametrize(
    ("activation", "shown"),
    [
        ("acts_here.py::my_act", "0.816497"),
        ("acts_here.py:my_act", "0.816497"),
        ("./acts_here.py::my_act(1)", "1.41421"),
        ("acts_here:my_act(power=1)", "1.41421"),
        ("acts_here.py::Learned", "1.37199"),
        ("acts_here.py::Learned(slope=0.5)", "1.26491"),
        ("torch.nn:LeakyReLU(0.2)", "1.38675"),
        ("leaky_relu(0.2)", "1.38675"),
        ("elu(alpha=0.5)", "1.36559"),
    ],
)
def test_an_activation_as_people_type_it(activation: str, shown: str) -> None:
    result = gain(activation)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"forward gain   {shown}" in result.stdout


def test_an_absolute_path(folder: Path) -> None:
    text = " ".join(gain(f"{folder / 'acts_here.py'}::my_act").stdout.split())
    assert "the same function as relu2" in text


@pytest.mark.parametrize(
    ("activation", "code", "message"),
    [
        ("acts_here.py", 4, "name the activation, as in 'acts_here.py::my_act'"),
        ("missing_here.py::f", 4, "there is no file 'missing_here.py'"),
        ("acts_here.py::my_atc", 4, "did you mean my_act?"),
        ("acts_here.py::my_act(1, 2, 3)", 4, "too many positional arguments"),
        ("broken_here.py::f", 2, "not today"),
        ("broken_here:f", 4, "RuntimeError: not today"),
        ("softmax", 4, "weights that sum to one"),
        ("relu(", 4, "cannot read the arguments"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(activation: str, code: int, message: str) -> None:
    result = gain(activation)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_depth_adds_a_table() -> None:
    result = gain("tanh", "--depth", "30")
    assert result.exit_code == 0
    assert "30 layers of 256 units with tanh" in result.stdout
    assert [
        label for label in ("torch's default", "Xavier", "He (relu)", "calculate_gain") if label not in result.stdout
    ] == []


def test_depth_of_a_function_of_ones_own() -> None:
    assert "10 layers of 256 units with acts_here.py::my_act" in gain("acts_here.py::my_act", "--depth", "10").stdout


def test_depth_of_a_function_whose_square_is_the_same_everywhere() -> None:
    result = gain("torch:sign", "--depth", "5")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "varies by about 0." in " ".join(result.stdout.split())


def test_depth_needs_an_activation() -> None:
    result = gain("--depth", "30")
    assert result.exit_code == 4
    assert "needs an ACTIVATION" in result.stderr
    assert gain("relu", "--depth", "1").exit_code == 4
