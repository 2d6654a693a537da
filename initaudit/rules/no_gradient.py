"""Parameters that no gradient reaches.

## What it measures
Parameters that ask for a gradient, are used in the forward pass, and have none after the backward pass (`None`), or
one that is zero throughout.

## Why it matters
What gets no gradient is never trained. When an operation leads from a parameter to an output of the model and the
gradient does not come back along it, something on the way cuts it: `detach()`, `torch.no_grad()`, an `argmax`, a
round trip through numpy. That is nearly always a mistake, and nothing but the missing progress would tell.

## Example that fires

```python
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(16, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.encoder(x).detach())  # the encoder will never learn


model = Net()
inputs = torch.randn(8, 16)
```

## Remedy
Remove what cuts the path. If it is meant, say so with `requires_grad_(False)` on the parameters, which also saves
the memory of their gradients.

## Limit and where it comes from
A warning when the operation leads to an output that has a gradient, and nothing says that the cut is meant. It is
meant, and a note, where what is cut off is a straight-through estimator (`x + (q - x).detach()`: the other term carries
the gradient), where a loss that the model returns is reached without the cut, and where the gradient stops at whole
numbers that the model returns as well (codes, durations, lengths): these have losses of their own.
A note, too, when the operation leads to no output that was differentiated (a pooler, an auxiliary head) or the output
is a derivative in which the parameter is no more (the last bias of an energy whose forces are the output), when the
gradient is zero throughout (behind factors of zero it comes after the first steps; the note says at which), and for
parts that are frozen.

## References
Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons", arXiv:1308.3432, and van den Oord
et al. 2017, arXiv:1711.00937 (straight-through). De & Smith 2020, "Batch Normalization Biases Residual Blocks Towards
the Identity Function", arXiv:2002.10444, and Zhang et al. 2019, "Fixup Initialization", arXiv:1901.09321 (zero
gradients at the start that are meant).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initaudit.records import Op, Parameter, Role, Severity, Trace
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.liveness import STOPS, Liveness
from initaudit.rules.paths import downstream, listing, owners, upstream

if TYPE_CHECKING:
    from initaudit.rules.flow import Flow


_NUMBER = re.compile(r"\.\d+\b")


def check(flow: Flow) -> Iterator[Observation]:
    """Yield what is cut off, what leads nowhere, and what has a gradient of zero: one finding each per cause."""
    trace = flow.trace
    wanting = [p for p in trace.parameters if p.requires_grad]
    if all(p.grad_rms is None for p in wanting):
        return  # no backward pass: nothing can be said
    used = {name for op in trace.ops for name in op.parameters}
    silent = [p for p in wanting if p.grad_rms is None and p.fqn in used]
    cut, loose = _split(trace, silent)
    yield from _cut(trace, cut)
    yield from _note(trace, loose, "no gradient, because no output that was differentiated depends on it:")
    yield from _zero(trace, [p for p in wanting if p.grad_rms == 0.0])
    frozen = [p for p in trace.parameters if not p.requires_grad and p.fqn in used]
    yield from _note(trace, frozen, "frozen (`requires_grad=False`) and left as it is by training:")


def _note(trace: Trace, parameters: list[Parameter], text: str) -> Iterator[Observation]:
    if parameters:
        names = owners(trace, parameters)
        yield Observation(
            fqn=names[0],
            message=f"{text} {listing(names)}",
            observed=float(len(parameters)),
            severity=Severity.NOTE,
            affected=names[1:],
        )


def _zero(trace: Trace, zero: list[Parameter]) -> Iterator[Observation]:
    """Gradients of zero: those that come at a later step, and those that something else than zeros keeps away."""
    liveness = Liveness(trace)
    waiting = [p for p in zero if liveness.waits(p)]
    if waiting:
        blocking = owners(trace, liveness.factors)
        behind = f"the zeros of {listing(blocking)}" if blocking else "values of zero"
        last = max(liveness.first_step[p.fqn] for p in waiting)
        text = f"the gradient is zero at the first step, behind {behind}, and comes by step {last}:"
        yield from _note(trace, waiting, text)
    rest = [p for p in zero if p not in waiting and p.fqn not in liveness.stuck]
    yield from _note(trace, rest, "the gradient is zero throughout on this input:")


def _split(trace: Trace, silent: list[Parameter]) -> tuple[list[tuple[Op, Parameter]], list[Parameter]]:
    """Those whose operation leads to an output with a gradient, and those that lead to none."""
    ends = [op.id for op in trace.ops if op.output and _differentiated(trace, op)]
    # What is made after the shape of a value alone (`zeros_like`) does not depend on it.
    leading = upstream([op for op in trace.ops if op.role is not Role.INPUT], ends)
    cut, loose = [], []
    for parameter in silent:
        op = next((o for o in trace.ops if parameter.fqn in o.parameters and o.id in leading), None)
        if op is not None and op.gradient is None and not _falls_away(trace, parameter):
            cut.append((op, parameter))
        else:
            loose.append(parameter)
    return cut, loose


def _falls_away(trace: Trace, parameter: Parameter) -> bool:
    """Whether the gradient comes to what each operation uses beside it, and uses alone: then nothing is cut.

    What the model gives is a derivative, in which a term that the input does not multiply is no more.
    """
    readers = _readers(trace, parameter.fqn)
    found = {p.fqn for p in trace.parameters if p.grad_rms is not None}
    return bool(readers) and all(
        any(name in found and _readers(trace, name) == [reader] for name in _used(trace, reader)) for reader in readers
    )


def _readers(trace: Trace, parameter: str) -> list[Op]:
    return [op for op in trace.ops if parameter in _used(trace, op)]


def _used(trace: Trace, op: Op) -> set[str]:
    """The parameters that are operands of ``op``."""
    operands = (trace.ops[i] for i in op.inputs)
    return {name for o in operands if o.role is Role.PARAMETER and not o.inputs for name in o.parameters}


def _differentiated(trace: Trace, op: Op) -> bool:
    """Whether a gradient entered here; a view has none of its own and is judged by what it shows."""
    while op.gradient is None and op.role is Role.VIEW and op.inputs:
        op = trace.ops[op.inputs[0]]
    return op.gradient is not None


def _cut(trace: Trace, cut: list[tuple[Op, Parameter]]) -> Iterator[Observation]:
    """One observation for each place where gradients stop (equal blocks are one), at the layer nearest to it."""
    by_place: dict[tuple[str, str, str], list[tuple[Op, Parameter]]] = {}
    for op, parameter in cut:
        last = _last_without_gradient(trace, op)
        place = (last.name, _NUMBER.sub(".*", last.scope), _intention(trace, op, last))
        by_place.setdefault(place, []).append((op, parameter))
    for (name, scope, intention), members in by_place.items():
        members.sort(key=lambda member: -member[0].id)
        names = owners(trace, (parameter for _, parameter in members))
        where = f" in {scope}" if scope else ""
        advice = "remove what cuts it (detach, no_grad, argmax), or freeze the part with requires_grad_(False)"
        yield Observation(
            fqn=names[0],
            message=f"the output depends on it, but no gradient comes back: it stops at `{name}`{where}; "
            + (intention or advice),
            observed=float(len(members)),
            severity=Severity.NOTE if intention else None,
            affected=names[1:],
        )


def _intention(trace: Trace, op: Op, last: Op) -> str:
    """What tells that the gradient of ``op`` is meant to stop at ``last``; empty where nothing does."""
    ops = trace.ops
    floating = {o.id for o in downstream(ops, [op.id], passes=lambda o: o.moving and o.gradient is None)}
    if (not last.moving or last.id not in floating) and any(
        o.output and not o.moving for o in downstream(ops, [op.id])
    ):
        return "it passes whole numbers, which the model returns as well: they need a loss of their own"
    uncut = downstream(ops, [op.id], passes=lambda o: o.moving and o.name not in STOPS)
    if any(o.output and o.moving and o.name not in STOPS and math.prod(o.shape) == 1 for o in uncut):
        return "a loss that the model returns reaches it without the cut"
    before = upstream(ops, [last.id])
    sums = (o for o in ops if o.role is Role.JOIN and last.id in o.inputs and o.gradient is not None)
    if any(i != last.id and i in before for o in sums for i in o.inputs):
        return "it is the straight-through estimator: the gradient takes the other term of the sum"
    return ""


def _last_without_gradient(trace: Trace, start: Op) -> Op:
    """The last operation on the way from ``start`` whose output got no gradient, though what it feeds did."""
    without = {start.id: start}
    for op in downstream(trace.ops, [start.id], passes=lambda op: op.gradient is None):
        if op.gradient is None:
            without[op.id] = op
        else:
            return max((without[i] for i in op.inputs if i in without), key=lambda o: o.id)
    return start


RULE = Rule(
    code="IA203",
    name="no-gradient",
    severity=Severity.WARNING,
    limit=Limit(0.0, unit="parameters", source="what gets no gradient is not trained"),
    check=check,
)
