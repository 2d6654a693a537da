import math

import numpy as np
import pytest
import torch

import initaudit
from initaudit.theory.curves import curves


def test_a_curve_is_the_function_and_its_derivative() -> None:
    found = curves("tanh")
    assert found.phi == pytest.approx(np.tanh(found.x))
    assert found.derivative == pytest.approx(1 - np.tanh(found.x) ** 2)
    assert (found.x[0], found.x[-1]) == (-4.0, 4.0)


@pytest.mark.parametrize("name", ["tanh", "gelu", "selu"])
def test_moments_at_unit_size_are_those_of_the_gains(name: str) -> None:
    found = curves(name)
    at = int(np.argmin(np.abs(found.q - 1)))
    assert found.q[at] == pytest.approx(1)
    assert 1 / math.sqrt(found.second_moment[at]) == pytest.approx(initaudit.gain(name), rel=1e-9)
    backward = 1 / math.sqrt(found.derivative_second_moment[at])
    assert backward == pytest.approx(initaudit.gain(name, backward=True), rel=1e-9)


def test_relu_keeps_half_at_every_size() -> None:
    found = curves(torch.nn.ReLU())
    assert found.second_moment == pytest.approx(found.q / 2)
    assert (found.q[0], found.q[-1]) == pytest.approx((0.01, 100))


def test_a_gate_has_the_curve_of_its_inner_function_and_the_moments_of_the_whole() -> None:
    found = curves("bilinear")  # a * b
    assert found.phi == pytest.approx(found.x)
    assert found.second_moment == pytest.approx(found.q**2)


def test_a_function_that_overflows_far_out_has_sizes_near_one_only() -> None:
    found = curves(lambda x: torch.exp(4 * x))
    assert 0 < found.q[0] < 1 < found.q[-1] < 100
    assert np.log(found.second_moment) == pytest.approx(32 * found.q, rel=0.02)  # E[exp(8 x)] over N(0, q)


def test_channels_are_averaged() -> None:
    prelu = torch.nn.PReLU(2)
    with torch.no_grad():
        prelu.weight.copy_(torch.tensor([0.0, 0.5]))
    found = curves(prelu)
    assert found.phi[0] == pytest.approx(-1.0)  # the mean of -4 times 0 and 0.5
