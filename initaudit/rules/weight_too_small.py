"""A weight well below the fan-in rule, in a net that is shallow enough to bear it.

## What it measures

The weight's root mean square times `sqrt(fan_in)`, over the gain that the activation behind the layer asks for, in
layers whose scale nothing takes away again (no normalization behind them). The weights alone decide this, so it is a
hundred times sharper than any statistic of activations.

## Why it matters

One such layer only scales the output. A stack of them is `vanishing-activations`, which then is the finding.

## Example that fires

```python
from torch import nn

model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
```

## Remedy

The initializer given with the finding. Make a net deeper only after that.

## Limit and where it comes from

Half of the std that the variance rule gives is a note. A quarter of it is a warning where two thirds of the layers
around keep to the rule: then it is a slip and no habit. torch's default for `nn.Linear` and convolutions,
`U(±1/sqrt(fan_in))`, has 0.41 of what ReLU needs; it was kept for compatibility and follows no rule.

## References

He et al. 2015 (arXiv:1502.01852), eq. 10; LeCun et al. 1998, Efficient BackProp.
"""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.records import Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import Flow
from initaudit.rules.weight_scale import TOO_SMALL, deviating, is_fan_out, ratio, slips_and_notes


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    steps = [s for s in deviating(flow) if ratio(s) < TOO_SMALL and not is_fan_out(s)]
    yield from slips_and_notes(flow, steps, "; at this depth the signal survives it")


RULE = Rule(
    code="IA301",
    name="weight-too-small",
    severity=Severity.WARNING,
    limit=Limit(TOO_SMALL, "weight std over that of the rule", "He 2015: Var[w] = gain²/fan_in"),
    check=check,
)
