"""The variance rule, its error bars and its nulls, against simulation and closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from initaudit.theory.variance import (
    KURTOSIS_NORMAL,
    KURTOSIS_TRUNCATED_NORMAL,
    KURTOSIS_UNIFORM,
    dead_unit_probability,
    gamma_quantile,
    normal_cdf,
    normal_quantile,
    predicted_mean_square,
    ratio_band,
    sampling_error,
    std_for,
    xavier_std,
)


def test_the_rule_predicts_a_linear_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 300, generator=generator).relu()
    w = 0.1 * torch.randn(500, 300, generator=generator)
    b = 0.5 * torch.randn(500, generator=generator)
    predicted = predicted_mean_square(300, 0.01, float(x.square().mean()), bias_var=0.25)
    assert float((x @ w.T + b).square().mean()) == pytest.approx(predicted, rel=0.1)


def test_he_and_xavier() -> None:
    assert std_for(math.sqrt(2), 256) == pytest.approx(0.08838835, rel=1e-6)
    assert xavier_std(5 / 3, 100, 300) == pytest.approx(5 / 3 * math.sqrt(2 / 400))
    assert xavier_std(1, 64, 64) == pytest.approx(std_for(1, 64))


def test_a_layer_with_its_gain_keeps_the_mean_square() -> None:
    assert predicted_mean_square(77, std_for(1.5, 77) ** 2, 1 / 1.5**2) == pytest.approx(1)


@pytest.mark.parametrize(
    ("fill", "kurtosis"),
    [
        (lambda t: t.normal_(), KURTOSIS_NORMAL),
        (lambda t: t.uniform_(-1, 1), KURTOSIS_UNIFORM),
        (lambda t: torch.nn.init.trunc_normal_(t), KURTOSIS_TRUNCATED_NORMAL),
    ],
    ids=["normal", "uniform", "truncated"],
)
def test_the_sampling_error_of_a_variance(fill, kurtosis: float) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    variances = fill(torch.empty(2000, 400)).square().mean(1)
    assert float(variances.std() / variances.mean()) == pytest.approx(sampling_error(400, kurtosis), rel=0.06)


# Gamma


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-6, 1 - 1e-6))
def test_shape_one_is_exponential(p: float) -> None:
    assert gamma_quantile(p, 1.0) == pytest.approx(-math.log1p(-p), rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 0.99))
def test_shape_one_half_is_a_squared_normal(p: float) -> None:
    assert gamma_quantile(p, 0.5) == pytest.approx(normal_quantile((1 + p) / 2) ** 2 / 2, rel=1e-8)


@pytest.mark.parametrize(
    ("p", "shape", "quantile"),
    [  # scipy.stats.gamma.ppf
        (0.005, 1.6, 0.04640905809700231),
        (0.995, 1.6, 6.628139866556452),
        (1e-4, 300.0, 239.81824515673972),
        (0.9999, 9000.0, 9357.101259742209),
    ],
)
def test_gamma_quantiles(p: float, shape: float, quantile: float) -> None:
    assert gamma_quantile(p, shape) == pytest.approx(quantile, rel=1e-8)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.001, 0.999))
def test_the_two_ways_to_a_quantile_meet(p: float) -> None:
    assert gamma_quantile(p, 9_999.0) / 9_999 == pytest.approx(gamma_quantile(p, 10_001.0) / 10_001, rel=1e-5)


def test_a_probability_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"probability is 1\.5"):
        gamma_quantile(1.5, 2.0)


@pytest.mark.parametrize(
    ("n", "low", "high"), [(8, 0.029, 4.14), (16, 0.124, 3.01), (32, 0.271, 2.31), (64, 0.426, 1.87)]
)
def test_the_band_of_a_relu_layer(n: int, low: float, high: float) -> None:
    assert ratio_band(5, n, 0.01) == pytest.approx((low, high), abs=5e-3)


def test_the_band_holds_healthy_layers() -> None:
    """One input, 64 units: the mean of phi^2 over units leaves the 5% band in about 5% of draws."""
    ratios = 2 * torch.randn(20_000, 64, generator=torch.Generator().manual_seed(1)).relu().square().mean(1)
    low, high = ratio_band(5, 64, 0.05)
    outside = float(((ratios < low) | (ratios > high)).float().mean())
    assert outside == pytest.approx(0.05, abs=0.012)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.5, 25), st.integers(1, 4096), st.floats(1e-6, 0.2))
def test_the_band_contains_one_and_narrows(kappa: float, n: int, alpha: float) -> None:
    low, high = ratio_band(kappa, n, alpha)
    assert low < high
    wider = ratio_band(kappa, n, alpha / 2)
    assert wider[0] <= low
    assert wider[1] >= high
    assert ratio_band(kappa, 64 * n, alpha)[1] <= high


@settings(max_examples=50, deadline=None)
@given(st.floats(-7, 5))
def test_normal_quantile_inverts(x: float) -> None:
    assert normal_quantile(normal_cdf(x)) == pytest.approx(x, abs=1e-8)


# Nulls


@pytest.mark.parametrize(
    ("rho", "probability"),
    [(0.318, 0.0055), (0.5, 0.0303), (0.735, 0.116), (0.8715, 0.217), (0.95, 0.319), (0.988, 0.409)],
)
def test_dead_units_of_a_healthy_net(rho: float, probability: float) -> None:
    assert dead_unit_probability(32, rho) == pytest.approx(probability, abs=1.1e-3)


@pytest.mark.parametrize("batch", [1, 2, 31, 512, 1_000_000])
def test_dead_units_in_closed_form(batch: int) -> None:
    assert dead_unit_probability(batch, 0.5) == pytest.approx(1 / (batch + 1), rel=1e-6)
    assert dead_unit_probability(batch, 0.0) == 0.5**batch
    assert dead_unit_probability(batch, -0.1) == 0.5**batch
    assert dead_unit_probability(batch, 1.0) == 0.5


@settings(max_examples=15, deadline=None)
@given(st.floats(0.02, 0.98), st.integers(1, 200))
def test_more_samples_and_less_likeness_leave_fewer_dead(rho: float, batch: int) -> None:
    here = dead_unit_probability(batch, rho)
    assert dead_unit_probability(batch + 1, rho) <= here + 1e-12
    assert dead_unit_probability(batch, rho + 0.01) >= here - 1e-12
    assert 0 < here <= 0.5 + 1e-9


def test_two_samples_by_the_orthant_formula() -> None:
    assert dead_unit_probability(2, 0.3) == pytest.approx(0.25 + math.asin(0.3) / (2 * math.pi), rel=1e-9)
