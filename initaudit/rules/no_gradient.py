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
A warning when the operation leads to an output that has a gradient. A note when it leads to none (a pooler, an
auxiliary head: normal where a part of the output was not asked for), and when the gradient is zero throughout:
behind a layer initialized with zeros that is right at the first step, and over after it.

## References
De & Smith 2020, "Batch Normalization Biases Residual Blocks Towards the Identity Function", arXiv:2002.10444, and
Zhang et al. 2019, "Fixup Initialization", arXiv:1901.09321 (zero gradients at the start that are meant).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initaudit.records import Op, Parameter, Role, Severity, Trace
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.paths import downstream, is_zero, listing, owner, owners, upstream

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
    if loose:
        names = owners(trace, loose)
        yield Observation(
            fqn=names[0],
            message=f"no gradient, because no output that was differentiated depends on it: {listing(names)}",
            observed=float(len(loose)),
            severity=Severity.NOTE,
            affected=names[1:],
        )
    if zero := [p for p in wanting if p.grad_rms == 0.0]:
        names = owners(trace, zero)
        yield Observation(
            fqn=names[0],
            message=f"the gradient is zero throughout in {listing(names)}" + _behind_zeros(trace),
            observed=float(len(zero)),
            severity=Severity.NOTE,
            affected=names[1:],
        )


def _behind_zeros(trace: Trace) -> str:
    zeros = owners(trace, (layer.weight for layer in trace.layers if is_zero(layer.weight)))
    return f", which is right at the first step behind the zeros of {listing(zeros)}" if zeros else ""


def _split(trace: Trace, silent: list[Parameter]) -> tuple[list[tuple[Op, Parameter]], list[Parameter]]:
    """Those whose operation leads to an output with a gradient, and those that lead to none."""
    ends = [op.id for op in trace.ops if op.output and _differentiated(trace, op)]
    leading = upstream(trace.ops, ends)
    cut, loose = [], []
    for parameter in silent:
        op = next((o for o in trace.ops if parameter.fqn in o.parameters and o.id in leading), None)
        if op is not None and op.gradient is None:
            cut.append((op, parameter))
        else:
            loose.append(parameter)
    return cut, loose


def _differentiated(trace: Trace, op: Op) -> bool:
    """Whether a gradient entered here; a view has none of its own and is judged by what it shows."""
    while op.gradient is None and op.role is Role.VIEW and op.inputs:
        op = trace.ops[op.inputs[0]]
    return op.gradient is not None


def _cut(trace: Trace, cut: list[tuple[Op, Parameter]]) -> Iterator[Observation]:
    """One warning for each place where gradients stop (equal blocks are one), at the layer nearest to it."""
    by_place: dict[tuple[str, str], list[tuple[Op, Parameter]]] = {}
    for op, parameter in cut:
        last = _last_without_gradient(trace, op)
        by_place.setdefault((last.name, _NUMBER.sub(".*", last.scope)), []).append((op, parameter))
    for (name, scope), members in by_place.items():
        members.sort(key=lambda member: -member[0].id)
        names = tuple(dict.fromkeys(owner(trace, parameter) for _, parameter in members))
        where = f" in {scope}" if scope else ""
        yield Observation(
            fqn=names[0],
            message=(
                f"the output depends on it, but no gradient comes back: it stops at `{name}`{where}; "
                "remove what cuts it (detach, no_grad, argmax), or freeze the part with requires_grad_(False)"
            ),
            observed=float(len(members)),
            affected=names[1:],
        )


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
