"""The variance rule, its sampling errors, and what a healthy net shows by chance.

A unit sums ``fan_in`` products of independent zero-mean weights with its inputs, so mean squares multiply:
``E[y^2] = fan_in * Var(w) * E[x^2]``. An activation then keeps ``1/gain^2`` of it. The signal keeps its size through
depth when ``Var(w) = gain^2 / fan_in``; everything below is that sentence or the error bar on it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from initaudit.theory.quadrature import Array

KURTOSIS_NORMAL = 3.0
KURTOSIS_UNIFORM = 1.8
KURTOSIS_TRUNCATED_NORMAL = 2.3655  # cut at two standard deviations


def predicted_mean_square(fan_in: float, weight_var: float, input_mean_square: float, bias_var: float = 0.0) -> float:
    """Mean square of a pre-activation: ``fan_in * Var(w) * E[x^2] + Var(b)`` (LeCun et al. 1998; He et al. 2015).

    ``E[x^2]`` is not centred: after a ReLU the mean of the input counts as much as its variance.
    """
    return fan_in * weight_var * input_mean_square + bias_var


def std_for(gain: float, fan_in: float) -> float:
    """Weight standard deviation ``gain / sqrt(fan_in)``, also known as He or Kaiming initialization."""
    return gain / math.sqrt(fan_in)


def xavier_std(gain: float, fan_in: float, fan_out: float) -> float:
    """Weight standard deviation ``gain * sqrt(2 / (fan_in + fan_out))``, also known as Glorot initialization.

    The compromise between keeping the forward (fan_in) and the backward (fan_out) signal (Glorot & Bengio 2010).
    """
    return gain * math.sqrt(2 / (fan_in + fan_out))


def sampling_error(count: int, kurtosis: float = KURTOSIS_NORMAL) -> float:
    """Relative standard error of the variance of ``count`` independent weights, ``sqrt((kurtosis - 1) / count)``.

    Half of it is the relative standard error of their standard deviation.
    """
    return math.sqrt(max(kurtosis - 1, 0.0) / count)


def ratio_band(kappa: float, n: float, alpha: float) -> tuple[float, float]:
    """Limits that the mean-square ratio (found over predicted) of a healthy layer leaves with probability ``alpha``.

    With one input, the ratio is a mean over ``n`` units of relative variance ``kappa = E[phi^4]/E[phi^2]^2 - 1``, and
    is close to a Gamma law of mean 1 and shape ``n / kappa``, tails included (compare Hanin & Nica 2020,
    arXiv:1812.05994, on depth). A batch only narrows it, so the band is safe; ``n`` counts output channels in a
    convolution. ``alpha`` is split over both sides.
    """
    shape = n / kappa
    return gamma_quantile(alpha / 2, shape) / shape, gamma_quantile(1 - alpha / 2, shape) / shape


@lru_cache(maxsize=256)  # a network has few widths and many layers
def gamma_quantile(probability: float, shape: float) -> float:
    """Quantile of the Gamma law with this shape and scale 1, right to about 1e-9.

    Bisection on the incomplete gamma function in ln x; for shapes above 1e4 the Wilson-Hilferty cube (1931).
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability is {probability}: expected a number between 0 and 1")
    if shape > 1e4:
        spread = 1 / (9 * shape)
        return float(shape * (1 - spread + normal_quantile(probability) * math.sqrt(spread)) ** 3)
    low, high = -745.0, math.log(shape + 50 * math.sqrt(shape) + 50)
    for _ in range(70):
        middle = (low + high) / 2
        if _gamma_cdf(math.exp(middle), shape) < probability:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def _gamma_cdf(x: float, shape: float) -> float:
    """Regularized lower incomplete gamma: its series below the mean, Lentz's continued fraction above."""
    if x == 0:
        return 0.0
    front = math.exp(shape * math.log(x) - x - math.lgamma(shape))
    if x < shape + 1:
        term = total = 1 / shape
        k = shape
        while term > total * 1e-16:
            k += 1
            term *= x / k
            total += term
        return front * total
    b = x + 1 - shape
    c, d = 1e300, 1 / b
    fraction = d
    for i in range(1, 10_000):
        a = -i * (i - shape)
        b += 2
        d = 1 / (a * d + b)
        c = b + a / c
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return 1 - front * fraction


def normal_cdf(x: float) -> float:
    """Standard normal distribution function, exact in its lower tail."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


def normal_quantile(probability: float) -> float:
    """Inverse of :func:`normal_cdf`, by bisection."""
    low, high = -40.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        if normal_cdf(middle) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def dead_unit_probability(batch: int, correlation: float) -> float:
    """Chance that a healthy ReLU unit is zero on all ``batch`` samples.

    ``correlation`` is that of the unit's pre-activation between two samples, the mean cosine between their inputs.
    Samples are exchangeable Gaussians, ``E[Phi(t sqrt(rho / (1 - rho)))^batch]`` over ``t ~ N(0, 1)``: 2^-batch at
    correlation 0, exactly ``1 / (batch + 1)`` at 1/2, and 1/2 at 1. Inputs become alike with depth, so a deep healthy
    net has many dead units; only the excess over this is a fault.
    """
    if correlation <= 0:
        return 0.5**batch
    if correlation >= 1:
        return 0.5
    import numpy as np  # not above: all rules import this module, and their pages need no array

    from initaudit.theory.quadrature import expectation

    slope = math.sqrt(correlation / (1 - correlation))
    cdf = np.frompyfunc(normal_cdf, 1, 1)

    def all_below(t: Array) -> Array:
        powers: Array = np.asarray(cdf(t * slope), dtype=np.float64) ** batch
        return powers

    return expectation(all_below, tolerance=1e-9)
