"""What a report says of its own cost: the parts are the model's and add up, and nothing of the audit is among them."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import initaudit
from initaudit.probe import backward
from initaudit.records import Report
from initaudit.testing import assert_initialized

BUILD, FORWARD, BACKWARD, REDUCE, DIAGNOSE = 3.0, 5.0, 7.0, 11.0, 13.0


class Stopped:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Stopped:
    stopped = Stopped()
    monkeypatch.setattr(time, "perf_counter", stopped)
    return stopped


def model_that_takes(clock: Stopped) -> nn.Module:
    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            clock.now += BACKWARD
            return grad

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            clock.now += BUILD
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            clock.now += FORWARD
            return Slow.apply(self.layer(x))  # type: ignore[no-any-return, no-untyped-call]

    return Net()


def seconds(report: Report) -> tuple[float, float, float]:
    assert report.trace is not None
    return report.seconds, report.trace.model_seconds, report.trace.build_seconds


def test_a_model_that_is_there(clock: Stopped) -> None:
    model = model_that_takes(clock)
    assert seconds(initaudit.audit(model, torch.randn(4, 8))) == (FORWARD + BACKWARD, FORWARD + BACKWARD, 0)


def test_further_builds_are_the_audits_own(clock: Stopped) -> None:
    report = initaudit.audit(lambda: model_that_takes(clock), torch.randn(4, 8))
    passes = FORWARD + BACKWARD
    assert seconds(report) == (3 * BUILD + passes, passes, BUILD)


def test_draws_add_up(clock: Stopped) -> None:
    report = initaudit.audit(lambda: model_that_takes(clock), torch.randn(4, 8), seeds=3)
    passes = FORWARD + BACKWARD
    assert seconds(report) == (5 * BUILD + 3 * passes, 3 * passes, 3 * BUILD)


def test_measuring_and_judging_are_no_part_of_the_models_passes(
    clock: Stopped, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(action: Any, taking: float) -> Any:
        def act(*args: Any, **options: Any) -> Any:
            clock.now += taking
            return action(*args, **options)

        return act

    monkeypatch.setattr(backward, "norm_and_check", slowly(backward.norm_and_check, REDUCE))
    monkeypatch.setattr("initaudit.engine.diagnose", slowly(initaudit.engine.diagnose, DIAGNOSE))  # type: ignore
    model = model_that_takes(clock)
    report = initaudit.audit(model, torch.randn(4, 8))
    passes = FORWARD + BACKWARD
    assert seconds(report) == (passes + 2 * REDUCE + DIAGNOSE, passes, 0)


def test_inputs_that_were_tried_in_vain_are_the_audits_own(clock: Stopped) -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3)
            self.tries = 0

        def forward(self, x: Tensor) -> Tensor:
            clock.now += FORWARD
            if x.shape[-1] == self.convolution.in_channels or tried.append(x.shape) or len(tried) < 2:
                raise ValueError("another size")
            return self.convolution(x)

    tried: list[Any] = []
    total, passes, _ = seconds(initaudit.audit(Picky()))
    assert (total, passes) == (2 * FORWARD, FORWARD)


def test_table_and_json_say_so(clock: Stopped) -> None:
    report = initaudit.audit(lambda: model_that_takes(clock), torch.randn(4, 8))
    console = Console(file=io.StringIO(), width=200, no_color=True)
    console.print(report)
    shown = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "audit 21.0 s, of which the model's own passes 12.0 s and building it 3.0 s" in shown
    written = report.to_dict()
    assert [written[name] for name in ("seconds", "model_seconds", "build_seconds")] == [21.0, 12.0, 3.0]


def test_the_figures_hold_for_a_real_clock() -> None:
    model = nn.Sequential(*(m for _ in range(20) for m in (nn.Linear(64, 64), nn.ReLU())))
    total, passes, building = seconds(initaudit.audit(model, torch.randn(32, 64)))
    assert 0 < passes < total
    assert 0 <= building < total
    assert_initialized(nn.Linear(8, 8))
