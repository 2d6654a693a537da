"""Plain nets to put a fault into: healthy as built."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import initaudit
from initaudit.records import Finding, Report


def net(
    depth: int = 12,
    width: int = 128,
    activation: Callable[[], nn.Module] = nn.ReLU,
    gain: float = 2**0.5,
    *,
    bias: bool = True,
    seed: int = 0,
) -> nn.Sequential:
    """``depth`` linear layers with their activations at even indices, and a head at index ``2 * depth``."""
    torch.manual_seed(seed)
    steps: list[nn.Module] = []
    for i in range(depth + 1):
        layer = nn.Linear(width, width if i < depth else 10, bias=bias)
        nn.init.normal_(layer.weight, std=(gain if i < depth else 1.0) / width**0.5)
        if bias:
            nn.init.zeros_(layer.bias)
        steps += [layer, activation()]
    return nn.Sequential(*steps[:-1])


def batch(width: int = 128, samples: int = 32, seed: int = 1) -> Tensor:
    return torch.randn(samples, width, generator=torch.Generator().manual_seed(seed))


def scale(layer: nn.Module, factor: float) -> None:
    with torch.no_grad():
        layer.weight.mul_(factor)  # type: ignore[operator, union-attr]


def alarms(report: Report) -> list[Finding]:
    return [f for f in report.findings if f.severity.value != "note"]


def roots(report: Report) -> list[tuple[str, str]]:
    """Code and place of each root cause, notes left out."""
    return [(f.code, f.fqn) for f in alarms(report) if f.root_cause]


def found(report: Report, code: str) -> Finding:
    """The one finding of that code."""
    (finding,) = [f for f in report.findings if f.code == code]
    return finding


def cured(model: nn.Module, report: Report, inputs: Tensor) -> Report:
    """The audit after the advice was applied."""
    initaudit.reinitialize_(model, report)
    return initaudit.audit(model, inputs)
