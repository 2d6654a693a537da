"""What the variance rule predicts through a plain stack of layers: rms of signal and gradient, layer by layer.

The recursion of Poole et al. 2016 (arXiv:1606.05340) for the signal and of Schoenholz et al. 2017 (arXiv:1611.01232)
for the gradient, in the limit of wide layers. Pure numpy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from initaudit.theory.gains import GainAnalysis, Moments
from initaudit.theory.variance import predicted_mean_square, std_for, xavier_std


@dataclass(frozen=True, slots=True)
class Scheme:
    """An initialization of every layer of a stack: the std of the weights, of the first layer's, and of the biases."""

    label: str
    std: float
    first_std: float
    bias_std: float = 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """``rms`` of the pre-activations and of their gradients, by layer; the last layer's gradient is 1."""

    rms: tuple[float, ...]
    gradient: tuple[float, ...]


def schemes_for(analysis: GainAnalysis, width: int) -> Iterator[Scheme]:
    """What people do to layers of ``width`` units: torch's default, Xavier, He, torch's gain, and the gains found here.

    A gate reads a layer of twice the width. torch draws weights and biases from the uniform law on
    ``±1/sqrt(fan_in)``, whose std is ``1/sqrt(3 fan_in)``.
    """
    default = std_for(math.sqrt(1 / 3), width)
    yield Scheme("torch's default", default, default, default)
    for label, std in {
        "Xavier": xavier_std(1, width, 2 * width if analysis.gate else width),
        "He (relu)": std_for(math.sqrt(2), width),
        "calculate_gain": std_for(analysis.torch_gain or 0.0, width),
        "forward gain": std_for(analysis.gain, width),
    }.items():
        if 0 < std < math.inf:
            yield Scheme(label, std, std)
    for label, gain in {"forward gain": analysis.gain, "backward gain": analysis.backward_gain}.items():
        if 0 < gain < math.inf:
            yield Scheme(f"{label}, first 1", std_for(gain, width), std_for(1, width))


def through_depth(moments: Moments, scheme: Scheme, *, depth: int, width: int) -> Profile:
    """The profile of ``depth`` layers of ``width`` units with one activation, fed with inputs of mean square 1."""
    mean_squares: list[float] = []
    factors: list[float] = []
    incoming, std = 1.0, scheme.first_std
    for _ in range(depth):
        q = predicted_mean_square(width, std**2, incoming, scheme.bias_std**2)
        if mean_squares and math.isclose(q, mean_squares[-1], rel_tol=1e-12):
            q = mean_squares[-1]  # or rounding would grow away from an unstable fixed point
        incoming, slopes = _second_moments(moments, q)
        std = scheme.std
        mean_squares.append(q)
        factors.append(predicted_mean_square(width, std**2, slopes))  # chi_1: the same sum, read backwards
    gradient = [1.0]
    for factor in reversed(factors[:-1]):
        gradient.append(gradient[-1] * factor)
    return Profile(tuple(map(math.sqrt, mean_squares)), tuple(math.sqrt(g) for g in reversed(gradient)))


def _second_moments(moments: Moments, q: float) -> tuple[float, float]:
    """``E[phi^2]`` and ``E[phi'^2]`` over ``N(0, q)``; beyond the limits of the table by the power law found there."""
    if not q < math.inf:
        return math.inf, math.inf
    smallest, largest = moments.limits
    inside = min(max(q, smallest), largest)
    here = moments.at(inside)
    if q == inside or q == 0 or here.second_moment == 0:
        return (here.second_moment if q else 0.0), here.derivative_second_moment
    power = here.length_slope * inside / here.second_moment
    try:
        grown = (q / inside) ** power
    except OverflowError:
        return math.inf, math.inf
    return here.second_moment * grown, here.derivative_second_moment * grown * inside / q
