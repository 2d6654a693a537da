"""Gains by depth and by the zeros around a map: what they keep is simulated with wide random layers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from initaudit.advice.depth import gains_for
from initaudit.advice.padding import kept
from initaudit.theory.elementwise import describe

Function = Callable[[Tensor], Tensor]


def simulated(phi: Function, first: float, inner: float, depth: int, width: int = 512) -> tuple[float, float, float]:
    """The smallest and the largest rms of a pre-activation, and the growth of the gradient's."""
    torch.manual_seed(0)
    x, sizes = torch.randn(16, width), []
    for place in range(depth):
        weight = torch.randn(width, width) * (inner if place else first) / math.sqrt(width)
        z = x @ weight.T
        if not place:
            z.requires_grad_()
            start = z
        sizes.append(z.detach().square().mean().sqrt().item())
        x = phi(z)
    (gradient,) = torch.autograd.grad(z, start, torch.randn_like(z))
    return min(sizes), max(sizes), gradient.square().mean().sqrt().item()


@pytest.mark.parametrize("depth", [30, 50])
@pytest.mark.parametrize("phi", [torch.tanh, F.softsign, torch.erf, torch.sin, F.hardtanh])
def test_signal_and_gradient_keep_to_their_bands_where_a_fixed_point_is_stable(phi: Function, depth: int) -> None:
    activation = describe(phi)
    found = gains_for(activation, depth)
    assert found is not None
    smallest, largest, growth = simulated(phi, found.first, found.inner, depth)
    assert 0.5 < smallest < largest < 2
    assert 1 < growth < 10
    assert growth == pytest.approx(found.growth, rel=0.35)
    assert max(1 / smallest, largest) == pytest.approx(found.spread, rel=0.15)
    _, _, usual = simulated(phi, activation.gain, activation.gain, depth)
    assert usual > 1.5 * growth


def test_where_the_usual_gains_do_they_stay() -> None:
    for phi in (F.relu, lambda x: F.leaky_relu(x, 0.2), F.relu6):
        assert gains_for(describe(phi), 500) is None, "to these one size is as good as any other"
    for phi in (torch.tanh, F.elu, F.selu, F.gelu, F.silu):
        assert all(gains_for(describe(phi), depth) is None for depth in range(1, 16))
    assert gains_for(describe(lambda x: torch.tanh(x) * torch.cos(x)), 50) is None, "it has no name to be known by"


@pytest.mark.parametrize("phi", [F.gelu, F.silu])
def test_what_runs_away_runs_slower_from_a_larger_start(phi: Function) -> None:
    activation = describe(phi)
    found = gains_for(activation, 50)
    assert found is not None
    assert found.first > 1.5
    assert found.inner < activation.gain
    _, usual, steep = simulated(phi, 1.0, activation.gain, 50)
    _, largest, growth = simulated(phi, found.first, found.inner, 50)
    assert largest < usual / 2
    assert growth < steep / 4


def test_a_multiple_of_a_function_has_the_gain_of_that_multiple() -> None:
    plain, half = (gains_for(describe(phi), 50) for phi in (torch.tanh, lambda x: 0.5 * torch.tanh(x)))
    assert plain is not None
    assert half is not None
    assert (half.first, half.inner) == (plain.first, pytest.approx(2 * plain.inner, rel=1e-4))
    assert (half.spread, half.growth) == (pytest.approx(plain.spread), pytest.approx(plain.growth))


def test_deeper_stacks_get_smaller_gains() -> None:
    found = [gains_for(describe(torch.tanh), depth) for depth in (30, 40, 50, 60)]
    inner = [gains.inner for gains in found if gains is not None]
    assert len(inner) == 4
    assert inner == sorted(inner, reverse=True)


@pytest.mark.parametrize(("pixels", "taps"), [(4, 3), (8, 3), (6, 5)])
def test_the_share_that_zeros_leave_is_that_of_many_convolutions_in_a_row(pixels: int, taps: int) -> None:
    torch.manual_seed(0)
    x, sizes = torch.randn(8, 64, pixels, pixels), []
    for _ in range(16):
        conv = nn.Conv2d(64, 64, taps, padding=taps // 2, bias=False)
        nn.init.orthogonal_(conv.weight.data)
        x = conv(x).detach()
        sizes.append(math.log(x.square().mean().item()))
    share = math.exp((sizes[-1] - sizes[3]) / 12)
    assert share == pytest.approx(kept((pixels, pixels), (pixels, pixels), (taps, taps)), rel=0.1)


def test_maps_that_shrink_and_kernels_of_one_tap_lose_nothing() -> None:
    assert kept((8, 8), (6, 6), (3, 3)) == 1.0
    assert kept((8, 8), (8, 8), (1, 1)) == 1.0
    assert kept((257,), (257,), (15,)) == pytest.approx(kept((256,), (256,), (15,)), abs=5e-5)
    assert kept((10**6,), (10**6,), (3,)) == pytest.approx(1.0)
    assert kept((8,), (8,), (3,)) == pytest.approx((1 + 2 * math.cos(math.pi / 9)) / 3)
