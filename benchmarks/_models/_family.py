"""What a family is, and the initializers that several of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import init


@dataclass(frozen=True)
class Family:
    """One architecture at the initialization that its authors prescribe. ``draw`` makes a random input of its kind."""

    make: Callable[[], nn.Module]
    draw: Callable[[], Any]


def he_(model: nn.Module, mode: str = "fan_in") -> None:
    """He et al. 2015 for every linear layer and convolution below ``model``; biases at zero."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)


def normal_(model: nn.Module, std: float, *kinds: type[nn.Module]) -> None:
    """N(0, std) for the weights of every module of ``kinds`` (linear layers by default); biases at zero."""
    for module in model.modules():
        if isinstance(module, kinds or (nn.Linear,)):
            init.normal_(module.weight, std=std)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)


def xavier_(model: nn.Module) -> None:
    """Glorot & Bengio 2010 for every linear layer below ``model``; biases at zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)


def noise(*shape: int) -> Callable[[], Tensor]:
    """Draws N(0, 1)."""
    return lambda: torch.randn(shape)


def ids(below: int, *shape: int) -> Callable[[], Tensor]:
    """Draws whole numbers."""
    return lambda: torch.randint(below, shape)
