"""Every fenced block of the README and the documentation is run, so that no page promises what is not so.

``python`` blocks run in order in one namespace per page; one with ``title="file.py"`` is written to that file instead.
``pycon`` blocks are doctests in the same namespace. In ``console`` blocks, ``$ initaudit`` and ``$ pytest`` run in the
folder of those files, other programs need only be there; ``$ echo $?`` says which exit code the page expects (0
otherwise) and the lines below a command are its output, with ``...`` for what is left out. ``toml``, ``ini``, ``yaml``
and ``json`` blocks must parse.
On a rule's page, the first ``model`` must make the rule fire, and the one under "Remedy", if any, must not.
"""

import configparser
import doctest
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from click.testing import CliRunner

import initaudit
from initaudit.cli import main as cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
RULE_PAGES = sorted((ROOT / "docs" / "rules").glob("IA*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>\w+)(?P<info>[^\n]*)\n(?P<text>.*?)^ *(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
TITLE = re.compile(r'title="([^"]+)"')
LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """A fenced block: ``line`` is where it stands in the page, ``heading`` the last one above it."""

    language: str
    title: str | None
    text: str
    line: int
    heading: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        above = text[: match.start()]
        headings = re.findall(r"^#+ (.*)$", re.sub(FENCE, "", above), re.MULTILINE)
        title = TITLE.search(match["info"])
        found.append(
            Block(
                match["language"],
                title[1] if title else None,
                dedent(match["text"]),
                above.count("\n") + 1,
                headings[-1] if headings else "",
            )
        )
    return found


def run_python(block: Block, page: Path, namespace: dict[str, object]) -> None:
    # Blank lines put the code at its line in the page, where a traceback then points.
    exec(compile("\n" * block.line + block.text, str(page), "exec"), namespace)


def run_pycon(block: Block, page: Path, namespace: dict[str, object]) -> None:
    test = doctest.DocTestParser().get_doctest(block.text, namespace, page.name, str(page), block.line)
    test.globs = namespace
    report: list[str] = []
    doctest.DocTestRunner(optionflags=LOOSELY).run(test, out=report.append, clear_globs=False)
    assert not report, "".join(report)


def run_command(command: str) -> tuple[int, str]:
    program, *arguments = shlex.split(command)
    if program == "initaudit":
        result = CliRunner(env={"COLUMNS": "80", "NO_COLOR": "1"}).invoke(cli, arguments, prog_name="initaudit")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.output
    if program == "pytest":
        run = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments], capture_output=True, encoding="utf-8", check=False
        )
        return run.returncode, run.stdout + run.stderr
    if program.startswith("scripts/"):
        assert os.access(ROOT / program, os.X_OK), f"{program} is not there to be run"
    if program == "python":
        assert (ROOT / arguments[0]).is_file(), f"{arguments[0]} is not there to be run"
    return 0, ""


def run_console(block: Block, page: Path) -> None:
    code, steps = 0, re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    assert steps, f"{page.name}:{block.line}: a console block without a line that starts with '$ '"
    for number, step in enumerate(steps):
        command, _, expected = step.partition("\n")
        if command == "echo $?":
            assert code == int(expected), f"{page.name}:{block.line}: exit code {code}"
            continue
        code, output = run_command(command)
        told = number + 1 < len(steps) and steps[number + 1].startswith("echo $?")
        assert told or code == 0, f"{page.name}:{block.line}: `{command}` ended with {code}:\n{output}"
        if expected.strip():
            same = doctest.OutputChecker().check_output(expected, output, LOOSELY)
            assert same, f"{page.name}:{block.line}: `{command}` printed\n{output}"


def parse(block: Block) -> None:
    if block.language == "toml":
        tomllib.loads(block.text)
    elif block.language == "json":
        json.loads(block.text)
    elif block.language == "ini":
        configparser.ConfigParser().read_string(block.text)
    elif block.language == "yaml":
        pytest.importorskip("yaml").safe_load(block.text)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a user's, with the shipped examples in it."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_does_what_the_page_says(page: Path, workspace: Path) -> None:
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page):
        if block.title is not None:
            (workspace / block.title).parent.mkdir(parents=True, exist_ok=True)
            (workspace / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            run_python(block, page, namespace)
        elif block.language == "pycon":
            run_pycon(block, page, namespace)
        elif block.language == "console":
            run_console(block, page)
        parse(block)


@pytest.mark.parametrize("page", RULE_PAGES, ids=lambda page: page.stem)
def test_the_example_of_a_rule_fires_and_its_remedy_does_not(page: Path) -> None:
    torch.manual_seed(0)  # one draw in 150 of IA105's example is IA101's
    namespace: dict[str, object] = {"__name__": page.stem}
    fired = False
    for block in blocks(page):
        if block.language != "python":
            continue
        run_python(block, page, namespace)
        if "model" not in namespace:
            continue
        report = initaudit.audit(
            namespace["model"], namespace.get("inputs"), loss=namespace.get("loss"), select=[page.stem]
        )
        codes = {finding.code for finding in report.findings}
        if not fired:
            assert page.stem in codes, f"{page.name}:{block.line}: the example does not fire"
            fired = True
        elif block.heading == "Remedy":
            assert page.stem not in codes, f"{page.name}:{block.line}: the remedy does not help: {report.findings}"
    assert fired, f"{page.name} has no example"
