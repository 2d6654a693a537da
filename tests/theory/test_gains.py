"""The pure recursion: length maps, fixed points and chi_1 against closed forms and published points."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initaudit.theory.gains import (
    GateMoments,
    Stability,
    TabulatedMoments,
    analyse_moments,
    chi1,
    fixed_point,
    length_map,
    moment_rows,
    tabulate_moments,
)
from initaudit.theory.quadrature import Array


def function_moments(phi: Callable[[Array], Array], dphi: Callable[[Array], Array]) -> TabulatedMoments:
    return tabulate_moments(lambda x: moment_rows(phi(x), dphi(x)))


def leaky(slope: float) -> TabulatedMoments:
    return function_moments(lambda x: np.where(x > 0, x, slope * x), lambda x: np.where(x > 0, 1.0, slope))


TANH = function_moments(np.tanh, lambda x: 1 - np.tanh(x) ** 2)
SIN = function_moments(np.sin, np.cos)
SIGMOID = function_moments(lambda x: 1 / (1 + np.exp(-x)), lambda x: 1 / (2 + np.exp(x) + np.exp(-x)))


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 0.99), st.floats(1e-3, 50))
def test_a_leaky_relu_keeps_every_length(slope: float, q: float) -> None:
    moments = leaky(slope)
    analysis = analyse_moments("leaky", moments)
    assert analysis.gain == pytest.approx(math.sqrt(2 / (1 + slope**2)), rel=1e-12)
    assert length_map(moments, analysis.gain, q) == pytest.approx(q, rel=1e-9)
    assert chi1(moments, analysis.gain, q) == pytest.approx(1, rel=1e-9)
    assert analysis.fixed_point.stability is Stability.NEUTRAL


def test_the_length_map_of_sin_in_closed_form() -> None:
    for q in (0.1, 1.0, 4.0):
        assert length_map(SIN, 1.3, q) == pytest.approx(1.69 * (1 - math.exp(-2 * q)) / 2, rel=1e-10)
        assert chi1(SIN, 1.3, q) == pytest.approx(1.69 * (1 + math.exp(-2 * q)) / 2, rel=1e-10)


def test_the_fixed_point_of_siren() -> None:
    """q = 1 - exp(-2q) with gain sqrt(2) (Sitzmann et al. 2020)."""
    point = fixed_point(SIN, math.sqrt(2))
    assert point.q == pytest.approx(0.7968121, abs=1e-6)
    assert point.slope == pytest.approx(2 * math.exp(-2 * 0.7968121), abs=1e-6)


@pytest.mark.parametrize(("gain", "q", "chi"), [(5 / 3, 1.178482, 1.209845), (1.4674135916, 0.724888, 1.126233)])
def test_tanh_has_a_stable_fixed_point(gain: float, q: float, chi: float) -> None:
    point = fixed_point(TANH, gain)
    assert point.stability is Stability.STABLE
    assert point.q == pytest.approx(q, abs=1e-5)
    assert point.chi1 == pytest.approx(chi, abs=2e-5)


@pytest.mark.parametrize(
    ("weight_var", "bias_var"), [(1.0499956, 2.01e-5), (1.4242053, 0.01), (1.7609546, 0.05), (1.9860726, 0.1)]
)
def test_tanh_is_critical_where_the_literature_says(weight_var: float, bias_var: float) -> None:
    """The edge of chaos: at the fixed point with this bias variance chi_1 = 1 (Pennington et al. 2017)."""
    gain, q = math.sqrt(weight_var), 1.0
    for _ in range(400):
        q = length_map(TANH, gain, q) + bias_var
    assert chi1(TANH, gain, q) == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize(("gain", "q", "chi"), [(1.0, 0.264687, 0.05572), (4.0, 5.855, 0.3989)])
def test_sigmoid_loses_gradient_at_every_gain(gain: float, q: float, chi: float) -> None:
    point = fixed_point(SIGMOID, gain)
    assert point.q == pytest.approx(q, rel=2e-4)
    assert point.chi1 == pytest.approx(chi, rel=2e-4)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 4))
def test_the_slope_is_the_derivative_of_the_length_map(q: float) -> None:
    step = 1e-4 * q
    numeric = (length_map(TANH, 1, q + step) - length_map(TANH, 1, q - step)) / (2 * step)
    assert TANH.at(q).length_slope == pytest.approx(numeric, rel=1e-5)


def test_tanh_with_a_small_gain_collapses_and_a_large_linear_one_diverges() -> None:
    assert fixed_point(TANH, 0.8).stability is Stability.COLLAPSES
    assert fixed_point(leaky(0.0), 2.0).stability is Stability.DIVERGES
    assert fixed_point(leaky(0.0), 2.0).q is None


@pytest.mark.parametrize(("gain", "q", "stability"), [(3.0, 4.3431, "stable"), (4.0, 0.115908, "unstable")])
def test_of_two_fixed_points_the_one_nearer_to_one_is_given(gain: float, q: float, stability: str) -> None:
    """tanh^3 is flat at the origin and at the ends, so its map crosses the diagonal twice."""
    cubed = function_moments(lambda x: np.tanh(x) ** 3, lambda x: 3 * np.tanh(x) ** 2 * (1 - np.tanh(x) ** 2))
    point = fixed_point(cubed, gain)
    assert point.q == pytest.approx(q, rel=1e-4)
    assert point.stability.value == stability
    assert length_map(cubed, gain, point.q or 0) == pytest.approx(point.q, rel=1e-9)


def test_a_gate_multiplies_moments() -> None:
    gate = GateMoments(leaky(0.0)).at(2.0)
    assert gate.second_moment == pytest.approx(2.0)  # q * q/2
    assert gate.derivative_second_moment == pytest.approx(1.0 + 1.0)  # E[relu^2] + q E[relu'^2]
    assert gate.length_slope == pytest.approx(2.0)  # d/dq q^2/2
    assert gate.mean == 0


def test_a_dead_function_has_no_finite_gain() -> None:
    nothing = analyse_moments("zero", function_moments(np.zeros_like, np.zeros_like))
    assert nothing.gain == math.inf
    assert nothing.fixed_point.q is None


def test_the_variance_gain_leaves_out_the_mean() -> None:
    relu = analyse_moments("relu", leaky(0.0))
    assert relu.variance_gain == pytest.approx(1 / math.sqrt(0.5 * (1 - 1 / math.pi)), rel=1e-12)
    assert relu.mean == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-12)
    assert relu.kappa == pytest.approx(5, rel=1e-10)
