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

The fit to `gain²/fan_out` within 8% of the std, where the fans differ by more than 28%. It is a note where the layers
around do likewise or nothing tells them apart, and a warning where one layer does so alone, among others of unequal
fans that keep to fan_in: then it is no choice but a slip. torch's default is never taken for it, though in a layer
three times as wide as its input, a packed query, key and value, its `1/(3 fan_in)` is `1/fan_out`.

## References

He et al. 2015 (arXiv:1502.01852), section 2.2, "Backward Propagation Case".
"""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.records import Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import Flow
from initaudit.rules.weight_scale import companies, deviating, is_fan_out, warnings_and_note


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    steps = [s for s in deviating(flow) if is_fan_out(s)]
    around = companies(flow)
    alone = {id(s) for s in steps if around[id(s)].by_fan_in > 1 and around[id(s)].by_fan_out == 1}
    why = "; it fits fan_out, while the layers around it keep to fan_in"
    yield from warnings_and_note(steps, alone, why, "; it fits fan_out")


RULE = Rule(
    code="IA307",
    name="fan-out-for-fan-in",
    severity=Severity.WARNING,
    limit=Limit(1.08, "weight std over that of fan_out", "He 2015: Var[w] = gain²/fan_out"),
    check=check,
)
