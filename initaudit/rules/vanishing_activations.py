"""The forward signal dies out on its way through the layers.

## What it measures

The variance of activations across the samples of the batch, followed along the path that dominates the output, from
the input (or from the last normalization, which sets the scale anew) to the end. What a layer does to it is its
*drift*; pooling and attention, which average, are left out, and so is the slow decay that a critical net shows by
itself (for ReLU the samples' correlation approaches 1 as `1 - 44/l²` over `l` layers).

## Why it matters

Each layer multiplies the variance by `fan_in · Var[w] · E[φ²]`. With torch's default for `nn.Linear`, `Var[w] =
1/(3·fan_in)`, and a ReLU, that is 1/6 per layer: after twenty layers nothing of the input reaches the output, and the
gradient dies in the same way on its way back. The loss stays at `ln C`.

## Example that fires

```python
import torch
from torch import nn

layers = []
for _ in range(20):
    layers += [nn.Linear(256, 256), nn.ReLU()]
model = nn.Sequential(*layers, nn.Linear(256, 10))
```

## Remedy

Initialize with the gain of the activation that follows: `nn.init.kaiming_normal_(weight, nonlinearity="relu")` for
ReLU, and biases at zero. For sigmoid no scale helps: use another activation, a normalization, or residual
connections.

## Limit and where it comes from

The natural log of the variance ratio: a warning beyond -6 (six depth scales are the limit of easy training) and what
finite width gives to a healthy net, and an error beyond -14 (He's 22-layer net under Xavier, -13.2, still trains; his
30-layer one, -18.7, does not), or what finite width gives where that is more.

## References

Glorot & Bengio 2010; He et al. 2015 (arXiv:1502.01852); Schoenholz et al. 2017 (arXiv:1611.01232); Hanin & Rolnick
2018 (arXiv:1803.01719).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from initaudit.records import Severity
from initaudit.rules import drift
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import Flow
from initaudit.rules.wording import observe_drift

KEEPS_SIZE = (
    -4.0
)  # ln of the mean-square ratio above which the values themselves have not vanished, only what tells samples apart


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    for segment in flow.judged:
        found = drift.judge_signal(segment)
        if found and found.amount < 0 and segment.mean_square_drift < KEEPS_SIZE:
            yield observe_drift(found, "the signal that tells samples apart shrinks")


RULE = Rule(
    code="IA101",
    name="vanishing-activations",
    severity=Severity.ERROR,
    limit=Limit(
        math.exp(-drift.FAIL / 2),
        "signal rms, end over start",
        "limits of trainability: Schoenholz 2017 (6 depth scales), He 2015 (30 layers)",
    ),
    check=check,
)
