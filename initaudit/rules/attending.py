"""What the rules on attention share: which layers make the queries, the keys and the values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from initaudit.records import Attention, Layer, Op, Role
from initaudit.rules.flow import Flow, weight_deviation

_STEPS = 64  # from an operand back to its projection: reshapes, norms, rotary positions
_MOST = 3  # layers that one projection may consist of: a low-rank update beside its base


@dataclass(frozen=True, slots=True)
class Projection:
    """A layer that makes an operand of an attention. ``deviation`` is ``ln`` of ``Var[w] * fan_in``."""

    layer: Layer
    source: int | None  # the op whose value it reads
    deviation: float


def projections(flow: Flow, operand: int | None) -> tuple[Projection, ...]:
    """The layers nearest above ``operand``; none where it is no projection but the signal itself."""
    if operand is None:
        return ()
    found: dict[int, Projection] = {}
    todo, seen = [operand], {operand}
    for _ in range(_STEPS):
        if not todo:
            break
        op = flow.trace.ops[todo.pop()]
        made_by = flow.layer_of(op)
        if made_by is not None:
            layer, call = made_by
            found[op.id] = Projection(layer, call.input_op, weight_deviation(layer, (None, None)))
            continue
        onward = [i for i in op.inputs if flow.trace.ops[i].moving and i not in seen]
        seen.update(onward)
        todo += onward
    return tuple(found.values()) if len(found) <= _MOST and not todo else ()


def is_self(flow: Flow, attention: Attention) -> bool:
    """Whether queries and values are made from the same tokens, positions added to one of them or not."""
    queries = {_tokens(flow, p.source) for p in projections(flow, attention.query)}
    values = {_tokens(flow, p.source) for p in projections(flow, attention.value)}
    return bool(queries & values) and None not in queries | values


def _tokens(flow: Flow, op: int | None) -> int | None:
    """The op behind views, a dropout, or the addition of something constant."""
    while op is not None:
        here = flow.trace.ops[op]
        moving = [i for i in here.inputs if flow.trace.ops[i].moving]
        if here.role not in (Role.VIEW, Role.SCALE, Role.OTHER) or len(moving) != 1:
            return op
        op = moving[0]
    return None


def stream(flow: Flow, attention: Attention) -> Iterator[Attention]:
    """The self-attentions that the tokens went through before, nearest first.

    It ends at an attention whose queries are other tokens: what it puts out is a stream of its own.
    """
    by_output = {a.output: a for a in flow.trace.attentions}
    here: Attention | None = attention
    while here is not None and here.value is not None and is_self(flow, here):
        yield here
        here = _previous(flow, flow.trace.ops[here.value], by_output)


def _previous(flow: Flow, op: Op | None, by_output: dict[int | None, Attention]) -> Attention | None:
    while op is not None:
        if op.id in by_output:
            return by_output[op.id]
        op = flow.source(op)
    return None
