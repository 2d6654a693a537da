"""Values that are not finite: NaN or infinity.

## What it measures
The first operation, in the order of execution, whose output holds a NaN or an infinity although everything it read
was finite. What it spoils further on is listed with it and is not reported again. Where the forward pass is finite,
the backward pass is searched in the same way, from the output down.

## Why it matters
One such value in a loss makes every gradient NaN, and the first step of the optimizer writes that into every
weight.

## Example that fires

```python
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(16, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(torch.log(self.body(x)))  # the logarithm of a negative number


model = Net()
inputs = torch.randn(8, 16)
```

## Remedy
Look at the operation that is named: a logarithm or a square root of what may be negative, a division by what may be
zero (add an epsilon), `exp` of a large number, a softmax over a row in which everything is masked, or numbers
beyond 65504 in float16. Where the weights are at fault, see `exploding-activations`.

## Limit and where it comes from
No value at all may be non-finite where a layer or a norm computes it or the model returns it. An attention mask
holds `-inf` on purpose: it is no fault as long as the softmax it leads to is finite, and one that is part of the
output (masked logits) is a note.

## References
IEEE 754-2019, sections 6.1 and 6.2 (arithmetic of infinity and NaN). Micikevicius et al. 2018, "Mixed Precision
Training", arXiv:1710.03740, section 3 (the range of float16).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from initaudit.records import Op, Role, Severity, Stats, Trace
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.paths import downstream, listing, upstream

if TYPE_CHECKING:
    from initaudit.rules.flow import Flow

MASKING = frozenset({"masked_fill", "masked_fill_", "where", "full", "full_like", "triu", "tril", "index_fill"})


def check(flow: Flow) -> Iterator[Observation]:
    """Yield each operation at which non-finite values begin, with what it spoils."""
    found = False
    for observation in _forward(flow.trace):
        found = found or observation.severity is not Severity.NOTE
        yield observation
    if not found:
        yield from _backward(flow.trace)


def _forward(trace: Trace) -> Iterator[Observation]:
    broken = {op.id for op in trace.ops if _nonfinite(op.stats)}
    spoiled_weights = {p.fqn for p in trace.parameters if p.nonfinite}
    explained: set[int] = set()
    for source in trace.ops:
        if source.id not in broken or not broken.isdisjoint(source.inputs):
            continue
        spoiled = downstream([op for op in trace.ops if op.id in broken], [source.id])
        harmed = [op for op in (source, *spoiled) if _matters(op) and op.id not in explained]
        explained.update(op.id for op in (source, *spoiled))
        own = {*source.parameters, *(name for i in source.inputs for name in trace.ops[i].parameters)}
        if not harmed or not spoiled_weights.isdisjoint(own):
            continue  # a mask that did its work, or the work of non-finite-parameters
        adds_constant = any(not trace.ops[i].moving for i in source.inputs) and source.role in (Role.SCALE, Role.JOIN)
        yield _observation(trace, source, spoiled, harmed, adds_constant)


def _observation(trace: Trace, source: Op, spoiled: list[Op], harmed: list[Op], adds_constant: bool) -> Observation:
    start, why, severity = source, "", None
    if source.name in MASKING or adds_constant:
        softmax = next((op for op in spoiled if op.role is Role.ATTENTION), None)
        if softmax is not None:
            start, why = softmax, ": a row in which everything is masked has no softmax"
        elif source.name in MASKING and all(op.role not in (Role.LAYER, Role.NORM) for op in harmed):
            why, severity = ", put there by a mask, and they reach the output of the model", Severity.NOTE
    elif source.role is Role.INPUT:
        why = ", and it is an input of the model or made from constants"
    layers = _layers(spoiled, start)
    fraction = _fraction(start.stats)
    reach = f"; it spoils {listing(layers)}" if layers else ""
    return Observation(
        fqn=start.layer or start.scope or _last_layer_before(trace, start),
        message=f"{fraction:.2%} of the values that `{start.name}` gives are NaN or infinite{why}{reach}",
        observed=fraction,
        severity=severity,
        affected=layers,
    )


def _last_layer_before(trace: Trace, op: Op) -> str:
    """The layer that ``op`` reads, for an operation that the model itself calls and no module has."""
    leading = upstream(trace.ops, [op.id])
    return next((o.layer for o in reversed(trace.ops) if o.id in leading and o.layer), "")


def _backward(trace: Trace) -> Iterator[Observation]:
    broken = [op for op in trace.ops if _nonfinite(op.gradient)]
    if not broken or not any(p.grad_nonfinite for p in trace.parameters):
        return  # what is masked away before it reaches a parameter harms none
    first = broken[-1]  # the backward pass runs from the output, so the last in execution order is the first to break
    through = next((op for op in trace.ops if first.id in op.inputs), first)
    layers = _layers(broken[:-1], first)
    fraction = _fraction(first.gradient)
    yield Observation(
        fqn=through.layer or through.scope or _last_layer_before(trace, through),
        message=(
            f"the forward pass is finite, but {fraction:.2%} of the gradient that comes back through "
            f"`{through.name}` is NaN or infinite: its derivative is, such as that of sqrt at 0"
            + (f"; it reaches {listing(layers)}" if layers else "")
        ),
        observed=fraction,
        affected=layers,
    )


def _matters(op: Op) -> bool:
    return op.output or op.role in (Role.LAYER, Role.NORM)


def _nonfinite(stats: Stats | None) -> bool:
    return stats is not None and stats.nonfinite > 0


def _fraction(stats: Stats | None) -> float:
    return stats.nonfinite / max(stats.count, 1) if stats else 0.0


def _layers(ops: Sequence[Op], start: Op) -> tuple[str, ...]:
    return tuple(dict.fromkeys(op.layer for op in ops if op.layer and op.layer != start.layer))


RULE = Rule(
    code="IA106",
    name="non-finite-values",
    severity=Severity.ERROR,
    limit=Limit(0.0, unit="fraction of values", source="IEEE 754: nothing computed from a NaN is a number again"),
    check=check,
)
