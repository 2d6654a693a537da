"""Where values leave the range of float16; a part of the rule ``low-precision-range``."""

from __future__ import annotations

import math
from collections.abc import Iterable

from initaudit.records import Op, Role, Stats, Trace
from initaudit.rules.paths import downstream
from initaudit.theory.formats import FLOAT16, expected_extreme

_CASTS = frozenset({"float", "double", "to", "type", "type_as"})
_FLOAT32_MIN = -3.4e38  # a mask filled with the dtype's own minimum follows the dtype


def extremes(stats: Stats) -> tuple[float, float]:
    """Smallest and largest of all elements, as far as those that were sampled tell."""
    return (
        expected_extreme(stats.min, stats.mean, stats.sampled, stats.count),
        expected_extreme(stats.max, stats.mean, stats.sampled, stats.count),
    )


def places(trace: Trace, wanted: Iterable[Op]) -> tuple[str, ...]:
    """The layers or modules that operations belong to, else the last layer before each; each place once."""
    last: list[str] = []
    for op in trace.ops:
        before = max(((i, last[i]) for i in op.inputs if last[i]), default=(0, ""))
        last.append(op.layer or before[1])
    return tuple(dict.fromkeys(op.layer or op.scope or last[op.id] for op in wanted))


def place(trace: Trace, op: Op) -> str:
    """The layer or module that an operation belongs to, else the last layer before it."""
    return places(trace, [op])[0]


def overflows(trace: Trace) -> list[tuple[Op, float]]:
    """The operations that give values beyond float16 though they read none, with the extreme of what they give."""
    raised = _behind_casts(trace)
    begun: list[tuple[Op, float]] = []
    beyond: set[int] = set()
    for op in trace.ops:
        low, high = extremes(op.stats) if op.moving and op.stats else (0.0, 0.0)
        extreme = max(-low, high)
        inherited = not beyond.isdisjoint(op.inputs)
        if extreme <= FLOAT16.largest and not (inherited and op.role is Role.VIEW):
            continue
        beyond.add(op.id)
        if not inherited and op.id not in raised and math.isfinite(extreme) and not _is_mask(trace, op, low, high):
            begun.append((op, extreme))
    return [(op, extreme) for op, extreme in begun if _is_used(trace, op)]


def absorbed(trace: Trace) -> list[Op]:
    """The operations of a run in float16 that made infinities out of finite values, masks and sums left out."""
    infinite = {op.id for op in trace.ops if op.stats is not None and op.stats.nonfinite}
    makes = (Role.ACTIVATION, Role.GATE, Role.POOL, Role.LAYER, Role.ATTENTION)
    return [o for o in trace.ops if o.id in infinite and o.role in makes and infinite.isdisjoint(o.inputs)]


def _is_used(trace: Trace, op: Op) -> bool:
    """Whether a layer, a norm, an attention or the output gets the value, and not a comparison alone."""
    reached = [op, *downstream(trace.ops, [op.id], lambda o: o.moving)]
    return any(o.moving and (o.output or o.role in (Role.LAYER, Role.NORM, Role.ATTENTION)) for o in reached)


def _behind_casts(trace: Trace) -> set[int]:
    """Operations that compute with what was cast in the same module: their author chose the precision."""
    raised: set[int] = set()
    for op in trace.ops:
        inside = any(i in raised and trace.ops[i].scope == op.scope for i in op.inputs)
        if inside or (op.role is Role.VIEW and op.name in _CASTS):
            raised.add(op.id)
    return raised


def _is_mask(trace: Trace, op: Op, low: float, high: float) -> bool:
    """Whether a large negative constant was put in on purpose, in a way that survives float16 as minus infinity."""
    if low >= -FLOAT16.largest or high > FLOAT16.largest:
        return False
    if op.name == "masked_fill":  # which refuses a number that the dtype cannot hold
        return low <= _FLOAT32_MIN
    constant = any(not trace.ops[i].moving for i in op.inputs)
    return op.name == "where" or (constant and op.role in (Role.SCALE, Role.JOIN))
