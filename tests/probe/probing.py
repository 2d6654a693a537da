"""Short ways to audit a small model and to ask for what was seen of one layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import initaudit
from initaudit.records import Layer, Report


class Call(nn.Module):
    """A module whose forward is ``function(self, *args)`` over the given submodules and parameters."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parameter(*shape: int, std: float = 0.1, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(randn(*shape, seed=seed) * std)


def audit(model: nn.Module, *inputs: Any, **options: Any) -> Report:
    return initaudit.audit(model, inputs if len(inputs) != 1 else inputs[0], **options)


def by_fqn(report: Report) -> dict[str, Layer]:
    """Layers by fqn; fails where one fqn stands twice (an embedding and the head that is tied to it may)."""
    found = {layer.fqn: layer for layer in report.layers}
    assert len(found) == len(report.layers)
    return found


def codes(report: Report, *severities: str) -> list[str]:
    return [f.code for f in report.findings if not severities or f.severity.value in severities]
