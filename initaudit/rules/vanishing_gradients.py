"""The gradient dies out on its way back to the first layers.

## What it measures

The sum of squares of the gradient at each layer's pre-activation, along the path that dominates the output, as the
ratio of the first layer to the last; stretches behind a normalization are judged by themselves, since it divides the
gradient by the scale it takes away. The backward pass starts from seeded noise of unit variance, so neither the loss
nor its scale plays a part.

## Why it matters

A layer multiplies the gradient's sum of squares by `fan_out · Var[w] · E[φ'²]`, turned to widths. Below 1, the first
layers learn exponentially more slowly than the last.

## Example that fires

```python
import torch
from torch import nn

layers = []
for _ in range(12):
    layers += [nn.Linear(128, 128), nn.Sigmoid()]
model = nn.Sequential(*layers, nn.Linear(128, 10))
```

## Remedy

The gain of the activation that follows; for sigmoid another activation, a normalization or residual connections.

## Limit and where it comes from

Natural log of the ratio: a warning beyond -6 and what finite width does to a healthy net, an error beyond -14 or
that, whichever is more. Absolute limits such as 1e-7 are useless: they depend on the loss, the batch and the width.

Through twelve or more normalized layers a factor beyond 14 in the same measure is a warning, one beyond 18.7 an error.

## References

Glorot & Bengio 2010; Schoenholz et al. 2017 (arXiv:1611.01232); Hanin 2018 (arXiv:1801.03744).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from initaudit.records import Severity
from initaudit.rules import drift
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import Flow
from initaudit.rules.gradient_drift import check_gradients, through_norms
from initaudit.rules.wording import observe_drift


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    for found in check_gradients(flow, -1):
        yield observe_drift(found, "the gradient shrinks on its way back")
    yield from through_norms(flow, -1)


RULE = Rule(
    code="IA201",
    name="vanishing-gradients",
    severity=Severity.ERROR,
    limit=Limit(
        math.exp(-drift.FAIL / 2),
        "gradient norm, first layer over last",
        "limits of trainability: Schoenholz 2017, He 2015",
    ),
    check=check,
)
