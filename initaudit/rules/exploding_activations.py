"""The forward signal grows from layer to layer.

## What it measures

The same as `vanishing-activations`, in the other direction: the variance of activations across samples along the path
that dominates the output, since the input or the last normalization.

## Why it matters

Each layer multiplies the variance by `fan_in · Var[w] · E[φ²]`. Where that is above 1 the outputs grow exponentially
with depth: the first loss is enormous, the first step throws the weights away, and half precision overflows.

## Example that fires

```python
import torch
from torch import nn

layers = []
for _ in range(20):
    layers += [nn.Linear(256, 256), nn.ReLU()]
model = nn.Sequential(*layers, nn.Linear(256, 10))
for m in model:
    if isinstance(m, nn.Linear):
        nn.init.normal_(m.weight, std=0.2)
```

## Remedy

Scale the weights with `1/sqrt(fan_in)` and the gain of the activation that follows. In a residual net without
normalization scale the last layer of each branch by `1/sqrt(2N)` for `N` blocks, or start it at zero.

## Limit and where it comes from

The natural log of the variance ratio: a warning beyond 6 and what finite width gives to a healthy net, an error beyond
14 or that, whichever is more; see `vanishing-activations`.

## References

He et al. 2015 (arXiv:1502.01852); Hanin & Rolnick 2018 (arXiv:1803.01719); Zhang et al. 2019, Fixup (arXiv:1901.09321).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from initaudit.records import Severity
from initaudit.rules import drift
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import Flow
from initaudit.rules.wording import observe_drift


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    for segment in flow.judged:
        found = drift.judge_signal(segment)
        if found and found.amount > 0:
            yield observe_drift(found, "the signal grows")


RULE = Rule(
    code="IA102",
    name="exploding-activations",
    severity=Severity.ERROR,
    limit=Limit(
        math.exp(drift.FAIL / 2), "signal rms, end over start", "limits of trainability: Schoenholz 2017, Yang 2019"
    ),
    check=check,
)
