"""Every input gives nearly the same activations, though the activations themselves keep their size.

## What it measures

The variance of activations across samples, as in `vanishing-activations`, in nets whose mean square does *not* vanish.

## Why it matters

Biases, and the mean of a sigmoid or a softplus, keep the activations at a healthy size while what the input
contributes dies out: a monitor that looks at the standard deviation sees nothing. The network computes a constant,
and its gradient cannot tell one sample from another.

## Example that fires

```python
import torch
from torch import nn

layers = []
for _ in range(12):
    layers += [nn.Linear(64, 64), nn.Sigmoid()]
model = nn.Sequential(*layers, nn.Linear(64, 10))
```

## Remedy

Weights with the gain of the activation that follows, biases at zero. Behind a sigmoid no scale of the weights is
enough: its output has a mean of one half. Use a centred activation (tanh), a normalization layer, or residual
connections.

## Limit and where it comes from

The natural log of the variance ratio, as in `vanishing-activations`: a warning beyond -6, an error beyond -14, the
decay of a healthy net of that depth left out.

## References

Poole et al. 2016 (arXiv:1606.05340); Schoenholz et al. 2017 (arXiv:1611.01232).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from initaudit.records import Severity
from initaudit.rules import drift
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import Flow
from initaudit.rules.vanishing_activations import KEEPS_SIZE
from initaudit.rules.wording import observe_drift


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    for segment in flow.judged:
        found = drift.judge_signal(segment)
        if found and found.amount < 0 and segment.mean_square_drift >= KEEPS_SIZE:
            yield observe_drift(found, "activations keep their size but what tells samples apart shrinks")


RULE = Rule(
    code="IA105",
    name="indistinguishable-samples",
    severity=Severity.ERROR,
    limit=Limit(
        math.exp(-drift.FAIL / 2), "signal rms, end over start", "correlation map: Poole 2016, Schoenholz 2017"
    ),
    check=check,
)
