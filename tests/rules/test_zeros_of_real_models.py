"""Zeros on purpose and by mistake, through the real probe: which of them training leaves, and which it never does.

The verdicts are those that five steps of SGD give on each model: a note where every parameter soon has a gradient, a
warning or an error where some never get one, or nothing passes at the start.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initaudit.probe.run import probe
from initaudit.rules.flow import Flow
from initaudit.rules.symmetric_units import RULE


def linear(fan_in: int = 32, fan_out: int = 32, *, zero: bool = False) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    if zero:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer


class Residual(nn.Module):
    def __init__(self, *, first: bool = False, last: bool = False, gate: bool = False) -> None:
        super().__init__()
        self.stem, self.head = linear(), linear()
        self.branch = nn.Sequential(linear(zero=first), nn.ReLU(), linear(zero=last))
        self.gate = nn.Parameter(torch.zeros(1)) if gate else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.branch(x)
        return self.head(x + (y if self.gate is None else y * self.gate))


class Lora(nn.Module):
    def __init__(self, *, a: bool = False, b: bool = False) -> None:
        super().__init__()
        self.base, self.a, self.b, self.head = linear(), linear(32, 4, zero=a), linear(4, 32, zero=b), linear()
        self.base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.base(x) + self.b(self.a(x)))


class AdaLN(nn.Module):
    def __init__(self, *, head: bool) -> None:
        super().__init__()
        self.condition, self.modulation, self.body = linear(), linear(32, 96, zero=True), linear()
        self.norm = nn.LayerNorm(32, elementwise_affine=False)
        self.head = linear(zero=head)

    def forward(self, x: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(F.silu(self.condition(x))).chunk(3, -1)
        return self.head(x + gate * self.body(self.norm(x) * (1 + scale) + shift))


class Attention(nn.Module):
    def __init__(self, *, key: bool) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = linear(zero=True), linear(zero=key), linear(), linear()

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(4, 8, 32)
        return self.out(F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x)))


def stack(activation: type[nn.Module], *zero: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for z in zero:
        layers += [linear(zero=z), activation()]
    return nn.Sequential(*layers[:-1])


CASES: dict[str, tuple[Callable[[], nn.Module], list[tuple[str, str]]]] = {
    "last layer of a branch": (lambda: Residual(last=True), [("branch.2", "note")]),
    "both layers of a branch": (lambda: Residual(first=True, last=True), [("branch.0", "warning")]),
    "ReZero": (lambda: Residual(gate=True), []),
    "gate and last layer": (lambda: Residual(last=True, gate=True), [("branch.2", "warning")]),
    "LoRA, B zero": (lambda: Lora(b=True), [("b", "note")]),
    "LoRA, A zero": (lambda: Lora(a=True), [("a", "note")]),
    "LoRA, both zero": (lambda: Lora(a=True, b=True), [("a", "warning")]),
    "adaLN-zero": (lambda: AdaLN(head=False), [("modulation", "note")]),
    "adaLN-zero and zero head": (lambda: AdaLN(head=True), [("modulation", "note"), ("head", "note")]),
    "query": (lambda: Attention(key=False), [("query", "note")]),
    "query and key": (lambda: Attention(key=True), [("query", "warning")]),
    "hidden layer, relu": (lambda: stack(nn.ReLU, False, True, False), [("2", "error")]),
    "hidden layer, tanh": (lambda: stack(nn.Tanh, False, True, False), [("2", "warning")]),
    "everything": (lambda: stack(nn.ReLU, True, True, True), [("0", "error"), ("4", "note")]),
    "head": (lambda: stack(nn.ReLU, False, True), [("2", "note")]),
}


@pytest.mark.parametrize("case", CASES)
def test_zeros(case: str) -> None:
    make, verdicts = CASES[case]
    torch.manual_seed(0)
    model = make()
    trace = probe(model, (torch.randn(32, 32),), {})
    assert [(o.fqn, (o.severity or RULE.severity).value) for o in RULE.check(Flow(trace))] == verdicts
