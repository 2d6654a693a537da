"""Where an activation goes flat, and so passes no gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from initaudit.theory.evaluate import Evaluator
from initaudit.theory.quadrature import Array


@dataclass(frozen=True, slots=True)
class FlatEnds:
    """Where an activation goes flat: pre-activations (``x``) and outputs (``y``) beyond which ``|phi'|`` is small.

    ``None`` where that end is not flat. ``lower`` and ``upper`` speak of outputs: a falling function
    has its lower output at its upper input, and ``x_lower`` is then the larger.
    """

    x_lower: float | None = None
    x_upper: float | None = None
    y_lower: float | None = None
    y_upper: float | None = None


FLAT_SLOPE = 0.03  # of the steepest slope: |tanh| beyond 0.985
_FAR = 1e4
_ORIGIN = 0.05


def flat_ends_of(evaluator: Evaluator) -> FlatEnds:
    """The flat ends of an activation that is bounded there and responsive at the origin.

    Scale-free: the threshold is on ``|phi'|`` relative to its maximum. An end that begins at the origin (``relu6``
    below) or that runs into zero while the other end stays open (``relu``, ``gelu``, ``softplus``) is a dead side,
    not saturation, and counts as ``None``; so do the ends of a bump, which share one output. A gate has none.
    """
    if evaluator.resolved.gate:
        return FlatEnds()
    positive = np.geomspace(1e-3, _FAR, 701)
    x, y, slope = _values(evaluator, np.concatenate([-positive[::-1], [0.0], positive]))
    if x.size == 0 or slope.max() == 0:
        return FlatEnds()
    steep = np.flatnonzero(slope >= FLAT_SLOPE * slope.max())
    limit = FLAT_SLOPE * float(slope.max())
    left = _threshold(evaluator, x, y, int(steep[0]), -1, limit)
    right = _threshold(evaluator, x, y, int(steep[-1]), +1, limit)
    return _assemble(y, left, right)


def _values(evaluator: Evaluator, x: Array) -> tuple[Array, Array, Array]:
    """``x``, phi and ``|phi'|`` on the stretch around the origin where both are finite."""
    with np.errstate(all="ignore"):
        y, slope = (values.astype(np.float64) for values in evaluator(x))
    if y.ndim > 1:
        return (np.empty(0),) * 3
    # Hand-written exponentials overflow far out: judge what lies before.
    broken = ~(np.isfinite(y) & np.isfinite(slope))
    below, above = x[broken & (x <= 0)], x[broken & (x >= 0)]
    kept = (x > below.max(initial=-np.inf)) & (x < above.min(initial=np.inf))
    return x[kept], y[kept], np.abs(slope[kept])


def _threshold(
    evaluator: Evaluator, x: Array, y: Array, last_steep: int, side: int, limit: float
) -> tuple[float, float] | None:
    """(x, y) where the flat end begins; ``None`` for a slope that never dies, or dies without a bound (log, sqrt)."""
    edge = 0 if side < 0 else x.size - 1
    if last_steep == edge or x[last_steep] * side < _ORIGIN:
        return None
    outer = x * side >= abs(x[edge]) / 100
    if float(np.ptp(y[outer])) > 0.02 * float(np.ptp(y)):
        return None
    fine_x, fine_y, fine_slope = _values(evaluator, np.linspace(x[last_steep], x[last_steep + side], 201))
    last = int(np.flatnonzero(fine_slope >= limit)[-1])
    return float(fine_x[last]), float(fine_y[last])


def _assemble(y: Array, left: tuple[float, float] | None, right: tuple[float, float] | None) -> FlatEnds:
    lowest, highest, spread = float(y.min()), float(y.max()), float(np.ptp(y))
    bump = left is not None and right is not None and math.isclose(y[0], y[-1], abs_tol=1e-3 * spread)
    ends = FlatEnds()
    for end, other, limit in ((left, right, float(y[0])), (right, left, float(y[-1]))):
        dead_side = other is None and abs(limit) < 1e-6 * spread
        if end is None or bump or dead_side:
            continue
        # An output tells where the unit sits only if the flat end is the lowest or the highest of all outputs.
        if limit <= lowest + 1e-9 * spread:
            ends = replace(ends, x_lower=end[0], y_lower=end[1])
        elif limit >= highest - 1e-9 * spread:
            ends = replace(ends, x_upper=end[0], y_upper=end[1])
    return ends
