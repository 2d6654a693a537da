"""The gradient grows on its way back to the first layers.

## What it measures

The same as `vanishing-gradients`, in the other direction.

## Why it matters

In a net with large weights and a saturating activation the forward pass looks calm, for tanh is bounded, while the
gradient grows from layer to layer: the net is chaotic, neighbouring inputs are torn apart, and no learning rate suits
the first and the last layer.

## Example that fires

```python
import torch
from torch import nn

layers = []
for _ in range(30):
    layers += [nn.Linear(256, 256), nn.Tanh()]
model = nn.Sequential(*layers, nn.Linear(256, 10))
for m in model:
    if isinstance(m, nn.Linear):
        nn.init.normal_(m.weight, std=0.25)
```

## Remedy

Weights with the gain of the activation that follows, so that the gradient's factor per layer is near 1.

## Limit and where it comes from

Natural log of the ratio of sums of squares: a warning beyond 6 and what finite width does to a healthy net, an error
beyond 14 or that, whichever is more.

Through twelve or more normalized layers a factor beyond 14 in the same measure is a warning and one beyond 18.7 an
error: BatchNorm before each ReLU makes the gradient grow by 1.21 per layer, and nets of more than about 42 such layers
hardly train without residual connections. The factor is what the typical layer adds, times their number, or what the
typical quarter of the way adds, four times over, where that is less (layers may alternate): one step where two streams
meet is no law of depth. A concatenation divides the gradient, which comes together again where its branches part; of
the growth with these steps and without them the smaller counts.

## References

Poole et al. 2016 (arXiv:1606.05340); Schoenholz et al. 2017 (arXiv:1611.01232); Yang et al. 2019 (arXiv:1902.08129).
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
    for found in check_gradients(flow, 1):
        yield observe_drift(found, "the gradient grows on its way back")
    yield from through_norms(flow, 1)


RULE = Rule(
    code="IA202",
    name="exploding-gradients",
    severity=Severity.ERROR,
    limit=Limit(
        math.exp(drift.FAIL / 2),
        "gradient norm, first layer over last",
        "limits of trainability: Schoenholz 2017, Yang 2019",
    ),
    check=check,
)
