"""A weight well above the fan-in rule, in a net that is shallow enough to bear it.

## What it measures

The same as `weight-too-small`, in the other direction.

## Why it matters

One such layer scales the output up, and with it the first loss. A stack of them is `exploding-activations` or
`saturated-units`, which then is the finding.

## Example that fires

```python
from torch import nn

model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
nn.init.normal_(model[2].weight, std=0.5)
```

## Remedy

The initializer given with the finding.

## Limit and where it comes from

Twice the std that the variance rule gives is a note. Four times it is a warning where two thirds of the layers around
keep to the rule: then it is a slip and no habit. The weights of a recurrence are judged by what they do to its gates
(`saturated-gates`) and to its state (`recurrent-memory`).

## References

He et al. 2015 (arXiv:1502.01852), eq. 10; LeCun et al. 1998, Efficient BackProp.
"""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.records import Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import Flow
from initaudit.rules.weight_scale import TOO_LARGE, deviating, is_fan_out, ratio, slips_and_notes


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    steps = [s for s in deviating(flow) if ratio(s) > TOO_LARGE and not is_fan_out(s)]
    yield from slips_and_notes(flow, steps, "; at this depth the signal bears it")


RULE = Rule(
    code="IA302",
    name="weight-too-large",
    severity=Severity.WARNING,
    limit=Limit(TOO_LARGE, "weight std over that of the rule", "He 2015: Var[w] = gain²/fan_in"),
    check=check,
)
