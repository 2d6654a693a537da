"""A branch whose signal dies out before it is joined to one that lives.

## What it measures

At each concatenation and sum, the signal (what tells samples apart) of every operand beside the largest: what the
branch's own layers do to it, from where the branch leaves a way that was followed before, or from its last
normalization. It must end as much smaller than the largest operand. Where a BatchNorm, GroupNorm or InstanceNorm
follows the concatenation before any layer, each channel gets its size back, and nothing is judged. Of sums only those
are judged that join different inputs: residual branches start small on purpose.

## Why it matters

The next layer reads the living branch alone, and the weights of the other get a gradient as small as its signal. The
loss goes down, which hides that a part of the network does not train: what only this branch reads is never learned.

## Example that fires

```python
import torch
from torch import nn


class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.deep = nn.Sequential(*(m for _ in range(16) for m in (nn.Linear(64, 64), nn.ReLU())))
        self.wide = nn.Linear(64, 64)
        self.head = nn.Linear(128, 10)

    def forward(self, x):
        return self.head(torch.cat([self.deep(x), self.wide(x)], 1))


model = TwoTowers()
inputs = torch.randn(32, 64)
```

## Remedy

Initialize the branch's layers with the gain of the activation that follows each of them, or normalize the branch
before the concatenation.

## Limit and where it comes from

The natural log of the variance ratio: beyond -14, where a network that is nothing but this branch fails to train, or
what finite width gives where that is more. An error where the branch alone reads one of the model's inputs, else a
warning. (Two towers of width 64 of which the labels need both, 1,500 steps of SGD: one of eight torch-default ReLU
layers, -14.7, is learned; what only one of nine layers reads stays at chance.)

## References

Schoenholz et al. 2017 (arXiv:1611.01232); He et al. 2015 (arXiv:1502.01852).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from initaudit.records import Op, Role, Severity, Trace
from initaudit.rules import drift
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import Flow, Segment, expected_decay, log_ratio, power
from initaudit.rules.paths import KEPT, downstream, upstream
from initaudit.rules.wording import observe_drift

_NORMS_OF_CHANNELS = frozenset({"batch_norm", "group_norm", "instance_norm"})
_KEEP_CHANNELS = frozenset({*KEPT, Role.ACTIVATION})


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    known: set[int] = set()
    waiting = []
    for way in flow.ways:
        waiting += _known(way, known)
    for joint in waiting:  # which grows by those on the branches
        operands = [op for i in dict.fromkeys(joint.inputs) if (op := flow.trace.ops[i]).moving]
        largest = max((_size(flow, op) for op in operands), default=0.0)
        living = [op for op in operands if log_ratio(_size(flow, op), largest) >= -drift.FAIL]
        for end in operands:
            branch = flow.way_to(end, known)
            waiting += _known(branch, known)
            if branch and end not in living and not branch[-1].ends_normalized and end.role is not Role.NORM:
                yield from _judge(flow, branch[-1], end, living, joint)


def _known(way: Sequence[Segment], known: set[int]) -> list[Op]:
    """Enter a way into what is ``known``; returns where others join it."""
    steps = [step.op for segment in way for step in segment.steps]
    known.update(op.id for op in steps)
    return [op for op in steps if op.role in (Role.CONCAT, Role.JOIN)]


def _size(flow: Flow, op: Op) -> float:
    return power(flow.measured(op).stats) or 0.0


def _judge(flow: Flow, own: Segment, end: Op, living: list[Op], joint: Op) -> Iterator[Observation]:
    found = drift.judge(own, own.drift - expected_decay(own.activations))
    if found is None or found.severity is not Severity.ERROR or found.amount > 0:
        return
    alone = not _reads_what_others_read(flow.trace, end, living)
    benign = not alone if joint.role is Role.JOIN else _sized_anew(flow, joint)
    if benign:
        return
    severity = Severity.ERROR if alone else Severity.WARNING
    what = f"the signal of a branch that {'alone reads its input' if alone else 'another one outlives'} shrinks"
    seen = observe_drift(replace(found, severity=severity), what)
    yield replace(seen, message=f"{seen.message}; `{joint.name}` joins it to a signal that has not vanished")


def _reads_what_others_read(trace: Trace, end: Op, others: list[Op]) -> bool:
    """Whether a living operand comes from an input, or from another moving value, from which ``end`` comes too."""
    ours, theirs = (upstream(trace.ops, [op.id for op in ends]) for ends in ([end], others))
    return any(trace.ops[i].moving or trace.ops[i].name == "input" for i in ours & theirs)


def _sized_anew(flow: Flow, joint: Op) -> bool:
    """Whether everything that reads the concatenation normalizes each channel, before a layer mixes them."""
    readers = downstream(flow.trace.ops, [joint.id], passes=lambda op: op.role in _KEEP_CHANNELS)
    ends = [op for op in readers if op.role not in _KEEP_CHANNELS]
    return bool(ends) and all(op.role is Role.NORM and op.name in _NORMS_OF_CHANNELS for op in ends)


RULE = Rule(
    code="IA111",
    name="vanishing-branch",
    severity=Severity.ERROR,
    limit=Limit(
        math.exp(-drift.FAIL / 2), "signal rms, end over start", "limits of trainability: Schoenholz 2017, He 2015"
    ),
    check=check,
)
