"""The order of work and of results, with hands that only write down what they are told to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initaudit.cli.crew import Crew, Result, Step

Do = Callable[[Step], None]


class Hand:
    """Target ``t`` holds ``models[t]`` models; ``do`` runs before each step, ``ending`` are steps that end the run."""

    def __init__(
        self, models: Sequence[int], seen: list[tuple[int, int]], do: Do, ending: Sequence[tuple[int, int]]
    ) -> None:
        self.models, self.seen, self.before, self.ending = models, seen, do, ending
        self.mine: list[int] = []
        self.killed = threading.Event()
        self.closed = False

    def do(self, step: Step) -> Result:
        self.seen.append(step[:2])
        self.mine.append(step.target)
        try:
            self.before(step)
        except RuntimeError as error:
            return Result(error=error, ends=True)
        ends = step[:2] in self.ending
        names = tuple(f"{step.target}.{n}" for n in range(1, self.models[step.target] + 1))
        return Result(() if ends or step.number else names, ends=ends, remark=step.model)

    def kill(self) -> None:
        self.killed.set()

    def close(self) -> None:
        self.closed = True


def crew(
    count: int, models: Sequence[int], do: Do = lambda step: None, ending: Sequence[tuple[int, int]] = ()
) -> tuple[list[Hand], list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []
    return [Hand(models, seen, do, ending) for _ in range(count)], seen


def results(working: Crew, models: Sequence[int]) -> list[str]:
    """As the command reads them: up to the first result that ends the run."""
    remarks: list[str] = []
    for target in range(len(models)):
        loaded = working.result(target)
        for number in range(1, len(loaded.models) + 1):
            result = working.result(target, number)
            remarks.append(result.remark)
            if result.ends:
                return remarks
        if loaded.ends:
            return remarks
    return remarks


def test_one_hand_does_all_in_order() -> None:
    (hand,), seen = crew(1, [2, 0, 1])
    with Crew([hand], 3) as working:
        assert results(working, [2, 0, 1]) == ["0.1", "0.2", "2.1"]
    assert seen == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)]
    assert hand.closed


def test_without_audits_targets_are_loaded_and_nothing_else() -> None:
    hands, seen = crew(2, [2, 3])
    with Crew(hands, 2, only_load=True) as working:
        assert [working.result(target).models for target in (0, 1)] == [("0.1", "0.2"), ("1.1", "1.2", "1.3")]
    assert sorted(seen) == [(0, 0), (1, 0)]


def test_each_hand_keeps_to_a_target_while_it_has_models() -> None:
    both = threading.Barrier(2, timeout=10)
    hands, _ = crew(2, [3, 3], lambda step: both.wait() and None)
    with Crew(hands, 2) as working:
        results(working, [3, 3])
    assert sorted(tuple(set(hand.mine)) for hand in hands) == [(0,), (1,)]


def test_an_idle_hand_helps_with_the_models_of_another_target() -> None:
    both = threading.Barrier(2, timeout=10)
    hands, _ = crew(2, [4], lambda step: step.number and both.wait() and None)
    with Crew(hands, 1) as working:
        assert results(working, [4]) == ["0.1", "0.2", "0.3", "0.4"]  # the barrier lets none pass alone
    assert sorted(len(hand.mine) for hand in hands) == [2, 3]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.lists(st.integers(0, 4), max_size=5), st.randoms())
def test_results_come_in_the_order_of_the_command_line_whoever_is_first(count, models, random) -> None:
    delays = {(t, n): random.choice([0, 0, 1e-3]) for t in range(len(models)) for n in range(5)}
    hands, seen = crew(count, models, lambda step: time.sleep(delays[step[:2]]))
    with Crew(hands, len(models)) as working:
        assert results(working, models) == [f"{t}.{n}" for t, size in enumerate(models) for n in range(1, size + 1)]
    assert sorted(seen) == [(t, n) for t, size in enumerate(models) for n in range(size + 1)]
    assert all(hand.closed for hand in hands)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("ending", [(1, 2), (1, 0)])
def test_nothing_behind_the_end_is_started_and_all_before_it_is_done(count: int, ending: tuple[int, int]) -> None:
    hands, seen = crew(count, [2, 3, 2], ending=[ending, (2, 1)])
    expected = ["0.1", "0.2", *[f"1.{n}" for n in range(1, 4)][: ending[1]]]
    with Crew(hands, 3) as working:
        got = results(working, [2, 3, 2])
    assert got[: len(expected)] == expected
    if count == 1:
        assert seen[-1] == ending
    assert not any(hand.killed.is_set() and hand.closed is False for hand in hands)


def test_who_works_behind_the_end_is_ended() -> None:
    started = threading.Event()
    hands: list[Hand] = []

    def do(step: Step) -> None:
        if step[:2] == (1, 0):
            started.set()
            assert next(h for h in hands if 1 in h.mine).killed.wait(10)
        elif step[:2] == (0, 1):
            assert started.wait(10)

    hands, _ = crew(2, [1, 1], do, ending=[(0, 1)])
    with Crew(hands, 2) as working:
        assert results(working, [1, 1]) == ["0.1"]
    assert sorted(hand.killed.is_set() for hand in hands) == [False, True]


def test_an_error_is_raised_in_its_turn_and_ends_the_run() -> None:
    def do(step: Step) -> None:
        if step[:2] == (0, 2):
            raise RuntimeError("no sense")

    hands, seen = crew(1, [3, 1], do)
    with Crew(hands, 2) as working:
        assert working.result(0).models == ("0.1", "0.2", "0.3")
        assert working.result(0, 1).remark == "0.1"
        with pytest.raises(RuntimeError, match="no sense"):
            working.result(0, 2)
    assert seen[-1] == (0, 2)


def test_a_hand_that_breaks_is_no_reason_to_wait_for_ever() -> None:
    def do(step: Step) -> None:
        raise ZeroDivisionError("a defect")

    hands, _ = crew(1, [1], do)
    with Crew(hands, 1) as working, pytest.raises(ZeroDivisionError, match="a defect"):
        working.result(0)


def test_leaving_by_an_exception_ends_all_hands() -> None:
    started = threading.Semaphore(0)
    hands: list[Hand] = []

    def do(step: Step) -> None:
        started.release()
        for hand in hands:
            assert hand.killed.wait(10)

    def interrupted() -> None:
        with Crew(hands, 2):
            started.acquire()
            started.acquire()
            raise KeyboardInterrupt

    hands, _ = crew(2, [1, 1], do)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(hand.closed for hand in hands)
