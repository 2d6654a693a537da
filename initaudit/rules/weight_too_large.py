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
keep to the rule: then it is a slip and no habit. A recurrent weight is a warning from a gain of 4,
`std · sqrt(fan_in)`: with pre-activations of that size three tenths of the gates are held open or shut.

## References

He et al. 2015 (arXiv:1502.01852), eq. 10; LeCun et al. 1998, Efficient BackProp.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from initaudit.records import Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import RECURRENT, Flow
from initaudit.rules.weight_scale import TOO_LARGE, deviating, is_fan_out, ratio, slips_and_notes
from initaudit.rules.wording import figure

_GATE_GAIN = 4.0  # pre-activations of rms 4: 30% of the sigmoids are outside (0.015, 0.985)


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    steps = [s for s in deviating(flow) if ratio(s) > TOO_LARGE and not is_fan_out(s)]
    yield from _gates(flow)
    yield from slips_and_notes(flow, steps, "; at this depth the signal bears it")


def _gates(flow: Flow) -> Iterator[Observation]:
    """Recurrent weights so large that the gates, or the tanh, of the recurrence saturate."""
    large = [
        (layer, gain)
        for layer in flow.trace.layers
        if flow.trace.ops[layer.calls[0].op].name.startswith(RECURRENT)
        and (gain := layer.weight.rms * math.sqrt(layer.fan_in)) > _GATE_GAIN
    ]
    if not large:
        return
    layer, gain = large[0]
    yield Observation(
        fqn=layer.fqn,
        message=f"{layer.weight.fqn} has std {figure(layer.weight.std)}, a gain of {figure(gain)} at fan_in "
        f"{layer.fan_in:g}: pre-activations of that size hold gates open or shut; orthogonal weights have gain 1",
        observed=gain,
        limit=_GATE_GAIN,
        affected=tuple(other.fqn for other, _ in large[1:]),
        layer=layer,
    )


RULE = Rule(
    code="IA302",
    name="weight-too-large",
    severity=Severity.WARNING,
    limit=Limit(TOO_LARGE, "weight std over that of the rule", "He 2015: Var[w] = gain²/fan_in"),
    check=check,
)
