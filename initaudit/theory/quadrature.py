"""Expectations over a Gaussian of functions with kinks and steps nobody told us about.

A function is tabulated once, on Gauss-Legendre panels that are halved wherever the rule is not yet converged; the table
then gives ``E[f(sqrt(q) z)]``, z ~ N(0, 1), for any variance ``q`` by reweighting, without calling the function again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
RowsFunction = Callable[[Array], Array]
"""Maps points of shape (n,) to rows of shape (k, n): k functions that share one set of panels."""

ORDER = 16
REACH = 16.0  # standard deviations; the density beyond is 1e-56
WIDE_REACH = 128.0
WIDE_SCALES = (1 / 64, 1 / 8, 1.0, 8.0)
TOLERANCE = 1e-11
_NARROWEST = 1e-12
_MOST_PANELS = 16384  # reached only by what oscillates fast, or has rounding noise above the tolerance
CONVERGED = 1e-2  # remainders of |x|^-0.5 are 6e-4, of the divergent 1/|x| 1e7, of exp(x^2/2) 0.3

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(ORDER)
_ENDS = np.array([-1.0, 1.0]) * (1 - 1e-10)
_POINTS = np.concatenate([_NODES, _ENDS])
# Values at the panel's two ends as the polynomial through its nodes has them.
_TO_ENDS = np.polynomial.legendre.legvander(_ENDS, ORDER - 1) @ np.linalg.inv(
    np.polynomial.legendre.legvander(_NODES, ORDER - 1)
)
_END_WEIGHT = (1 - _NODES[-1]) / 2  # the share of a panel that lies beyond its outermost node


def gaussian_density(x: Array, variance: float) -> Array:
    """Density of ``N(0, variance)`` at ``x``."""
    return np.exp(-0.5 * x * x / variance) / math.sqrt(2 * math.pi * variance)


@dataclass(frozen=True, slots=True)
class Table:
    """k functions at n quadrature nodes: ``x`` and ``weights`` of shape (n,), ``values`` of shape (k, n).

    ``remainder``, shape (k,), bounds what is missing of each integral at standard deviation 1, relative to ``E|f|``:
    what the last panels left open, and what lies in the outermost ones. It is above :data:`CONVERGED` where the
    integral is infinite (a pole, growth like ``exp(x^2/2)``), or the function oscillates faster than can be followed.
    """

    x: Array
    weights: Array
    values: Array
    remainder: Array

    def expectation(self, variance: float = 1.0) -> Array:
        """``E[f(x)]``, x ~ N(0, variance), for each row: shape (k,)."""
        result: Array = self.values @ (self.weights * gaussian_density(self.x, variance))
        return result

    def variance_derivative(self, variance: float = 1.0) -> Array:
        """``d/dq E[f(sqrt(q) z)]`` at ``q = variance``, shape (k,).

        It differentiates the density, ``E[f (x^2/q - 1)] / 2q``, so steps of ``f`` count in full where
        ``E[f' z]`` would miss them.
        """
        score = (self.x**2 / variance - 1) / (2 * variance)
        result: Array = self.values @ (self.weights * gaussian_density(self.x, variance) * score)
        return result


def tabulate(
    rows: RowsFunction, *, scales: tuple[float, ...] = (1.0,), reach: float = REACH, tolerance: float = TOLERANCE
) -> Table:
    """Tabulate ``rows`` so that its expectations at every standard deviation in ``scales`` are converged.

    ``tolerance`` is per panel, relative to ``E|f|``; at scales other than 1 a hundred times more is allowed.
    Raises ``ValueError`` that says where, when a value within ``reach`` is not finite.
    """
    edges = _first_edges(reach)
    left, right = edges[:-1], edges[1:]
    values = _evaluate(rows, left, right)
    limits = np.array([tolerance if s == 1.0 else 100 * tolerance for s in scales])[:, None, None]
    total = _absolute_total(values, left, right, scales)
    done: list[tuple[Array, Array, Array]] = []
    accepted = 0
    unit = scales.index(1.0)
    outermost = np.isin(np.abs(left), edges[-1]) | np.isin(right, edges[-1])
    missing = np.abs(_integrals(values[..., outermost, :], left[outermost], right[outermost], scales)[unit]).sum(
        axis=-1
    )
    while left.size:
        middle = (left + right) / 2
        half_left = np.stack([left, middle], axis=1).ravel()
        half_right = np.stack([middle, right], axis=1).ravel()
        half_values = _evaluate(rows, half_left, half_right)
        error = _error(values, left, right, half_values, half_left, half_right, scales)
        converged = (error <= limits * total).all(axis=(0, 1)) | (right - left < _NARROWEST)
        given_up = (error > limits * total).any(axis=(0, 1)) & (right - left < _NARROWEST)
        if accepted + half_left.size > _MOST_PANELS:
            given_up |= ~converged
            converged[:] = True
        missing += error[unit][:, given_up].sum(axis=-1)
        done.append((left[converged], right[converged], values[:, converged, :ORDER]))
        accepted += int(converged.sum())
        keep = np.repeat(~converged, 2)
        left, right, values = half_left[keep], half_right[keep], half_values[:, keep]
    left = np.concatenate([part[0] for part in done])
    right = np.concatenate([part[1] for part in done])
    flat = np.concatenate([part[2] for part in done], axis=1)
    return Table(
        x=_points(left, right)[:, :ORDER].ravel(),
        weights=((right - left)[:, None] / 2 * _WEIGHTS).ravel(),
        values=flat.reshape(flat.shape[0], -1),
        remainder=missing / np.maximum(total[unit, :, 0], 1e-300),
    )


def expectation(f: Callable[[Array], Array], *, tolerance: float = TOLERANCE) -> float:
    """``E[f(z)]``, z ~ N(0, 1), for one vectorized function, kinks and steps included."""
    return float(tabulate(lambda x: f(x)[None, :], tolerance=tolerance).expectation()[0])


def _first_edges(reach: float) -> Array:
    """Panel edges: dyadic near zero (for small variances), 0.5 wide to 8, doubling beyond 16.

    The usual kinks (0, 0.5, 1, 3, 6) are edges, so that they cost nothing.
    """
    dyadic = 2.0 ** np.arange(-9, -1)
    far = [edge for edge in (12.0, 16.0, 32.0, 64.0, 128.0) if edge < reach]
    positive = np.concatenate([dyadic, np.arange(0.5, 8.5, 0.5), far, [reach]])
    return np.concatenate([-positive[::-1], [0.0], positive])


def _points(left: Array, right: Array) -> Array:
    """Nodes and the two ends of each panel, shape (panels, ORDER + 2)."""
    result: Array = (left + right)[:, None] / 2 + (right - left)[:, None] / 2 * _POINTS
    return result


def _evaluate(rows: RowsFunction, left: Array, right: Array) -> Array:
    points = _points(left, right)
    values = rows(points.ravel())
    if not np.isfinite(values).all():
        finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(values).all(axis=0))
        raise ValueError(_where(points.ravel(), finite))
    shaped: Array = values.reshape(values.shape[0], *points.shape)
    return shaped


def _where(x: Array, finite: npt.NDArray[np.bool_]) -> str:
    """``"not finite for x < 0"``, or at which ``x`` it is not."""
    if not finite.any():
        return "not finite anywhere"
    broken = np.sort(x[~finite])
    low, high = x[finite].min(), x[finite].max()
    if broken[-1] < low:
        return f"not finite for x < {_rounded(broken[-1])}"
    if broken[0] > high:
        return f"not finite for x > {_rounded(broken[0])}"
    return f"not finite at x = {_rounded(broken[np.argmin(np.abs(broken))])}"


def _rounded(x: float) -> str:
    return "0" if abs(x) < 1e-9 else f"{x:.3g}"


def _densities(left: Array, right: Array, scales: tuple[float, ...]) -> Array:
    points = _points(left, right)
    result: Array = np.stack([gaussian_density(points, s * s) for s in scales])[:, None]
    return result


def _integrals(values: Array, left: Array, right: Array, scales: tuple[float, ...]) -> Array:
    """Integral of each function over each panel under each scale, shape (scales, k, panels)."""
    weights = (right - left)[:, None] / 2 * _WEIGHTS
    result: Array = (values[None, ..., :ORDER] * weights * _densities(left, right, scales)[..., :ORDER]).sum(axis=-1)
    return result


def _absolute_total(values: Array, left: Array, right: Array, scales: tuple[float, ...]) -> Array:
    """``E|f|`` at each scale, shape (scales, k, 1); not less than 1e-20 of the largest, so that 0 can be met."""
    total = _integrals(np.abs(values), left, right, scales).sum(axis=-1, keepdims=True)
    result: Array = np.maximum(total, 1e-20 * total.max(axis=0))
    return result


def _end_error(values: Array, left: Array, right: Array, scales: tuple[float, ...]) -> Array:
    """What a step between the outermost node and the end of a panel would cost: no node sees it."""
    mismatch = np.abs(values[..., ORDER:] - values[..., :ORDER] @ _TO_ENDS.T)
    density = _densities(left, right, scales)[..., ORDER:]
    result: Array = (mismatch * density).sum(axis=-1) * _END_WEIGHT * (right - left)
    return result


def _error(
    values: Array,
    left: Array,
    right: Array,
    half_values: Array,
    half_left: Array,
    half_right: Array,
    scales: tuple[float, ...],
) -> Array:
    """Estimated error of each panel, shape (scales, k, panels): the rule against its two halves, and the ends."""
    halves = _integrals(half_values, half_left, half_right, scales)
    ends = _end_error(half_values, half_left, half_right, scales)
    per_panel = (*halves.shape[:2], left.size, 2)
    difference = np.abs(_integrals(values, left, right, scales) - halves.reshape(per_panel).sum(axis=-1))
    result: Array = difference + _end_error(values, left, right, scales) + ends.reshape(per_panel).sum(axis=-1)
    return result
