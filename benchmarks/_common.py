"""What the benchmarks share: the environment line, the table, the option parser, a time limit, a quiet transformers.

Import it before torch: a thread pool that spins while it waits makes a busy neighbour look like a slow program, so
waiting threads are told to sleep.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn

from initaudit import Finding, Report, Severity


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser that says what the module's docstring says, with ``--quick``."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="the smallest setting, to see that the script runs")
    return made


def environment(**facts: object) -> str:
    """One line: versions, processor, threads, and whatever else decides the figures."""
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    known = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}",
        "threads": torch.get_num_threads(),
        "load": load,
        **facts,
    }
    return ", ".join(f"{name} {value}" for name, value in known.items())


def show(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table, as it stands in docs/benchmarks.md."""
    cells = [[str(value) for value in row] for row in (headers, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    cells.insert(1, ["-" * width for width in widths])
    for row in cells:
        print("| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |")


def alarms(report: Report) -> list[Finding]:
    """The findings above a note, worst first."""
    return [finding for finding in report.findings if finding.severity is not Severity.NOTE]


def brief(finding: Finding, width: int = 160) -> str:
    """A finding in one line."""
    text = f"{finding.code} {finding.severity.value} {finding.message}"
    return text if len(text) <= width else text[: width - 3] + "..."


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Call ``model`` with a mapping as keyword arguments, a tuple as positional ones, anything else as the one."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def medians(
    *actions: Callable[[], object], repeats: int, before: Callable[[], object] = lambda: None
) -> list[tuple[float, float]]:
    """Median wall and CPU seconds of each action, all run once per round so that each meets the same neighbours.

    ``before`` is done at the start of each round, and takes no part in it.
    """
    times: list[list[tuple[float, float]]] = [[] for _ in actions]
    for _ in range(repeats):
        before()
        for action, taken in zip(actions, times, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            action()
            taken.append((time.perf_counter() - wall, time.process_time() - cpu))
    return [(statistics.median(w for w, _ in t), statistics.median(c for _, c in t)) for t in times]


class OutOfTimeError(BaseException):
    """No ``Exception``, so that no model and no audit takes it for a failure of its own."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise :class:`OutOfTimeError` inside after that many seconds, on systems that have an alarm."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise OutOfTimeError(f"took more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no log lines from the libraries whose models are audited."""
    import logging
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        with suppress(ImportError):
            from transformers.utils import logging as transformers_logging

            transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
