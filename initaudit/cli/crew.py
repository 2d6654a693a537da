"""Several hands at work on one list of targets, and what they come to in the order of the command line."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol

from initaudit.records import Report

POLL_SECONDS = 0.2  # how long a wait lasts at most: where nothing interrupts one, as on Windows, so does Ctrl-C


class Step(NamedTuple):
    """Loading a target (``number`` 0), or auditing one of its models; steps sort as their results are shown.

    ``target`` is the target's place on the command line; ``model`` is the ``number``-th ``of`` its models.
    """

    target: int
    number: int = 0
    of: int = 0
    model: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What a step came to: the ``models`` of a target, or a report.

    ``printed`` is what the user's code wrote, of interest when it ``failed``; ``remark`` is what the run itself has to
    say. ``defect`` is the traceback of an error of initaudit's own, ``error`` what is to be raised when it is this
    result's turn. What lies behind a result that ``ends`` the run is of no interest.
    """

    models: tuple[str, ...] = ()
    report: Report | None = None
    printed: str = ""
    failed: bool = False
    remark: str = ""
    defect: str = ""
    error: BaseException | None = None
    ends: bool = False


class Hand(Protocol):
    """Does one step at a time, in a worker process of its own."""

    def do(self, step: Step) -> Result:
        """The result of a step; raises nothing."""

    def kill(self) -> None:
        """End the process, so that :meth:`do` returns soon. Called from another thread."""

    def close(self) -> None:
        """End the process with care."""


class Crew:
    """One thread per hand; a context manager that waits for those still at work, or ends what is of no interest.

    A hand keeps to its target, whose code it has loaded; then it loads the next one; when all are loaded it helps where
    models are left. So one hand does all in order, and no hand is idle while there is work.
    """

    def __init__(self, hands: Sequence[Hand], targets: int, *, only_load: bool = False) -> None:
        self._change = threading.Condition()
        self._unloaded = deque(Step(target) for target in range(targets))
        self._models: dict[int, deque[Step]] = {}
        self._doing: dict[Hand, Step] = {}
        self._results: dict[tuple[int, int], Result] = {}
        self._only_load = only_load
        self._end = Step(targets)
        self._defect: BaseException | None = None
        self._threads = {hand: threading.Thread(target=self._work, args=(hand,), daemon=True) for hand in hands}

    def __enter__(self) -> Crew:
        for thread in self._threads.values():
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._change:
            self._end = Step(-1)
            self._change.notify_all()
        while alive := {hand: thread for hand, thread in self._threads.items() if thread.is_alive()}:
            for hand in alive:
                if kind is not None or hand in self._doing:
                    hand.kill()
            next(iter(alive.values())).join(POLL_SECONDS)

    def result(self, target: int, number: int = 0) -> Result:
        """The result of a step, waited for. Raises its error."""
        with self._change:
            while (target, number) not in self._results:
                if self._defect is not None:
                    raise self._defect
                self._change.wait(POLL_SECONDS)
            result = self._results.pop((target, number))
        if result.error is not None:
            raise result.error
        return result

    def _work(self, hand: Hand) -> None:
        try:
            self._take_steps(hand)
            hand.close()
        except BaseException as error:  # no hand should; without a word the main thread would wait for ever
            self._defect = error

    def _take_steps(self, hand: Hand) -> None:
        target = 0
        while (step := self._next(hand, target)) is not None:
            target = step.target
            result = hand.do(step)
            with self._change:
                del self._doing[hand]
                self._results[step[:2]] = result
                if not step.number and not self._only_load:
                    of = len(result.models)
                    self._models[target] = deque(Step(target, n, of, m) for n, m in enumerate(result.models, 1))
                if result.ends:
                    self._end = min(self._end, step)
                self._change.notify_all()

    def _next(self, hand: Hand, target: int) -> Step | None:
        """What a hand that is at ``target`` does next; waits while others may still find models."""
        with self._change:
            while True:
                queues = [self._models.get(target, deque()), self._unloaded, *self._models.values()]
                for queue in queues:
                    if queue and queue[0] < self._end:
                        self._doing[hand] = queue.popleft()
                        return self._doing[hand]
                if all(step.number or step > self._end for step in self._doing.values()):
                    return None
                self._change.wait()
