"""A weight with the gain of another activation than the one it works with.

## What it measures

The same ratio as `weight-too-small`, where it lies between one half and two but not at one: Xavier before ReLU has
0.71.

## Why it matters

A factor of 0.71 per layer is `2**-20` in variance after twenty layers, which then is `vanishing-activations`; in a
few layers it does no harm.

## Example that fires

```python
from torch import nn

model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
for m in model:
    if isinstance(m, nn.Linear):
        nn.init.xavier_normal_(m.weight)
        nn.init.zeros_(m.bias)
```

## Remedy

The initializer given with the finding, with the gain of the activation that really follows.

## Limit and where it comes from

A deviation of 13% of the std, or four standard errors of it where the layer is small.

## References

He et al. 2015 (arXiv:1502.01852), section 2.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.records import Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import Flow
from initaudit.rules.weight_scale import TOO_LARGE, TOO_SMALL, deviating, is_fan_out, note, ratio


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    steps = [s for s in deviating(flow) if TOO_SMALL <= ratio(s) <= TOO_LARGE and not is_fan_out(s)]
    yield from note(steps, ": the gain of another activation")


RULE = Rule(
    code="IA303",
    name="wrong-gain",
    severity=Severity.NOTE,
    limit=Limit(1.13, "weight std over that of the rule", "four standard errors of a sample std, at least 13%"),
    check=check,
)
