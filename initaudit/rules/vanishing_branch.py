"""A branch whose signal dies out before it is joined to one that lives.

## What it measures

At each concatenation and sum, the signal (what tells samples apart) of every operand beside the largest: what the
branch's own layers do to it, from where the branch leaves a way that was followed before, or from its last
normalization. It must end as much smaller than the largest operand. Where a BatchNorm, GroupNorm or InstanceNorm
follows the concatenation before any layer, each channel gets its size back, unless its variance is as far below their
epsilon, and nothing is judged. A factor that is learned (LayerScale) is left out, for it grows by itself. Of sums
only those are judged that join different inputs: residual branches start small on purpose.

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

from initaudit.records import Op, Role, Severity
from initaudit.rules import drift
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import Flow, Segment, expected_decay, log_ratio, power
from initaudit.rules.paths import KEPT, behind, downstream
from initaudit.rules.wording import observe_drift

_NORMS_OF_CHANNELS = frozenset({"batch_norm", "group_norm", "instance_norm"})
_EPSILON = 1e-5  # torch's own of all three
_KEEP_CHANNELS = frozenset({*KEPT, Role.ACTIVATION})


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    known: set[int] = set()
    waiting: list[Op] = []
    for end in flow.ends:
        waiting += _joints(flow.path_to(end, known), known)
    told: set[tuple[str, ...]] = set()
    for joint in waiting:  # which grows by those on the branches
        operands = [op for i in dict.fromkeys(joint.inputs) if (op := flow.trace.ops[i]).moving]
        largest = max((_size(flow, op) for op in operands), default=0.0)
        living = [op for op in operands if log_ratio(_size(flow, op), largest) >= -drift.FAIL]
        for end in operands:
            path = flow.path_to(end, known)
            waiting += _joints(path, known)
            alone = _reads_alone(flow, end, living)
            if end in living or (joint.role is Role.JOIN and not alone):
                continue
            branch = flow.segments(path)
            if branch and not branch[-1].ends_normalized and not _switched_off(flow, branch[-1]):
                for seen in _judge(flow, branch[-1], end, joint, alone=alone):
                    if (names := (seen.fqn, *seen.affected)) not in told:  # a recurrence joins them at every step
                        told.add(names)
                        yield seen


def _joints(path: Sequence[Op], known: set[int]) -> list[Op]:
    """Where others join a path, which from now on is ``known``."""
    known.update(op.id for op in path)
    return [op for op in path if op.role in (Role.CONCAT, Role.JOIN)]


def _size(flow: Flow, op: Op) -> float:
    return power(flow.nearest(op)) or 0.0


def _reads_alone(flow: Flow, end: Op, living: Sequence[Op]) -> bool:
    """Whether no living operand is computed from an input of ``end``; of what was made out of sight nobody knows."""
    mine, others = flow.inputs_of[end.id], [flow.inputs_of[op.id] for op in living]
    return bool(mine) and all(theirs and mine.isdisjoint(theirs) for theirs in others)


def _switched_off(flow: Flow, branch: Segment) -> bool:
    """Whether a constant of zero ends it, such as the state that a recurrence starts from: that is no draw's doing."""
    return any(
        step.op.role is Role.SCALE and step.drift == -math.inf and not _reads_a_parameter(flow, step.op)
        for step in branch.steps
    )


def _reads_a_parameter(flow: Flow, op: Op) -> bool:
    return any(behind(flow.trace, i) for i in op.inputs)


def _judge(flow: Flow, branch: Segment, end: Op, joint: Op, *, alone: bool) -> Iterator[Observation]:
    amount = branch.drift - sum(min(0.0, step.drift) for step in branch.steps if flow.is_learned_factor(step.op))
    found = drift.judge(branch, amount - expected_decay(branch.activations))
    if found is None or found.severity is not Severity.ERROR or found.amount > 0:
        return
    if joint.role is Role.CONCAT and _sized_anew(flow, end, joint):
        return
    severity = Severity.ERROR if alone else Severity.WARNING
    what = f"the signal of a branch that {'alone reads its input' if alone else 'another one outlives'} shrinks"
    seen = observe_drift(replace(found, severity=severity), what)
    yield replace(seen, message=f"{seen.message}; `{joint.name}` joins it to a signal that has not vanished")


def _sized_anew(flow: Flow, end: Op, joint: Op) -> bool:
    """Whether all that reads the concatenation normalizes each channel before a layer mixes them, and brings this
    branch to size: of a variance ``v`` it makes ``v / (v + eps)`` (Ioffe & Szegedy 2015)."""
    variance = _size(flow, end)
    if log_ratio(variance, variance + _EPSILON) < -drift.FAIL:
        return False
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
