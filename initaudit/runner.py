"""Running the models of one target in a worker process, which may crash, hang and print as it likes.

The calling process stays free of torch. A worker that dies, or takes longer than it may, costs only the model that
did it: the next one is served by a new worker.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, ClassVar

from initaudit.codec import decode
from initaudit.errors import AuditError, UsageError
from initaudit.launcher import launched
from initaudit.records import Cure, Trace

STAGE_OF = {"building": "load", "finding inputs": "input", "forward": "forward", "backward": "backward"}
POLL_SECONDS = 0.2  # how soon a dead worker is noticed when its own children keep the pipe open
STOP_SECONDS = 5.0  # how long the user's exit handlers may take

# Not `python -m`: that would put the current directory before the standard library. And the worker runs this very
# initaudit, wherever it was imported from, without leaving its folder on the path of the user's code.
BOOT = """
import sys
sys.path[:] = [{root!r}, *filter(None, sys.path)]
import initaudit
del sys.path[0]
from initaudit.worker import main
main()
"""


ROUND_VARIABLE = "INITAUDIT_ROUND"  # tells a worker which of the workers it is that this process has started


class InternalError(Exception):
    """A defect of initaudit itself: the stage it showed in and its traceback, whose last line is the text."""

    def __init__(self, stage: str, traceback: str) -> None:
        super().__init__(traceback.strip().rpartition("\n")[2])
        self.stage = stage
        self.traceback = traceback


@dataclass(frozen=True)
class ProbeOptions:
    """How to run each model; the meaning of each is that of the command's option."""

    inputs: list[str] | None = None
    loss: str | None = None
    device: str | None = None
    dtype: str | None = None
    seed: int = 0
    weights_only: bool = False


@dataclass(frozen=True)
class Collection:
    """The ids of the models found, those of them that are built already, and the reason when there is none."""

    ids: tuple[str, ...]
    empty: str = ""
    instances: frozenset[str] = frozenset()


class Runner:
    """Collects and probes the models of one target; a context manager that ends the worker.

    Args:
        target: one TARGET of the command line.
        options: how to run each model.
        timeout: seconds that one draw of a model, or loading the target, may take.
        workers: how many runners are at work at once, to share the processor with.
        worker: the first worker, where it has been started already.
    """

    def __init__(
        self,
        target: str,
        options: ProbeOptions | None = None,
        *,
        timeout: float | None = None,
        workers: int = 1,
        worker: Worker | None = None,
    ) -> None:
        self.target = target
        self._options = asdict(options or ProbeOptions())
        self._weights_only: bool = self._options.pop("weights_only")
        self._timeout = timeout
        self._workers = workers
        self._worker = worker
        self._collected = False
        self._lost = False
        self._printed = ""

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._worker is not None:
            self._drop(gently=kind is None)

    def collect(self) -> Collection:
        """What the target holds.

        Raises:
            AuditError: it could not be loaded. UsageError: it names nothing. InternalError: a defect of initaudit.
        """
        request = {
            "do": "collect",
            "target": self.target,
            "weights_only": self._weights_only,
            "seed": self._options["seed"],
        }
        reply = self._ask(request, lambda stage: None)
        self._collected = True
        return Collection(tuple(reply["ids"]), reply["empty"], frozenset(reply["instances"]))

    def probe(
        self,
        model: str,
        on_stage: Callable[[str], None] = lambda stage: None,
        *,
        seed: int | None = None,
        compare: bool = True,
    ) -> Trace:
        """The trace of one collected model; ``on_stage`` hears of each step as it starts.

        ``seed`` stands in for that of the options; ``compare`` builds a factory's model twice more to compare them.

        Raises:
            AuditError: the model could not be run, took too long or ended the process.
            UsageError: an option makes no sense for it. InternalError: a defect of initaudit.
        """
        self._load(model)
        options = self._options | ({} if seed is None else {"seed": seed})
        if self._weights_only:
            request = {"do": "weigh", "id": model, "options": {"seed": options["seed"]}}
        else:
            request = {"do": "probe", "id": model, "options": options | {"compare": compare}}
        reply = self._ask(request, on_stage)
        return decode(Trace, reply["trace"])

    def cure(
        self,
        model: str,
        on_stage: Callable[[str], None] = lambda stage: None,
        *,
        draws: int,
        select: Sequence[str] = (),
        ignore: Sequence[str] = (),
    ) -> Cure:
        """What mends the initialization of one collected model, tried on ``draws`` seeds.

        Raises what :meth:`probe` does; the time limit is for all of it.
        """
        self._load(model)
        options = self._options | {"draws": draws, "select": list(select), "ignore": list(ignore)}
        reply = self._ask({"do": "cure", "id": model, "options": options}, on_stage)
        return decode(Cure, reply["cure"])

    def _load(self, model: str) -> None:
        """Collect where that was not done yet, or the worker that did it has ended."""
        if not self._collected:
            found = self.collect()
            self.printed()  # shown when it was loaded first
            if model not in found.ids:
                raise AuditError("load", f"{self.target} held {model} when loaded first, but not when loaded anew")

    def kill(self) -> None:
        """End the worker from another thread: what waits for it raises AuditError."""
        if worker := self._worker:
            worker.kill()

    def printed(self) -> str:
        """What the user's code has printed since this was last called."""
        text, self._printed = self._printed, ""
        return text

    def _ask(self, request: dict[str, Any], on_stage: Callable[[str], None]) -> dict[str, Any]:
        stage = "load"
        if self._lost:
            raise AuditError("load", "not audited: the process that had loaded it ended, and the other ranks' did not")
        worker = self._worker = self._worker or Worker(self._workers)
        try:
            if not worker.ready:
                self._check(worker.receive(None), stage)
                worker.ready = True
            deadline = None if self._timeout is None else time.monotonic() + self._timeout
            worker.send(request)
            while (reply := worker.receive(deadline)).keys() == {"stage"}:
                on_stage(reply["stage"])
                stage = STAGE_OF.get(reply["stage"], stage)
        except TimeoutError as error:
            self._drop(gently=False)
            limit = f"took longer than --timeout {self._timeout:g} seconds, in the stage {stage!r}"
            advice = "allow more" if stage == "load" else "allow more or give a smaller --input"
            raise self._end(AuditError(stage, f"{limit}; {advice}")) from error
        except EOFError as error:
            self._drop(gently=False)
            raise self._end(AuditError(stage, f"{error}, in the stage {stage!r}")) from error
        self._printed += worker.printed()
        return self._check(reply, stage)

    def _end(self, error: AuditError) -> AuditError:
        """A worker started anew would wait for ever for those of the other ranks; these do not know what happened."""
        rank, size = launched()
        self._lost = size > 1
        if rank > 0 and sys.__stderr__ is not None:
            sys.__stderr__.write(f"rank {rank}: {self.target}: {error}\n")
        return error

    def _check(self, reply: dict[str, Any], stage: str) -> dict[str, Any]:
        if "usage" in reply:
            raise UsageError(reply["usage"])
        if "failed" in reply:
            raise AuditError(reply.get("stage", stage), reply["failed"])
        if "internal" in reply:
            raise InternalError(stage, reply["internal"])
        return reply

    def _drop(self, *, gently: bool) -> None:
        assert self._worker is not None
        self._printed += self._worker.close(gently=gently)
        self._worker = None
        self._collected = False


class Worker:
    """The process, its pipe and the file that holds what it printed. Leaving its context ends it, if nothing else has.

    ``workers`` that run at once share the cores, unless the user has set the number of threads. The first reply says
    that the process is ``ready``.
    """

    _count: ClassVar[int] = 0

    def __init__(self, workers: int = 1) -> None:
        self.ready = False
        Worker._count += 1
        self._closed = False
        self._folder = TemporaryDirectory(prefix="initaudit-", ignore_cleanup_errors=True)
        path = Path(self._folder.name) / "printed"
        with path.open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-c", BOOT.format(root=str(Path(__file__).parent.parent))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                env=_environment(workers) | {ROUND_VARIABLE: str(Worker._count)},
                start_new_session=True,  # Ctrl-C reaches the parent alone, which ends the worker and its children
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._pipe = self._process.stdin, self._process.stdout
        self._output = path.open("rb")
        self._replies: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        for line in self._pipe:
            if line.startswith(b"{"):  # else printed at start-up, before the worker's own code ran
                self._replies.put(json.loads(line))
        self._replies.put(None)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._closed:
            self.close(gently=False)

    def send(self, message: dict[str, Any]) -> None:
        """Write a request. Raises EOFError when the process has ended."""
        try:
            self._requests.write(json.dumps(message).encode() + b"\n")
            self._requests.flush()
        except OSError as error:
            raise EOFError(self._obituary()) from error

    def receive(self, deadline: float | None) -> dict[str, Any]:
        """The next reply. Raises TimeoutError past the deadline, EOFError when the process has ended."""
        while True:
            ended = self._process.poll() is not None
            try:
                message = self._replies.get(timeout=POLL_SECONDS)
            except Empty:
                message = None if ended else {}
            if message is None:
                raise EOFError(self._obituary())
            if message:
                return message
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError

    def printed(self) -> str:
        """What was printed since the last call."""
        return self._output.read().decode("utf-8", "replace")

    def _obituary(self) -> str:
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return "the process that ran it closed every file and its connection"
        if code >= 0:
            return f"the process that ran it ended with exit code {code} and no exception, as os._exit() does"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (by the system when memory runs out: try a smaller --input)" if name == "SIGKILL" else ""
        return f"the process that ran it was killed by {name}{hint}"

    def close(self, *, gently: bool) -> str:
        """End the process and return what it still printed.

        Gently lets the user's exit handlers run; otherwise it is killed with its children.
        """
        if gently:
            try:
                self.send({"do": "stop"})
                self._process.wait(STOP_SECONDS)
            except (EOFError, subprocess.TimeoutExpired):
                gently = False
        if not gently:
            self.kill()
        self._closed = True
        self._process.wait()
        with suppress(OSError):  # a request that the process did not live to read
            self._requests.close()
        self._listener.join(POLL_SECONDS)
        if not self._listener.is_alive():  # else a process that outlives the worker holds the other end
            self._pipe.close()
        with self._output, self._folder:
            return self.printed()

    def kill(self) -> None:
        """End the process and its children now. May be called from another thread than the one that waits for it."""
        if self._process.returncode is not None:  # its number may be another's by now
            return
        if sys.platform == "win32":
            self._process.kill()
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _environment(workers: int) -> dict[str, str]:
    """That of a worker; what the user has set stays.

    Threads that spin while they wait cost an audit, which is many small operations, twice its time on a busy machine.
    """
    own = {"OMP_WAIT_POLICY": "PASSIVE"}
    if workers > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        own["OMP_NUM_THREADS"] = str(max(cores // workers, 1))
    return own | os.environ
