"""The prediction through depth against closed forms, and against networks that are wide."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from initaudit.theory.depth import Profile, Scheme, schemes_for, through_depth
from initaudit.theory.elementwise import analyse, moments_of, resolve_activation


def scheme(name: str, label: str, width: int = 256) -> Scheme:
    return next(s for s in schemes_for(analyse(name), width) if s.label == label)


def profile(name: str, label: str, depth: int, width: int = 256) -> Profile:
    return through_depth(moments_of(name), scheme(name, label, width), depth=depth, width=width)


def test_relu_by_hand() -> None:
    he = profile("relu", "He (relu)", 30)
    assert he.rms == pytest.approx([math.sqrt(2)] * 30)
    assert he.gradient == pytest.approx([1.0] * 30)
    xavier = profile("relu", "Xavier", 400)
    assert xavier.rms[300] == pytest.approx(2**-150.0, rel=1e-6)  # far below the smallest q that was tabulated
    assert xavier.gradient[0] == pytest.approx(2**-199.5, rel=1e-6)


def test_the_default_has_a_floor_of_biases() -> None:
    """q = (q/2)/3 + 1/(3 n) stands still at q = 2/(5 n)."""
    assert profile("relu", "torch's default", 40, width=100).rms[-1] == pytest.approx(math.sqrt(0.4 / 100))


def test_a_sine_by_its_closed_recursion() -> None:
    q, expected = 1.0, []
    g2 = analyse("sin").gain ** 2
    for _ in range(6):
        expected.append(math.sqrt(q))
        q = g2 * (1 - math.exp(-2 * q)) / 2
    assert profile("sin", "forward gain, first 1", 6).rms == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("name", ["gelu", "swiglu", "relu2"])
def test_an_unstable_fixed_point_holds_in_theory(name: str) -> None:
    assert profile(name, "forward gain, first 1", 500).rms == pytest.approx([1.0] * 500)


def test_what_explodes_and_what_dies_ends_at_infinity_and_zero() -> None:
    assert profile("swiglu", "He (relu)", 60).rms[-1] == math.inf
    assert profile("swiglu", "Xavier", 60).rms[-1] == 0


def test_a_gain_that_does_not_exist_is_no_scheme() -> None:
    nothing = analyse(lambda x: 0 * x)
    assert [s.label for s in schemes_for(nothing, 64)] == ["torch's default", "Xavier", "He (relu)"]
    labels = [s.label for s in schemes_for(analyse(torch.sign), 64)]
    assert labels[-2:] == ["forward gain", "forward gain, first 1"]


def test_which_schemes_there_are() -> None:
    labels = [s.label for s in schemes_for(analyse("tanh"), 64)]
    assert labels == [
        "torch's default", "Xavier", "He (relu)", "calculate_gain", "forward gain", "forward gain, first 1",
        "backward gain, first 1",
    ]  # fmt: skip
    assert "calculate_gain" not in [s.label for s in schemes_for(analyse("gelu"), 64)]
    assert scheme("tanh", "calculate_gain", 64).std == pytest.approx(5 / 3 / 8)
    assert scheme("swiglu", "Xavier", 64).std == pytest.approx(math.sqrt(2 / (64 + 128)))
    default = scheme("relu", "torch's default", 64)
    layer = torch.nn.Linear(64, 64)
    bound = 1 / math.sqrt(64)
    assert layer.weight.abs().max().item() <= bound
    assert (default.std, default.bias_std) == (pytest.approx(bound / math.sqrt(3)), pytest.approx(bound / math.sqrt(3)))


def run(function: torch.nn.Module, given: Scheme, depth: int, width: int) -> tuple[list[float], float]:
    """The rms of each pre-activation of one network, and the gradient's at the first layer over the last."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, width, generator=generator)
    zs: list[Tensor] = []
    for i in range(depth):
        std = given.first_std if i == 0 else given.std
        z = x @ (std * torch.randn(width, width, generator=generator))
        z = (z + given.bias_std * torch.randn(width, generator=generator)).requires_grad_()
        z.retain_grad()
        zs.append(z)
        x = function(z)
    zs[-1].backward(torch.randn(32, width, generator=generator))
    first, last = zs[0].grad, zs[-1].grad
    assert first is not None
    assert last is not None
    return [float(z.detach().square().mean().sqrt()) for z in zs], float(first.norm() / last.norm())


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(["relu", "tanh", "selu", "elu", "softsign", "sigmoid"]),
    st.sampled_from(["torch's default", "Xavier", "forward gain, first 1", "backward gain, first 1"]),
)
def test_a_wide_network_does_what_is_predicted(name: str, label: str) -> None:
    depth, width = 6, 512
    rms, gradient = run(resolve_activation(name).fn, scheme(name, label, width), depth, width)  # type: ignore[arg-type]
    expected = profile(name, label, depth, width)
    assert rms == pytest.approx(expected.rms, rel=0.12)
    assert gradient == pytest.approx(expected.gradient[0], rel=0.2)
