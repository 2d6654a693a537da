"""The gains that a depth asks for: where the usual one keeps the signal and lets the gradient grow layer by layer.

A plain stack of one activation maps the mean square ``q`` of a pre-activation to ``g^2 E[phi(sqrt(q) z)^2]`` and
multiplies that of the gradient by ``chi_1 = g^2 E[phi'(sqrt(q) z)^2]`` (Poole et al. 2016, arXiv:1606.05340; Schoenholz
et al. 2017, arXiv:1611.01232). For functions that bend down on both sides a smaller ``q`` has ``chi_1`` nearer to one,
so rms and gradient are weighed against each other over the whole depth, and the first layer may start above the fixed
point that the others fall to. For functions like GELU, from whose fixed point the signal runs away, a larger ``q`` is
the better start: there they are nearly ReLU, and a smaller gain nearly holds what there is.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from initaudit.errors import UnknownActivationError
from initaudit.records import Activation
from initaudit.theory.elementwise import flat_ends
from initaudit.theory.evaluate import Evaluator
from initaudit.theory.gains import Stability, TabulatedMoments, fixed_point, tabulate_moments
from initaudit.theory.resolve import resolve_activation

RMS_BAND = 2.0  # the rms of a pre-activation should lie within this factor of 1
GRADIENT_BAND = 10.0  # and the gradient's, first over last layer of the stack
CHANCE = 2.0  # the part of the gradient's band that is left to one draw of a finite network
SCATTER = 0.1  # in ln rms: what one draw of a few layers of some hundred units is off by
_TIMES = re.compile(r"^-?[\d.e+-]+\*(?=\w+$)")  # in the name of a multiple of a known function
_MOSTLY = 1.0364  # standard deviations within which seven tenths of a normal law lie
_FIRST = np.linspace(1 / RMS_BAND, RMS_BAND, 31)
_GAINS = np.exp(np.linspace(-0.7, 0.1, 81))  # relative to the one that keeps q = 1
_LOG_Q = np.linspace(math.log(1e-3), math.log(64.0), 128)

_RMS, _GRADIENT = math.log(RMS_BAND), math.log(GRADIENT_BAND)

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Gains:
    """Those of the first layer of a stack, whose input has passed no activation, and of all others.

    ``spread`` is the largest factor that theory expects between any rms in the stack and 1, ``growth`` that of the
    gradient's rms from the last layer to the first.
    """

    first: float
    inner: float
    spread: float
    growth: float


def gains_for(activation: Activation, depth: int) -> Gains | None:
    """The gains for a plain stack of ``depth`` layers with ``activation``, where the usual ones do not do.

    ``None`` where they do, for functions that scale (ReLU and its kin), to which every size is as good as any other,
    and for those that are not known by name.
    """
    usual = activation.gain if activation.saturating else 1.0
    return _chosen(activation.name, activation.gain, usual, depth)


def mean_of(activation: Activation) -> float | None:
    """``E[phi(z)]`` of a function that gives little but its mean: a sigmoid, a softplus; else ``None``.

    What the mean adds to the next layer is the same for every input, and in the mean square it hides what is not.
    """
    moments = _moments(activation.name)
    if moments is None:
        return None
    here = moments.at(1.0)
    scale = 1 / (activation.gain * math.sqrt(here.second_moment))
    return here.mean * scale if here.mean**2 > here.second_moment / 2 else None


def _largest_start(name: str) -> float:
    """The rms up to which seven tenths of the pre-activations lie between the flat ends of a function."""
    ends = flat_ends(_TIMES.sub("", name))
    reach = [abs(x) for x in (ends.x_lower, ends.x_upper) if x is not None]
    return min(reach, default=math.inf) / _MOSTLY


@lru_cache(maxsize=256)
def _chosen(name: str, gain: float, first: float, depth: int) -> Gains | None:
    curve = _curve(name, gain)
    if curve is None:
        return None
    largest = _largest_start(name)
    usual = np.array([first]), np.array([gain])
    spread, growth = _through(curve, *usual, depth)
    off, _ = _worst(curve, *usual, depth)
    if first <= largest and spread[0] <= _RMS and off[0] <= 3 * _RMS and growth[0] <= _GRADIENT - math.log(CHANCE):
        return None
    smallest = 1 / RMS_BAND if curve.stable else 1.0
    starts = np.array([start for start in _FIRST if smallest <= start <= largest])
    firsts, gains = (grid.ravel() for grid in np.meshgrid(starts, gain * _GAINS))
    spread, growth = _worst(curve, firsts, gains, depth)
    best = int(np.argmin(np.maximum(spread / _RMS, np.abs(growth) / _GRADIENT)))
    return Gains(float(firsts[best]), float(gains[best]), math.exp(spread[best]), math.exp(growth[best]))


@lru_cache(maxsize=64)
def _moments(name: str) -> TabulatedMoments | None:
    """Those of the function of that name, without the factor that it may be multiplied with."""
    try:
        return tabulate_moments(Evaluator(resolve_activation(_TIMES.sub("", name))).rows)
    except (UnknownActivationError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class _Curve:
    """``ln E[phi^2]`` and ``ln E[phi'^2]`` over a grid of ``ln q``, and whether depth returns to the fixed point."""

    values: Array
    slopes: Array
    stable: bool

    def at(self, log_q: Array) -> tuple[Array, Array]:
        """Both at any ``ln q``; beyond the grid the first is a straight line and the second what it was."""
        inside = np.clip(log_q, _LOG_Q[0], _LOG_Q[-1])
        steps = np.diff(self.values)[[0, -1]] / (_LOG_Q[1] - _LOG_Q[0])
        beyond = np.where(log_q > inside, steps[1], steps[0]) * (log_q - inside)
        return np.interp(inside, _LOG_Q, self.values) + beyond, np.interp(inside, _LOG_Q, self.slopes)


@lru_cache(maxsize=64)
def _curve(name: str, gain: float) -> _Curve | None:
    """``None`` for a function that is not known by name, and where one ``q`` is as good as any other."""
    moments = _moments(name)
    if moments is None:
        return None
    scale = 1 / (gain * math.sqrt(moments.at(1.0).second_moment))  # 1 but for a multiple of the function of that name
    stability = fixed_point(moments, gain * scale).stability
    if stability is Stability.NEUTRAL:
        return None
    found = [moments.at(math.exp(log_q)) for log_q in _LOG_Q]
    squares = np.array([(e.second_moment, e.derivative_second_moment) for e in found]).T
    values, slopes = np.log(squares) + 2 * math.log(scale)
    return _Curve(values, slopes, stability is Stability.STABLE)


def _worst(curve: _Curve, first: Array, gain: Array, depth: int) -> tuple[Array, Array]:
    """What :func:`_through` gives for a start that is as wanted, and for one a little off to either side."""
    starts = [_through(curve, first * math.exp(off), gain, depth) for off in (-SCATTER, 0.0, SCATTER)]
    spreads, growths = (np.stack(values) for values in zip(*starts, strict=True))
    worst = np.abs(growths).argmax(0)[None]
    return spreads.max(0), np.take_along_axis(growths, worst, 0)[0]


def _through(curve: _Curve, first: Array, gain: Array, depth: int) -> tuple[Array, Array]:
    """The largest ``|ln rms|`` on the way through the stack, and ``ln`` of the growth of the gradient's rms."""
    log_q = 2 * np.log(first)
    spread, growth = np.abs(log_q) / 2, np.zeros_like(log_q)
    for _ in range(depth - 1):
        value, slope = curve.at(log_q)
        growth = growth + np.log(gain) + slope / 2
        log_q = 2 * np.log(gain) + value
        spread = np.maximum(spread, np.abs(log_q) / 2)
    return spread, growth
