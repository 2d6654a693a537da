"""How the gradient changes along the layers of a segment, and through normalizations: for the two gradient rules."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from itertools import accumulate
from statistics import median

from initaudit.records import Role, Severity
from initaudit.rules import drift
from initaudit.rules.base import Observation
from initaudit.rules.flow import Flow, Segment, Step, log_ratio, power
from initaudit.rules.wording import figure

_STACK = 12  # pairs of layers from which a stack is one
_AVERAGING = frozenset({Role.POOL, Role.ATTENTION})


def check_gradients(flow: Flow, sign: float) -> Iterator[drift.Drift]:
    """Drifts of the gradient from the last layer back to the first, those that grow (``sign`` 1) or shrink (-1)."""
    for segment in flow.judged:
        if sign > 0 and any(step.op.role is Role.NORM for step in segment.steps):
            continue  # a normalization of nearly nothing multiplies the gradient by as much as the signal
        amount, end = gradient_drift(flow, segment)
        if amount * sign > 0 and (found := drift.judge(segment, amount, end)) is not None:
            yield found


def gradient_drift(flow: Flow, segment: Segment) -> tuple[float, Step | None]:
    """Natural log of the gradient's sum of squares at the first layer over that at the last; the layer where it ends.

    The sum over elements, not the mean, is what He's rule conserves where widths change. Stretches with pooling or
    attention between are left out, since averaging over positions divides a gradient without any fault of the weights,
    and so are those with a concatenation, behind which one of several readers is followed. Left out as well is what a
    small or a large head does to it, which is the same for all layers before it. A fixed factor behind a layer (the
    frequency of a sine) is taken as part of its weights.
    """
    total, end = 0.0, None
    factors = _fixed_factors(flow, segment.steps)
    for before, after in _neighbours(segment.steps, apart=_AVERAGING | {Role.CONCAT}):
        if after is segment.layers[-1] and after.deviation and not segment.fails_a_norm:
            continue
        change = log_ratio(_energy(before), _energy(after)) - factors[before.op.id] + factors[after.op.id]
        total += change
        end = before if change == -math.inf else end
    return total, end


def _fixed_factors(flow: Flow, steps: Sequence[Step]) -> dict[int, float]:
    """By the op's id of each layer, the natural log of the square by which constants multiply what it gives."""
    found: dict[int, float] = {}
    layer: int | None = None
    for step in steps:
        if step.layer is not None:
            layer = step.op.id
            found[layer] = 0.0
        elif step.op.role not in (Role.SCALE, Role.VIEW) or flow.is_learned_factor(step.op):
            layer = None
        elif layer is not None and math.isfinite(step.drift):
            found[layer] += step.drift
    return found


def through_norms(flow: Flow, sign: float) -> Iterator[Observation]:
    """Ways on which the gradient grows (``sign`` 1) or shrinks (-1) from one normalization to the next."""
    for amount, pairs, layers in norm_drifts(flow):
        if pairs >= _STACK and amount * sign > drift.FAIL:
            yield _observe(amount, layers)


def norm_drifts(flow: Flow) -> Iterator[tuple[float, int, list[Step]]]:
    """For each way through normalizations how the gradient changes on it, in how many pairs of layers, and the layers.

    A normalization multiplies the gradient by the inverse of the scale that it takes away, so what is followed is the
    product of the gradient's sum of squares and the signal's variance, which a change of scale leaves as it is. What a
    concatenation divides comes together again where its branches part, perhaps in others than the way leads through: of
    the change with such steps and without them the smaller counts.
    """
    seen: set[tuple[int, ...]] = set()
    for way in flow.ways:
        steps = [s for segment in way for s in segment.steps]
        layers = [s for s in steps if s.layer is not None]
        key = tuple(s.op.id for s in layers)
        if not any(segment.ends_normalized for segment in way) or key in seen:
            continue
        seen.add(key)
        counts = [_stacked(_changes(steps, apart)) for apart in (_AVERAGING, _AVERAGING | {Role.CONCAT})]
        amount, pairs = min(counts, key=lambda count: abs(count[0]))
        if pairs:
            yield amount, pairs, layers


def _changes(steps: Sequence[Step], apart: Container[Role]) -> list[float]:
    found = (log_ratio(_flow(a), _flow(b)) for a, b in _neighbours(steps, apart))
    return [change for change in found if math.isfinite(change)]


def _stacked(changes: list[float]) -> tuple[float, int]:
    """What changes stack up to, without the few large steps where two streams meet, and how many they are.

    Either the typical layer as often as there are layers, or, since layers often alternate, the typical stretch of a
    quarter of the way and an even number of layers: the smaller counts.
    """
    if not changes:
        return 0.0, 0
    size = max(1, len(changes) // 8 * 2)
    sums = list(accumulate(changes, initial=0.0))
    stretch = median(b - a for a, b in zip(sums, sums[size:], strict=False)) / size
    return min(median(changes), stretch, key=abs) * len(changes), len(changes)


def _observe(amount: float, layers: list[Step]) -> Observation:
    names = list(dict.fromkeys(s.layer.fqn for s in layers if s.layer))
    verb = "grows" if amount > 0 else "shrinks"
    return Observation(
        fqn=names[0],
        message=f"through the normalizations between {names[0]} and {names[-1]} the gradient {verb} by a factor of "
        f"{figure(math.exp(amount / 2))}, {figure(math.exp(amount / 2 / len(layers)))} per layer, whatever the weights "
        "(1.21 for a BatchNorm before each ReLU): shorten the stack or add residual connections",
        observed=math.exp(amount / 2),
        severity=Severity.ERROR if abs(amount) > drift.SURE else Severity.WARNING,
        affected=tuple(names[1:]),
    )


def _neighbours(steps: Sequence[Step], apart: Container[Role]) -> Iterator[tuple[Step, Step]]:
    """Pairs of layers that follow each other with nothing between that sets them ``apart``."""
    last: Step | None = None
    for step in steps:
        if step.op.role in apart:
            last = None
        if step.layer is not None:
            if last is not None and step.layer.weight.rms > 0:
                yield last, step
            last = step


def _flow(step: Step) -> float | None:
    energy, variance = _energy(step), power(step.call.pre_activation if step.call else None)
    return None if energy is None or variance is None else energy * variance


def _energy(step: Step) -> float | None:
    gradient = step.call.gradient if step.call else None
    return None if gradient is None or not math.isfinite(gradient.rms) else gradient.rms**2 * gradient.count
