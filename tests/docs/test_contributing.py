"""The steps of CONTRIBUTING.md, walked in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A file's text lies between fences of three or, where it holds fences itself, four backticks.
TITLED = re.compile(r'^(?P<fence>`{3,4})python title="(?P<path>[^"]+)"\n(?P<text>.*?)^(?P=fence)$', re.M | re.S)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the package and of the tests' helpers, with the files that CONTRIBUTING.md adds."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "initaudit", tmp_path / "initaudit", ignore=skip)
    shutil.copytree(ROOT / "tests" / "rules", tmp_path / "tests" / "rules", ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for match in TITLED.finditer((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        path = tmp_path / match["path"]
        assert path.parent.is_dir(), f"{match['path']}: there is no such folder"
        assert not path.exists(), f"{match['path']} exists already"
        path.write_text(match["text"], encoding="utf-8")
    return tmp_path


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path.name} has no {old!r}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def run(project: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(project), "NO_COLOR": "1", "COLUMNS": "120"}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_add_a_rule(project: Path) -> None:
    registry = project / "initaudit" / "rules" / "__init__.py"
    replace(registry, "from initaudit.rules import (", "from initaudit.rules import (\n    heavy_tailed_weights,")
    replace(registry, "RULES: tuple[Rule, ...] = (", "RULES: tuple[Rule, ...] = (\n    heavy_tailed_weights.RULE,")
    assert "1 passed" in run(project, "pytest", "-q", "tests/rules/test_heavy_tailed_weights.py")
    assert "Laplace" in run(project, "initaudit", "rule", "heavy-tailed-weights")

    (project / "model.py").write_text(example_of_the_rule() + "\n", encoding="utf-8")
    assert "IA399" in run(project, "initaudit", "model.py", "-v", "--select", "IA399")


def example_of_the_rule() -> str:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Example that fires")[1]
    return re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)[0]


def test_add_a_format(project: Path) -> None:
    replace(project / "initaudit" / "choices.py", '"json"', '"json", "tsv"')
    branch = '    if settings.format == "json":\n'
    added = (
        '    if settings.format == "tsv":\n        from initaudit.report.tsv import render_tsv\n\n'
        "        stream.write(render_tsv(run.reports))\n        return\n"
    )
    replace(project / "initaudit" / "cli" / "output.py", branch, added + branch)
    shutil.copy(ROOT / "examples" / "deep_relu_mlp.py", project / "model.py")
    printed = run(project, "initaudit", "model.py", "--format", "tsv", "--fail-on", "never")
    assert printed.splitlines()[0] == "model.py::DeepReLU\terror\tIA101\tbody.0"
