"""Gradients of parameters are reduced to their rms as soon as they are complete, and freed."""

import pytest
import torch
from torch import nn

from initaudit.probe.backward import parameter_gradients
from tests.probe.probing import randn


def test_the_rms_is_exact_and_the_gradient_is_freed() -> None:
    layer = nn.Linear(3000, 500, bias=False)
    scale = randn(500, 3000) * torch.linspace(0.1, 5, 3000)
    with parameter_gradients(layer) as gradients:
        (layer.weight * scale).sum().backward()
        assert layer.weight.grad is None
    rms, bad = gradients["weight"]
    assert rms == pytest.approx(scale.double().square().mean().sqrt().item(), rel=1e-5)
    assert bad == 0


def test_squares_of_the_gradients_of_several_passes_add() -> None:
    layer = nn.Linear(4, 4, bias=False)
    with parameter_gradients(layer) as gradients:
        (layer.weight * 3).sum().backward()
        (layer.weight * 4).sum().backward()
    assert gradients == {"weight": (pytest.approx(5.0), 0)}


def test_rows_that_a_sparse_gradient_leaves_out_count_as_zero() -> None:
    table = nn.Embedding(10, 4, sparse=True)
    with parameter_gradients(table) as gradients:
        (table(torch.tensor([1, 7])) * 2).sum().backward()
    assert gradients == {"weight": (pytest.approx((2 * 4 / 10) ** 0.5), 0)}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_value_that_is_not_finite_is_told(value: float) -> None:
    layer = nn.Linear(300, 300, bias=False)
    scale = torch.ones(300, 300)
    scale[7, 9] = value
    with parameter_gradients(layer) as gradients:
        (layer.weight * scale).sum().backward()
    assert gradients["weight"][1] == 1


def test_huge_but_finite_values_are_not_called_infinite() -> None:
    layer = nn.Linear(64, 64, bias=False)
    with parameter_gradients(layer) as gradients:
        (layer.weight * 1e25).sum().backward()
    assert gradients["weight"][1] == 0


def test_hooks_are_gone_afterwards_and_after_a_failure() -> None:
    layer = nn.Linear(4, 4)
    with pytest.raises(RuntimeError), parameter_gradients(layer):
        raise RuntimeError
    layer(torch.ones(1, 4)).sum().backward()
    assert layer.weight.grad is not None
