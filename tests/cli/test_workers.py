"""``-n`` with real worker processes: models that crash, hang, fail and are well, in the order of the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LINES = {
    "first.py": """
        class Fine(Base): pass
        class Crashing(Base):
            def hazard(self): os._exit(7)
        class AfterIt(Base): pass
        class Threads(Base):
            def hazard(self): raise KeyError("threads " + os.environ.get("OMP_NUM_THREADS", "unset"))
        class Hanging(Base):
            def hazard(self): time.sleep(60)
        class Last(Base): pass
    """,
    "second.py": """
        class Printing(Base):
            def hazard(self): print("here"); raise KeyError("no such head")
        class Fine(Base): pass
    """,
}
HEAD = """
import os, time
import torch
from torch import nn

initaudit_inputs = torch.zeros(2, 4) + torch.arange(4)

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 4)
    def hazard(self): pass
    def forward(self, x):
        self.hazard()
        return self.body(x)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, lines in LINES.items():
        (tmp_path / name).write_text(HEAD + "\n".join(line[8:] for line in lines.splitlines()), encoding="utf-8")
    return tmp_path


def command(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **variables}
    environment = {name: value for name, value in environment.items() if value}
    return subprocess.Popen(
        [sys.executable, "-m", "initaudit", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_all_models_are_audited_in_order_and_cost_only_themselves(folder: Path) -> None:
    run = command(
        folder, "-n", "2", "first.py", "second.py", "-k", "not Base", "--timeout", "3", "--format", "json",
        OMP_NUM_THREADS="",
    )  # fmt: skip
    stdout, stderr = run.communicate(timeout=120)
    audits = json.loads(stdout)["audits"]
    said = [(audit["target"].replace("::", " "), (audit["error"] or {"message": ""})["message"]) for audit in audits]
    assert [name for name, _ in said] == [
        "first.py Fine", "first.py Crashing", "first.py AfterIt", "first.py Threads", "first.py Hanging",
        "first.py Last", "second.py Printing", "second.py Fine",
    ]  # fmt: skip
    messages = [message for _, message in said]
    assert [index for index, message in enumerate(messages) if not message] == [0, 2, 5, 7]
    assert "ended with exit code 7" in messages[1]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert f"threads {max(cores // 2, 1)}" in messages[3]
    assert "took longer than --timeout 3 seconds" in messages[4]
    assert "no such head" in messages[6]
    assert run.returncode == 2
    assert "printed by second.py::Printing" in stderr
    assert "\nhere\n" in stderr


def test_exitfirst_reports_up_to_the_first_failure_of_the_order(folder: Path) -> None:
    run = command(folder, "-n", "2", "second.py", "first.py::Hanging", "-x", "-k", "not Base", "--format", "json")
    stdout, _ = run.communicate(timeout=50)  # the model that hangs comes behind, and is ended
    assert [audit["target"] for audit in json.loads(stdout)["audits"]] == ["second.py::Printing"]
    assert run.returncode == 2


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_every_worker(folder: Path) -> None:
    (folder / "a.py").write_text("import os, time\nopen(f'{__file__}.{os.getpid()}', 'w')\ntime.sleep(60)\n")
    (folder / "b.py").write_text((folder / "a.py").read_text())
    run = command(folder, "-n", "2", "a.py", "b.py")
    deadline = time.monotonic() + 60
    while len(marks := sorted(folder.glob("?.py.*"))) < 2:
        assert time.monotonic() < deadline, "the targets were not loaded at the same time"
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    stdout, stderr = run.communicate(timeout=20)
    assert (run.returncode, stdout, stderr.strip()) == (2, "", "Interrupted.")
    for mark in marks:
        status = Path(f"/proc/{mark.suffix[1:]}/stat")
        assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"
