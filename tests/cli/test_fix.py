"""``initaudit fix``: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from initaudit.cli import main

MODELS = '''
import torch
from torch import nn

class Deep(nn.Module):
    """Sixteen layers at torch's default."""
    def __init__(self):
        super().__init__()
        parts = [part for _ in range(16) for part in (nn.Linear(64, 64), nn.ReLU())]
        self.body = nn.Sequential(*parts, nn.Linear(64, 10))
    def forward(self, x):
        return self.body(x)

class Shallow(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 10)
    def forward(self, x):
        return self.body(x)

class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).T

class Computed(nn.Module):
    """A stack whose weights are computed: no plan is made for them."""
    def __init__(self):
        super().__init__()
        layers = [nn.Linear(64, 64, bias=False) for _ in range(16)]
        for layer in layers:
            nn.utils.parametrize.register_parametrization(layer, "weight", Symmetric())
        self.body = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())])
    def forward(self, x):
        return self.body(x)

class Broken(nn.Module):
    def forward(self, x):
        raise ValueError("no")
'''


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fix") / "models.py"
    path.write_text(MODELS, encoding="utf-8")
    return path


def fix(target: object, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["fix", str(target), *arguments], prog_name="initaudit", env={"COLUMNS": "100"})


def test_a_deep_stack_is_fixed_and_the_code_is_written(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "init.py"
    result = fix(f"{models}::Deep", "--write", str(path))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("── FIXED ")
    assert "models.py::Deep" in lines[0]
    table = {line[:37].strip(): line[37:].split("  ") for line in lines if line[:37].strip()}
    assert table["verdict"][0] == "fail"
    assert table["verdict"][-1].strip() == "pass"
    assert table["findings"][-1].strip() == "none above a note"
    code = path.read_text(encoding="utf-8")
    assert all(line in lines for line in code.splitlines())
    check = (
        "import torch\nfrom models import Deep\nfrom init import init_weights\n"
        "model = Deep()\ninit_weights(model)\n"
        "print(model.body[0].weight.std().item(), model.body[0].bias.abs().sum().item())\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", check],
        env={"PYTHONPATH": f"{models.parent}:{tmp_path}", "PATH": ""},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    std, bias = map(float, out.split())
    assert std == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert bias == 0


def test_a_healthy_model_and_one_that_stays_open(models: Path) -> None:
    healthy = fix(f"{models}::Shallow")
    assert healthy.exit_code == 0
    assert healthy.stdout.startswith("── NOTHING TO FIX ")
    assert "init_weights" not in healthy.stdout
    still = fix(f"{models}::Computed")
    assert still.exit_code == 1
    assert still.stdout.startswith("── OPEN ")
    assert "computed from other parameters by a parametrization" in " ".join(still.stdout.split())
    assert fix(f"{models}::Computed", "--fail-on", "never").exit_code == 0


def test_errors_have_the_contract_s_exit_codes(models: Path, tmp_path: Path) -> None:
    broken = fix(f"{models}::Broken", "--input", "4x4")
    assert broken.exit_code == 2
    assert broken.stdout.startswith("── ERROR ")
    assert "ValueError: no" in broken.stdout
    several = fix(models, "--write", str(tmp_path / "x.py"))
    assert several.exit_code == 4
    assert "--write takes the code of one model" in several.stderr
    two = fix(f"{models}::Deep", f"{models}::Shallow", "--write", str(tmp_path / "x.py"))
    assert two.exit_code == 4
    assert "hold 2: name one of them" in two.stderr
    assert fix(models, "-k", "nothing_of_that_name").exit_code == 5
    assert fix(f"{models}::Deep", "--select", "IA999").exit_code == 4
    weights = fix("model.pt")
    assert weights.exit_code == 4
    assert weights.stderr.endswith("no model to mend; to have them judged: initaudit model.pt --weights-only\n")
    nowhere = fix(f"{models}::Deep", "--write", str(tmp_path / "no" / "init.py"))
    assert nowhere.exit_code == 4
    assert "the directory to write it to does not exist; create it first" in nowhere.stderr
    assert not nowhere.stdout


def test_json_is_one_document(models: Path) -> None:
    result = fix(f"{models}::Deep", "--format", "json", "--seeds", "2", "--seed", "5")
    document = json.loads(result.stdout)
    (cure,) = document["cures"]
    assert (cure["outcome"], cure["before"]["verdict"], cure["after"]["verdict"]) == ("fixed", "fail", "pass")
    assert [v["seed"] for v in cure["vitals"]["after"]] == [5, 6]
    assert cure["code"].startswith("import torch")
    assert "body.0.weight" in cure["changed"]


def test_the_command_s_own_process_imports_no_torch(models: Path) -> None:
    code = (
        "import sys\nfrom initaudit.cli import main\n"
        f"code = main(['fix', {str(models) + '::Shallow'!r}], standalone_mode=False)\n"
        "sys.exit(10 if 'torch' in sys.modules else code)"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": root, "PATH": ""}, capture_output=True)
    assert done.returncode == 0


def test_help_lists_what_it_takes() -> None:
    page = CliRunner().invoke(main, ["fix", "--help"], prog_name="initaudit").stdout
    for option in ("--write FILE", "--input", "--loss", "--device", "--seeds", "--fail-on", "--format", "-k"):
        assert option in page
    assert "--collect-only" not in page
