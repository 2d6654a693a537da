"""Models that print, crash, hang and raise, run in the worker process and seen from the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from initaudit.errors import AuditError, UsageError
from initaudit.records import Trace
from initaudit.runner import ProbeOptions, Runner

HAZARDS = """
import ctypes, os, signal, sys, time
import torch
from torch import nn

print("imported with", sys.argv)
initaudit_inputs = torch.zeros(2, 4)

class Base(nn.Module):
    def __init__(self, hazard=lambda: None):
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.hazard = hazard

    def forward(self, x):
        self.hazard()
        return self.body(x)

def noisy():
    print('{"trace": null}')
    os.write(1, b"written by C\\n")
    os.system("echo written by a child")
    print("to stderr", file=sys.stderr)

def make_noisy(): return Base(noisy)
def make_exiting(): return Base(lambda: (print("last words"), os._exit(7)))
def make_after_exit(): return Base()
def make_hanging(): return Base(lambda: time.sleep(60))
def make_killed(): return Base(lambda: os.kill(os.getpid(), signal.SIGKILL))
def make_reading(): return Base(lambda: input("? "))
def make_quitting(): return Base(lambda: sys.exit(3))
def make_interrupting(): return Base(lambda: exec("raise KeyboardInterrupt"))
def make_lacking(): return Base(lambda: exec("raise KeyError('no such head')"))
def make_last(): return Base()
"""


@pytest.fixture(scope="module")
def hazards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hazards") / "hazards.py"
    path.write_text(HAZARDS, encoding="utf-8")
    return path


class Outcomes:
    """What one runner made of every model of the file, in their order."""

    def __init__(self, path: Path) -> None:
        self.traces: dict[str, Trace] = {}
        self.errors: dict[str, AuditError] = {}
        self.stages: dict[str, list[str]] = {}
        self.printed: dict[str, str] = {}
        with Runner(str(path), timeout=3) as runner:
            self.ids = runner.collect().ids
            self.printed["import"] = runner.printed()
            for model in self.ids:
                name = model.rpartition("::")[2].removeprefix("make_")
                stages: list[str] = []
                try:
                    self.traces[name] = runner.probe(model, stages.append)
                except AuditError as error:
                    self.errors[name] = error
                self.stages[name] = stages
                self.printed[name] = runner.printed()


@pytest.fixture(scope="module")
def outcomes(hazards: Path) -> Outcomes:
    return Outcomes(hazards)


def test_every_model_has_an_outcome_and_the_harmless_a_trace(outcomes: Outcomes) -> None:
    assert len(outcomes.ids) == 10
    assert outcomes.traces.keys() == {"noisy", "after_exit", "last"}
    assert outcomes.errors.keys() == {"exiting", "hanging", "killed", "reading", "quitting", "interrupting", "lacking"}


def test_a_trace_comes_through_whole(outcomes: Outcomes) -> None:
    trace = outcomes.traces["last"]
    assert trace.target.endswith("hazards.py::make_last")
    assert [layer.fqn for layer in trace.layers] == ["body"]
    assert trace.inputs == "float32[2,4]"


def test_what_a_model_prints_is_kept_apart_and_told(outcomes: Outcomes, hazards: Path) -> None:
    assert outcomes.printed["import"] == f"imported with ['{hazards}']\n"
    lines = outcomes.printed["noisy"].splitlines()
    assert lines == ['{"trace": null}', "written by C", "written by a child", "to stderr"]
    assert "last words" in outcomes.printed["exiting"]
    assert outcomes.printed["after_exit"] == ""


def test_steps_are_told_as_they_start(outcomes: Outcomes) -> None:
    assert outcomes.stages["last"] == ["building", "finding inputs", "forward", "backward"]
    assert outcomes.stages["hanging"][-1] == "forward"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("exiting", "ended with exit code 7 and no exception, as os._exit() does, in the stage 'forward'"),
        ("killed", "was killed by SIGKILL (by the system when memory runs out: try a smaller --input)"),
        (
            "hanging",
            "took longer than --timeout 3 seconds, in the stage 'forward'; allow more or give a smaller --input",
        ),
        ("reading", "EOFError"),
        ("quitting", "3"),
        ("interrupting", "the code raised KeyboardInterrupt; let it raise an Exception instead"),
        ("lacking", "KeyError: 'no such head'"),
    ],
)
def test_the_failure_of_a_model_is_one_message_at_its_stage(outcomes: Outcomes, name: str, message: str) -> None:
    assert message in str(outcomes.errors[name])
    assert outcomes.errors[name].stage == "forward"
    assert "Traceback" not in str(outcomes.errors[name])


def test_a_model_that_calls_exit_is_told_where(outcomes: Outcomes) -> None:
    message, place = str(outcomes.errors["quitting"]).splitlines()
    assert message == "the code called sys.exit(3); let it return or raise an exception instead"
    assert "hazards.py:" in place
    assert place.endswith("def make_quitting(): return Base(lambda: sys.exit(3))")


def test_a_file_that_hangs_is_not_helped_by_another_input(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text("import time\ntime.sleep(60)\n", encoding="utf-8")
    with Runner(str(path), timeout=0.5) as runner, pytest.raises(AuditError, match=r"'load'; allow more$"):
        runner.collect()


def test_a_file_that_ends_the_process_fails_to_load(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text("import os\nos._exit(1)\n", encoding="utf-8")
    with Runner(str(path)) as runner, pytest.raises(AuditError, match="ended with exit code 1") as caught:
        runner.collect()
    assert caught.value.stage == "load"


def test_one_worker_says_what_is_wrong_with_an_option_and_goes_on(hazards: Path) -> None:
    target = f"{hazards}::make_last"
    with Runner(target, ProbeOptions(inputs=["3xx5"])) as runner:
        assert runner.collect().ids == (target,)
        with pytest.raises(UsageError, match="'3xx5' is malformed"):
            runner.probe(target)
        assert runner.collect().ids == (target,)


HANGING = """
import os, pathlib, time
pathlib.Path("pid").write_text(str(os.getpid()))
time.sleep(120)
"""


@pytest.fixture
def hanging_command(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The command on a file that never ends loading, and the process id of its worker."""
    (tmp_path / "model.py").write_text(HANGING, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    command = subprocess.Popen(
        [sys.executable, "-m", "initaudit", "model.py"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        pid = wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        yield command, int(pid)
    finally:
        command.kill()
        command.communicate()


def wait_for(condition, seconds: float = 60.0):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")  # an orphan that nobody has waited for is gone, too
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_the_worker_at_once(hanging_command: tuple[subprocess.Popen[str], int]) -> None:
    command, worker = hanging_command
    command.send_signal(signal.SIGINT)
    stdout, stderr = command.communicate(timeout=20)
    assert command.returncode == 2
    assert stdout == ""
    assert stderr.strip() == "Interrupted."
    wait_for(lambda: is_gone(worker))


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_the_worker_does_not_outlive_a_parent_that_was_killed(
    hanging_command: tuple[subprocess.Popen[str], int],
) -> None:
    command, worker = hanging_command
    command.kill()
    wait_for(lambda: is_gone(worker))
