"""A branch that dies out beside one that lives, and the many concatenations that are healthy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import initaudit
from initaudit.records import Report
from initaudit.rules import find_rule
from initaudit.rules.flow import Flow
from tests.rules.nets import found

WIDTH = 64


def batch(seed: int = 1, width: int = WIDTH) -> Tensor:
    return torch.randn(32, width, generator=torch.Generator().manual_seed(seed))


def tower(depth: int, gain: float = 2**0.5) -> nn.Sequential:
    """Linear layers with ReLUs, He-initialized; or torch's default, for a gain of 0."""
    linears = [nn.Linear(WIDTH, WIDTH) for _ in range(depth)]
    for linear in linears if gain else ():
        nn.init.normal_(linear.weight, std=gain / WIDTH**0.5)
        nn.init.zeros_(linear.bias)
    return nn.Sequential(*(m for linear in linears for m in (linear, nn.ReLU())))


class Net(nn.Module):
    """Two towers, what joins them, and a head; on one input or on two."""

    def __init__(self, deep: nn.Module, wide: nn.Module, join: nn.Module | None = None, trunk: nn.Module | None = None):
        super().__init__()
        self.trunk = trunk or nn.Identity()
        self.deep, self.wide, self.join, self.head = deep, wide, join or nn.Identity(), nn.Linear(2 * WIDTH, 10)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        x = self.trunk(x)
        joined = torch.cat([self.deep(x), self.wide(x if other is None else other)], 1)
        result: Tensor = self.head(self.join(joined))
        return result


def alarms(report: Report) -> list[tuple[str, str, str]]:
    return [(f.code, f.severity.value, f.fqn) for f in report.findings if f.severity.value != "note"]


def audit(deep: nn.Module, wide: nn.Module | None = None, **parts: nn.Module) -> Report:
    return initaudit.audit(Net(deep, wide or tower(3), **parts), batch())


@pytest.mark.parametrize(
    ("depth", "gain"), [(12, 0.0), (12, 0.16), (4, 0.02)], ids=["torch-default", "std-0.02", "std-0.0025"]
)
def test_a_branch_that_dies_is_named_by_its_first_layer_and_cured_there(depth: int, gain: float) -> None:
    torch.manual_seed(0)
    report = audit(tower(depth, gain))
    assert alarms(report) == [("IA111", "warning", "deep.0")]
    finding = found(report, "IA111")
    assert finding.affected == tuple(f"deep.{2 * i}" for i in range(1, depth))
    assert "`cat` joins it" in finding.message
    assert finding.advice is not None
    assert finding.advice.scheme.startswith("kaiming")


def test_what_it_alone_reads_is_never_learned_and_so_an_error() -> None:
    torch.manual_seed(0)
    report = initaudit.audit(Net(tower(12, 0.0), tower(3)), (batch(), batch(2)))
    assert alarms(report) == [("IA111", "error", "deep.0")]


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_one_that_is_merely_smaller_is_learned(depth: int) -> None:
    torch.manual_seed(0)
    assert alarms(audit(tower(depth, 0.0))) == []


def test_towers_that_both_live() -> None:
    torch.manual_seed(0)
    assert alarms(audit(tower(20), tower(3))) == []


def test_layers_before_the_branch_are_not_counted_again() -> None:
    torch.manual_seed(0)
    report = audit(tower(5, 0.0), trunk=tower(5, 0.0))
    assert "IA111" not in {code for code, _, _ in alarms(report)}


def test_beside_an_input_as_it_is() -> None:
    torch.manual_seed(0)
    report = audit(tower(12, 0.0), nn.Identity(), join=nn.LayerNorm(2 * WIDTH))
    assert alarms(report) == [("IA111", "warning", "deep.0")]


def test_a_branch_on_a_branch() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dies, self.lives, self.mix = tower(12, 0.0), tower(2), nn.Linear(2 * WIDTH, WIDTH)
            nn.init.normal_(self.mix.weight, std=0.06)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.mix(torch.cat([self.dies(x), self.lives(x)], 1))
            return result

    torch.manual_seed(0)
    assert [(a[0], a[2]) for a in alarms(audit(Inner()))] == [("IA111", "deep.dies.0")]


@pytest.mark.parametrize(
    "norm", [lambda: nn.BatchNorm1d(2 * WIDTH), lambda: nn.GroupNorm(8, 2 * WIDTH)], ids=["batch", "group"]
)
def test_a_normalization_of_each_channel_gives_its_size_back(norm: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    dying = tower(9, 0.0)
    assert alarms(audit(dying, join=norm())) == []
    assert alarms(audit(dying, join=nn.Sequential(nn.ReLU(), norm()))) == []
    assert alarms(audit(dying, join=nn.LayerNorm(2 * WIDTH))) == [("IA111", "warning", "deep.0")]


def test_but_not_to_what_is_far_below_its_epsilon() -> None:
    torch.manual_seed(0)
    assert alarms(audit(tower(24, 0.0), join=nn.BatchNorm1d(2 * WIDTH))) == [("IA111", "warning", "deep.0")]


def test_a_branch_that_ends_in_a_normalization_has_its_size() -> None:
    torch.manual_seed(0)
    assert alarms(audit(nn.Sequential(tower(9, 0.0), nn.LayerNorm(WIDTH)))) == []


def test_a_small_part_of_a_sum_is_no_branch() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.deep, self.head = tower(9, 0.0), nn.Linear(WIDTH, 10)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(x + self.deep(x))
            return result

    torch.manual_seed(0)
    assert "IA111" not in {code for code, _, _ in alarms(initaudit.audit(Residual(), batch()))}


class Sum(nn.Module):
    """The sum of two towers, each with an input of its own."""

    def __init__(self, deep: nn.Module) -> None:
        super().__init__()
        self.deep, self.wide = deep, tower(3)
        self.head = nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 10))  # no norm tells what was added apart

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        result: Tensor = self.head(self.wide(other) + self.deep(x))
        return result


def test_but_one_of_a_sum_of_two_inputs_is() -> None:
    torch.manual_seed(0)
    inputs = batch(), batch(2)
    assert alarms(initaudit.audit(Sum(tower(12, 0.0)), inputs)) == [("IA111", "error", "deep.0")]
    assert alarms(initaudit.audit(Sum(tower(6, 0.0)), inputs)) == []


def test_many_joints_take_time_in_proportion() -> None:
    """Each operation is followed once, however many joints lead to it."""

    class Dense(nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8 * (i + 1), 8) for i in range(depth))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = torch.cat([x, torch.relu(layer(x)) + x[:, :8]], 1)
            return x

    torch.manual_seed(0)
    report = initaudit.audit(Dense(24), batch(width=8))
    assert report.trace is not None
    flow = Flow(report.trace)
    asked: list[int] = []
    source = flow.source
    flow.source = lambda op: asked.append(op.id) or source(op)  # type: ignore[method-assign,func-returns-value]
    assert not list(find_rule("IA111").check(flow))
    assert len(asked) <= 2 * len(report.trace.ops)


def test_a_branch_of_zeros_is_told_by_the_zeros() -> None:
    torch.manual_seed(0)
    deep = tower(3)
    nn.init.zeros_(deep[2].weight)  # type: ignore[arg-type]
    assert {code for code, _, _ in alarms(audit(deep))} == {"IA304"}


def test_one_faulty_weight_in_a_branch_is_one_finding() -> None:
    torch.manual_seed(0)
    deep = tower(3)
    with torch.no_grad():
        deep[2].weight.mul_(1e-4)  # type: ignore[operator]
    report = audit(deep)
    roots = [(f.code, f.fqn) for f in report.findings if f.root_cause and f.severity.value != "note"]
    assert roots == [("IA111", "deep.2")]
