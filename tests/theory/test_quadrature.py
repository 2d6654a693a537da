"""The quadrature against closed forms, wherever the kink or the step may be."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initaudit.theory.quadrature import WIDE_REACH, WIDE_SCALES, expectation, tabulate


def density(t: float) -> float:
    return math.exp(-t * t / 2) / math.sqrt(2 * math.pi)


def above(t: float) -> float:
    """P(z > t)."""
    return 0.5 * math.erfc(t / math.sqrt(2))


anywhere = st.floats(-7, 7) | st.sampled_from([0.5, 0.1, 1.0, -1.0, 3.0, -3.0, 6.0, 0.4999, 0.4999999, 0.5000001])


@settings(max_examples=60, deadline=None)
@given(anywhere)
def test_a_step_is_found_wherever_it_is(a: float) -> None:
    assert expectation(lambda x: (x > a).astype(float)) == pytest.approx(above(a), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(anywhere)
def test_a_kink_is_found_wherever_it_is(a: float) -> None:
    assert expectation(lambda x: np.maximum(x - a, 0)) == pytest.approx(density(a) - a * above(a), abs=1e-9)


@pytest.mark.parametrize(("power", "moment"), [(0, 1), (1, 0), (2, 1), (3, 0), (4, 3), (6, 15), (8, 105), (12, 10395)])
def test_powers_have_the_moments_of_the_normal_law(power: int, moment: int) -> None:
    assert expectation(lambda x: x**power) == pytest.approx(moment, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("frequency", [0.1, 1.0, 30.0])
def test_an_oscillating_function(frequency: float) -> None:
    exact = (1 - math.exp(-2 * frequency**2)) / 2
    assert expectation(lambda x: np.sin(frequency * x) ** 2) == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize("q", [1e-4, 0.01, 0.3, 1.0, 7.0, 60.0])
def test_one_table_serves_every_variance(q: float) -> None:
    def rows(x: np.ndarray) -> np.ndarray:
        return np.stack([np.maximum(x, 0) ** 2, np.sin(x) ** 2, (x > 0.1).astype(float)])

    table = tabulate(rows, scales=WIDE_SCALES, reach=WIDE_REACH)
    exact = [q / 2, (1 - math.exp(-2 * q)) / 2, above(0.1 / math.sqrt(q))]
    assert table.expectation(q) == pytest.approx(exact, rel=1e-7, abs=1e-12)
    slope = [0.5, math.exp(-2 * q), density(0.1 / math.sqrt(q)) * 0.05 * q**-1.5]
    assert table.variance_derivative(q) == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_rounding_noise_ends_the_refinement() -> None:
    noise = np.random.default_rng(0)
    value = expectation(lambda x: x**2 + 1e-6 * noise.standard_normal(x.size))
    assert value == pytest.approx(1, abs=1e-5)


def test_a_value_that_is_not_finite_is_named_by_its_place() -> None:
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=r"not finite for x > 3"):
        tabulate(lambda x: np.sqrt(2.99 - x)[None])
