"""What the project promises about itself: metadata, import cost, size of its parts, generated pages."""

import ast
import re
import subprocess
import sys
from importlib.metadata import entry_points, metadata, requires, version
from pathlib import Path

import pytest

import initaudit
from initaudit.rules import RULES

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "initaudit").rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 600, 80


def test_the_version_has_one_home_and_the_changelog_tells_of_it() -> None:
    assert initaudit.__version__ == version("initaudit")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(initaudit.__version__)}$", changelog, re.MULTILINE)


def test_metadata() -> None:
    assert metadata("initaudit")["License-Expression"] == "MIT"
    assert metadata("initaudit")["Requires-Python"] == ">=3.10"
    required = {re.split(r"[ ;<>=~!]", line)[0] for line in requires("initaudit") or () if "extra ==" not in line}
    assert required == {"torch", "numpy", "rich", "click", "pytest", "tomli"}


@pytest.mark.parametrize(
    ("group", "value"),
    [("console_scripts", "initaudit.cli:main"), ("pytest11", "initaudit.pytest_plugin")],
)
def test_entry_points(group: str, value: str) -> None:
    (entry,) = entry_points(group=group, name="initaudit")
    assert entry.value == value
    assert entry.load() is not None


@pytest.mark.parametrize(
    "module",
    [
        "initaudit",
        "initaudit.cli",
        "initaudit.pytest_plugin",
        "initaudit.rules",
        "initaudit.report",
        "initaudit.advice",
    ],
)
def test_importing_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{'torch', 'transformers', 'timm'}} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_every_public_name_is_there_and_listed() -> None:
    assert "audit" in initaudit.__all__
    for name in initaudit.__all__:
        assert getattr(initaudit, name) is not None
    assert set(initaudit.__all__) <= set(dir(initaudit))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_and_no_function_is_too_long(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


def test_the_registry_holds_each_rule_of_the_folder_once() -> None:
    modules = {path.stem for path in (ROOT / "initaudit" / "rules").glob("*.py") if "RULE = Rule(" in path.read_text()}
    registered = {rule.check.__module__.rpartition(".")[2] for rule in RULES}
    assert registered == modules
    assert len({rule.code for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_rule_states_its_defect_and_the_source_of_its_limit(rule) -> None:
    assert re.fullmatch(r"IA[123459]\d\d", rule.code)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.name)
    assert rule.limit.unit
    assert rule.limit.source


def test_generated_pages_are_fresh() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "gen_docs"), "--check"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_imports_go_down_only() -> None:
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


def test_every_link_inside_the_documentation_leads_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.relative_to(ROOT)} links to {link}"
