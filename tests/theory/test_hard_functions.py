"""Functions that quadrature finds hard: steps, poles, fast oscillation, fast growth, low precision."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from initaudit.errors import UnknownActivationError
from initaudit.theory.activations import FORMS, GATES
from initaudit.theory.elementwise import analyse, describe, gain, moments_of
from initaudit.theory.gains import Stability

EULER = 0.5772156649015329
CLOSED_FORMS: list[tuple[str, Callable[[Tensor], Tensor], float, float]] = [
    # name, function, E[phi^2], E[phi'^2]
    ("step", lambda x: (x > 0.3).to(x.dtype), 0.5 * math.erfc(0.3 / math.sqrt(2)), 0),
    ("sign", torch.sign, 1, 0),
    ("heaviside", lambda x: torch.heaviside(x, x.new_tensor(0.5)), 0.5, 0),
    ("exp", torch.exp, math.e**2, math.e**2),
    ("exp(2x)", lambda x: torch.exp(2 * x), math.e**8, 4 * math.e**8),
    ("exp(x^2/8)", lambda x: torch.exp(x * x / 8), math.sqrt(2), 2**1.5 / 16),
    ("cos", torch.cos, (1 + math.e**-2) / 2, (1 - math.e**-2) / 2),
    ("sin(30x)", lambda x: torch.sin(30 * x), 0.5, 450),
    ("sin(3000x)", lambda x: torch.sin(3000 * x), 0.5, 4.5e6),
    ("sqrt|x|", lambda x: x.abs().sqrt(), math.sqrt(2 / math.pi), math.inf),
    ("log|x|", lambda x: x.abs().log(), ((EULER + math.log(2)) / 2) ** 2 + math.pi**2 / 8, math.inf),
    ("|x|^1.5", lambda x: x.abs() ** 1.5, math.sqrt(8 / math.pi), 2.25 * math.sqrt(2 / math.pi)),
    ("x^10", lambda x: x**10, 654729075, 100 * 34459425),
    ("saw", lambda x: x - torch.floor(x), 1 / 3, 1),
    ("relu(x-6)", lambda x: F.relu(x - 6), 4.844576752e-11, 9.865876450e-10),
]


@pytest.mark.parametrize(("name", "function", "second", "derivative"), CLOSED_FORMS, ids=[c[0] for c in CLOSED_FORMS])
def test_moments_in_closed_form(
    name: str, function: Callable[[Tensor], Tensor], second: float, derivative: float
) -> None:
    analysis = analyse(function)
    assert analysis.second_moment == pytest.approx(second, rel=1e-8)
    assert analysis.derivative_second_moment == pytest.approx(derivative, rel=1e-8)


@pytest.mark.parametrize(
    "function",
    [lambda x: 1 / x, lambda x: 1 / (x - 0.3), torch.tan, lambda x: torch.exp(x * x / 3), lambda x: x.abs() ** -0.5],
    ids=["1/x", "1/(x-0.3)", "tan", "exp(x^2/3)", "|x|^-0.5"],
)
def test_an_infinite_moment_is_no_gain(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnknownActivationError, match="does not converge"):
        analyse(function)


def test_what_cannot_be_followed_is_refused_instead_of_guessed() -> None:
    with pytest.raises(UnknownActivationError, match="oscillates faster than quadrature can follow"):
        gain(lambda x: torch.sin(1e6 * x))


def test_a_function_that_overflows_far_out_is_looked_at_near_one_alone() -> None:
    """exp(2x) to the fourth power is infinite at 128; E[phi^2] = exp(8 q) and q* = 1 with its own gain."""
    analysis = analyse(lambda x: torch.exp(2 * x))
    assert analysis.fixed_point.q == 1
    assert analysis.fixed_point.slope == pytest.approx(8, rel=1e-6)
    assert analysis.fixed_point.stability is Stability.UNSTABLE


PRECISIONS: list[tuple[Callable[[Tensor], Tensor], float]] = [
    (lambda x: F.gelu(x.float()), 1e-6),
    (lambda x: F.gelu(x.float()).to(x.dtype) * 1.1 / 1.1, 1e-6),
    (lambda x: F.gelu(x.half()).to(x.dtype), 1e-3),
    (lambda x: F.gelu(x.bfloat16()).to(x.dtype), 1e-3),
]


@pytest.mark.parametrize(("function", "tolerance"), PRECISIONS, ids=["float", "float mixed", "half", "bfloat16"])
def test_low_precision_inside(function: Callable[[Tensor], Tensor], tolerance: float) -> None:
    assert gain(function) == pytest.approx(gain("gelu"), rel=tolerance)


def test_a_function_that_takes_float32_alone() -> None:
    def single(x: Tensor) -> Tensor:
        if x.dtype is not torch.float32:
            raise TypeError("float32 only")
        return F.gelu(x)

    assert describe(single).name == "gelu"
    assert gain(single, backward=True) == pytest.approx(gain("gelu", backward=True), rel=1e-6)


def test_truth_values_are_no_signal() -> None:
    with pytest.raises(UnknownActivationError, match=r"bool values, which carry no signal.*\.to\(x\.dtype\)"):
        analyse(lambda x: x > 0)


def test_answers_that_differ_are_told() -> None:
    calls = [0]

    def counted(x: Tensor) -> Tensor:
        calls[0] += 1
        return x * calls[0]

    with pytest.raises(UnknownActivationError, match="two answers to one input"):
        gain(counted)


def test_small_functions_keep_their_name() -> None:
    assert describe(lambda x: 1e-20 * torch.tanh(x)).name == "1e-20*tanh"
    assert describe(lambda x: 1e-4 * F.silu(x)).name == "0.0001*silu"


# Laws


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(sorted(set(FORMS) - {"threshold"})),
    st.sampled_from(sorted(FORMS)),
    st.floats(0.2, 2),
    st.integers(0, 9),
)
def test_any_sum_of_functions_agrees_with_a_sample(first: str, second: str, weight: float, seed: int) -> None:
    def function(x: Tensor) -> Tensor:
        return FORMS[first](x) + weight * FORMS[second](0.7 * x - 0.2)

    z = torch.from_numpy(np.random.default_rng(seed).standard_normal(200_000)).requires_grad_()
    y = function(z)
    (slope,) = torch.autograd.grad(y.sum(), z)
    for backward, sampled in ((False, y), (True, slope)):
        squares = sampled.detach().square()
        error = float(squares.std() / math.sqrt(len(z)))
        moment = gain(function, backward=backward) ** -2
        assert moment == pytest.approx(float(squares.mean()), abs=5.5 * error + 1e-9)


@settings(max_examples=12, deadline=None)
@given(st.floats(0.05, 20), st.floats(-0.9, 0.9))
def test_a_homogeneous_function_keeps_every_length(scale: float, slope: float) -> None:
    """``phi(s x) = s phi(x)``: the gain of ``phi(s x)`` is that of phi over s, and every q is a fixed point."""
    stretched = analyse(lambda x: F.leaky_relu(scale * x, slope))
    assert stretched.gain == pytest.approx(math.sqrt(2 / (1 + slope**2)) / scale, rel=1e-9)
    assert stretched.backward_gain == pytest.approx(stretched.gain, rel=1e-9)
    assert stretched.fixed_point.stability is Stability.NEUTRAL


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(GATES)), st.floats(0.1, 5))
def test_the_moments_of_a_gate_are_products(gate: str, q: float) -> None:
    whole, inner = moments_of(gate).at(q), moments_of(GATES[gate]).at(q)
    assert whole.second_moment == pytest.approx(q * inner.second_moment)
    assert whole.derivative_second_moment == pytest.approx(inner.second_moment + q * inner.derivative_second_moment)


def test_the_gain_does_not_follow_the_module_it_was_copied_from() -> None:
    module = nn.PReLU()
    before = gain(module)
    with torch.no_grad():
        module.weight.fill_(1.0)
    assert (before, gain(module)) == (pytest.approx(gain("prelu")), pytest.approx(1.0))
