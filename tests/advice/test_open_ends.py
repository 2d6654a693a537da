"""What is said of that which no initialization mends."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from initaudit import audit
from initaudit.advice.open_ends import remarks
from tests.advice.models import vectors


class Unseen(nn.Module):
    """Six times a product with a matrix by an operation of one's own making."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(64, 64)) for _ in range(6))
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = F.relu(torch.einsum("bi,ij,b->bj", x, weight, x.mean(1).sigmoid()))
        return self.head(x)


def plain(phi: Callable[[], nn.Module], depth: int, gain: float) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(64, 64) for _ in range(depth)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=gain / 8)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*[part for layer in layers for part in (layer, phi())])


def test_a_stack_that_is_too_deep_for_any_gain_is_told_with_figures() -> None:
    told = remarks(audit(plain(nn.SiLU, 80, 1.677), vectors()))
    assert told
    assert "of all gains the best still lets the rms leave 1 by a factor of" in told[0]
    assert "in 80 layers of silu in a row: a normalization, residual connections or fewer layers would help" in told[0]


def test_of_a_stable_activation_it_is_not_said_that_it_runs_away() -> None:
    told = remarks(audit(plain(nn.ELU, 30, 0.3), vectors()))
    assert told
    assert not any("of all gains" in remark for remark in told)


def test_matrices_that_no_layer_reads_are_named() -> None:
    torch.manual_seed(0)
    (told,) = remarks(audit(Unseen(), vectors()))
    assert "no plan is made for weights.0, weights.1, weights.2 and 3 more" in told
