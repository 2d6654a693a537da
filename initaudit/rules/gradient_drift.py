"""How the gradient's energy changes along the layers of a segment: shared by the two gradient rules."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initaudit.records import Role
from initaudit.rules import drift
from initaudit.rules.flow import Flow, Segment, Step, log_ratio

_AVERAGING = frozenset({Role.POOL, Role.ATTENTION, Role.CONCAT})


def check_gradients(flow: Flow, sign: float) -> Iterator[drift.Drift]:
    """Drifts of the gradient from the last layer back to the first, those that grow (``sign`` 1) or shrink (-1)."""
    for segment in drift.judged_segments(flow):
        amount, end = gradient_drift(segment)
        if amount * sign > 0 and (found := drift.judge(segment, amount, end)) is not None:
            yield found


def gradient_drift(segment: Segment) -> tuple[float, Step | None]:
    """Natural log of the gradient's sum of squares at the first layer over that at the last; the layer where it ends.

    The sum over elements, not the mean, is what He's rule conserves where widths change. Stretches with pooling or
    attention between are left out: averaging over positions divides a gradient without any fault of the weights.
    """
    total, last, averaged, end = 0.0, None, False, None
    for step in segment.steps:
        if step.op.role in _AVERAGING:
            averaged = True
        if step.layer is None:
            continue
        if last is not None and not averaged and step.layer.weight.rms > 0:
            change = log_ratio(_energy(last), _energy(step))
            total += change
            end = last if change == -math.inf else end
        last, averaged = step, False
    return total, end


def _energy(step: Step) -> float | None:
    gradient = step.call.gradient if step.call else None
    return None if gradient is None or not math.isfinite(gradient.rms) else gradient.rms**2 * gradient.count
