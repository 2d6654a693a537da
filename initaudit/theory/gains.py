"""Gains of an activation and the depth recursion they lead to. Pure numpy.

Notation: ``z ~ N(0, 1)``; ``q`` is the mean square of a pre-activation; a weight with gain ``g`` has variance
``g^2 / fan_in``. With independent zero-mean weights a layer maps ``q`` to ``g^2 E[phi(sqrt(q) z)^2]``, the *length map*
(Poole et al. 2016, arXiv:1606.05340), and multiplies the mean square of a gradient by
``chi_1 = g^2 E[phi'(sqrt(q) z)^2]`` (Schoenholz et al. 2017, arXiv:1611.01232).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np

from initaudit.theory.quadrature import (
    CONVERGED,
    REACH,
    TOLERANCE,
    WIDE_REACH,
    WIDE_SCALES,
    Array,
    RowsFunction,
    Table,
    tabulate,
)

_SMALLEST_Q, _LARGEST_Q = 1e-5, 100.0
_NEUTRAL = 1e-6


@dataclass(frozen=True, slots=True)
class Expectations:
    """``E[phi]``, ``E[phi^2]``, ``E[phi'^2]``, ``E[phi^4]`` at one ``q``; ``length_slope`` is ``d E[phi^2] / dq``."""

    mean: float
    second_moment: float
    derivative_second_moment: float
    fourth_moment: float
    length_slope: float


class Moments(Protocol):
    """Anything whose expectations over ``N(0, q)`` are known, for ``q`` between the two ``limits``."""

    @property
    def limits(self) -> tuple[float, float]: ...

    def at(self, q: float) -> Expectations: ...


class Stability(str, Enum):
    """What the length map does around its fixed point."""

    STABLE = "stable"  # |slope| < 1: depth pulls the signal to q*
    NEUTRAL = "neutral"  # slope 1: whatever q the net starts with stays
    UNSTABLE = "unstable"  # |slope| > 1: depth drives the signal away from q*
    COLLAPSES = "collapses"  # no fixed point above 0: q shrinks
    DIVERGES = "diverges"  # no fixed point below the largest q looked at: q grows


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Where the length map with this ``gain`` and no bias stands still.

    ``q`` is the fixed point nearest to 1, ``slope`` that of the map there, ``chi1`` the factor per layer of a
    gradient's mean square there; all are ``None`` when no ``q`` in [1e-5, 100] is fixed (in [1/16, 2], for a function
    that overflows far out). For ``NEUTRAL`` maps every ``q`` may be fixed, and ``q`` is then 1.
    """

    gain: float
    q: float | None
    slope: float | None
    chi1: float | None
    stability: Stability


@dataclass(frozen=True, slots=True)
class GainAnalysis:
    """Everything that is known of one activation under ``z ~ N(0, 1)``.

    ``gain`` is ``1/sqrt(E[phi^2])`` (He et al. 2015, arXiv:1502.01852), right for independent zero-mean weights;
    ``backward_gain`` is ``1/sqrt(E[phi'^2])``; ``variance_gain`` is ``1/sqrt(Var[phi])``, right only with weight
    standardization (Brock et al. 2021, arXiv:2102.06171). ``kappa`` is ``E[phi^4]/E[phi^2]^2 - 1``, the
    finite-width constant. ``torch_gain`` is what ``torch.nn.init.calculate_gain(torch_name)`` answers,
    ``None`` where it raises. ``same_as`` is the known activation that one given by another name is. A gate (GLU
    family) takes two independent halves and its backward moment is the sum over both.
    """

    name: str
    mean: float
    second_moment: float
    derivative_second_moment: float
    kappa: float
    gain: float
    backward_gain: float
    variance_gain: float
    fixed_point: FixedPoint
    backward_fixed_point: FixedPoint
    torch_name: str | None = None
    torch_gain: float | None = None
    torch_fixed_point: FixedPoint | None = None
    negative_slope: float | None = None
    gate: bool = False
    same_as: str | None = None


@dataclass(frozen=True, slots=True)
class TabulatedMoments:
    """Moments of a function of one argument; the table's rows are phi, phi^2, phi'^2, phi^4.

    A moment whose integral does not converge is infinite.
    """

    table: Table

    @property
    def limits(self) -> tuple[float, float]:
        """All that was asked for of a wide table; near 1 for the narrow one of a function that overflows far out."""
        reach = float(np.abs(self.table.x).max())
        return (_SMALLEST_Q, _LARGEST_Q) if reach > REACH else (1 / 16, 2.0)

    def at(self, q: float) -> Expectations:
        """Expectations over ``N(0, q)``; ``q`` is a mean square."""
        values = np.where(self.table.remainder > CONVERGED, math.inf, self.table.expectation(q))
        mean, second, derivative, fourth = (float(value) for value in values)
        return Expectations(mean, second, derivative, fourth, float(self.table.variance_derivative(q)[1]))


@dataclass(frozen=True, slots=True)
class GateMoments:
    """Moments of ``a * phi(b)`` with independent ``a, b ~ N(0, q)``: everything factorizes."""

    inner: TabulatedMoments

    @property
    def limits(self) -> tuple[float, float]:
        return self.inner.limits

    def at(self, q: float) -> Expectations:
        """Expectations over two independent ``N(0, q)`` halves; the derivative moment sums over both."""
        phi = self.inner.at(q)
        return Expectations(
            mean=0.0,
            second_moment=q * phi.second_moment,
            derivative_second_moment=phi.second_moment + q * phi.derivative_second_moment,
            fourth_moment=3 * q * q * phi.fourth_moment,
            length_slope=phi.second_moment + q * phi.length_slope,
        )


def moment_rows(phi: Array, dphi: Array) -> Array:
    """The four rows that :class:`TabulatedMoments` wants, from values of shape (n,)."""
    with np.errstate(over="ignore"):  # what overflows is told where the rows are used
        return np.stack([phi, phi**2, dphi**2, phi**4])


def tabulate_moments(rows: RowsFunction, *, tolerance: float = TOLERANCE) -> TabulatedMoments:
    """Tabulate moments for every ``q`` in [1e-5, 100]; raises ``ValueError`` where a value is not finite."""
    return TabulatedMoments(tabulate(rows, scales=WIDE_SCALES, reach=WIDE_REACH, tolerance=tolerance))


def inverse_root(moment: float) -> float:
    """``1/sqrt(moment)``; infinite for a moment of zero, as no gain restores a signal that is gone."""
    return 1 / math.sqrt(moment) if moment > 0 else math.inf


def length_map(moments: Moments, gain: float, q: float) -> float:
    """The mean square of the next pre-activation, ``g^2 E[phi(sqrt(q) z)^2]``, without bias."""
    return gain**2 * moments.at(q).second_moment


def chi1(moments: Moments, gain: float, q: float = 1.0) -> float:
    """Factor per layer of a gradient's mean square, ``g^2 E[phi'(sqrt(q) z)^2]`` (Schoenholz et al. 2017)."""
    return gain**2 * moments.at(q).derivative_second_moment


def fixed_point(moments: Moments, gain: float) -> FixedPoint:
    """The fixed point of the length map nearest to ``q = 1``, found on a grid of ln q and then by bisection."""

    def growth(log_q: float) -> float:
        return math.log(max(length_map(moments, gain, math.exp(log_q)), 1e-300)) - log_q

    if not math.isfinite(gain):
        return FixedPoint(gain, None, None, None, Stability.DIVERGES)
    smallest, largest = moments.limits
    grid = [float(v) for v in np.linspace(math.log(smallest), math.log(largest), 65)]
    growths = [growth(v) for v in grid]
    if abs(growth(0.0)) < 1e-11:
        root: float | None = 0.0
    else:
        brackets = [(grid[i], grid[i + 1]) for i in range(len(grid) - 1) if (growths[i] > 0) != (growths[i + 1] > 0)]
        roots = [_bisect(growth, low, high) for low, high in brackets]
        root = min(roots, key=abs, default=None)
    if root is None:
        return FixedPoint(gain, None, None, None, Stability.DIVERGES if growths[-1] > 0 else Stability.COLLAPSES)
    q = math.exp(root)
    here = moments.at(q)
    slope = gain**2 * here.length_slope
    return FixedPoint(gain, q, slope, gain**2 * here.derivative_second_moment, _stability(slope))


def _stability(slope: float) -> Stability:
    if abs(abs(slope) - 1) < _NEUTRAL:
        return Stability.NEUTRAL
    return Stability.STABLE if abs(slope) < 1 else Stability.UNSTABLE


def _bisect(f: Callable[[float], float], low: float, high: float) -> float:
    rising = f(high) > 0
    for _ in range(45):
        middle = (low + high) / 2
        if (f(middle) > 0) == rising:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def analyse_moments(
    name: str,
    moments: Moments,
    *,
    torch_name: str | None = None,
    torch_gain: float | None = None,
    negative_slope: float | None = None,
    same_as: str | None = None,
) -> GainAnalysis:
    """All gains and fixed points of an activation whose moments are known."""
    unit = moments.at(1.0)
    gain = inverse_root(unit.second_moment)
    backward = inverse_root(unit.derivative_second_moment)
    variance = unit.second_moment - unit.mean**2
    return GainAnalysis(
        name=name,
        mean=unit.mean,
        second_moment=unit.second_moment,
        derivative_second_moment=unit.derivative_second_moment,
        kappa=max(0.0, unit.fourth_moment / unit.second_moment**2 - 1) if unit.second_moment > 0 else math.nan,
        gain=gain,
        backward_gain=backward,
        variance_gain=inverse_root(variance if variance > 1e-14 * unit.second_moment else 0.0),
        fixed_point=fixed_point(moments, gain),
        backward_fixed_point=fixed_point(moments, backward),
        torch_name=torch_name,
        torch_gain=torch_gain,
        torch_fixed_point=None if torch_gain is None else fixed_point(moments, torch_gain),
        negative_slope=negative_slope,
        gate=isinstance(moments, GateMoments),
        same_as=same_as,
    )
