"""A weight scaled with fan_out where the forward signal needs fan_in.

## What it measures

Whether a weight that misses the fan-in rule fits it with `fan_out` in place of `fan_in`, where the two differ.

## Why it matters

`mode="fan_out"` keeps the gradient's scale instead of the signal's, which is a fair choice (He et al. 2015 show that
either will do); a weight matrix that was transposed, or a fan taken from the wrong dimension, looks the same. In
grouped convolutions torch's fan_out is too large by the number of groups.

## Example that fires

```python
from torch import nn

model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10))
for m in model:
    if isinstance(m, nn.Linear):
        nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
```

## Remedy

None where it was meant. Otherwise `mode="fan_in"`, the default.

## Limit and where it comes from

The fit to `gain²/fan_out` within 8% of the std, where the fans differ by more than 28%.

## References

He et al. 2015 (arXiv:1502.01852), section 2.2, "Backward Propagation Case".
"""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.records import Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import Flow
from initaudit.rules.weight_scale import deviating, is_fan_out, note


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    steps = [s for s in deviating(flow) if is_fan_out(s)]
    yield from note(steps, "; it fits fan_out")


RULE = Rule(
    code="IA307",
    name="fan-out-for-fan-in",
    severity=Severity.NOTE,
    limit=Limit(1.08, "weight std over that of fan_out", "He 2015: Var[w] = gain²/fan_out"),
    check=check,
)
