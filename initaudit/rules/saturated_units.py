"""Activations that sit at the flat ends of their function.

## What it measures

The fraction of outputs of a saturating activation (tanh, sigmoid, hardtanh, erf, softsign ...) that lie where its
slope is below about 6% of its steepest: `|tanh| > 0.97`.

## Why it matters

tanh has slope 1 at zero and none at its ends. A saturated unit passes no gradient, and training has to
undo the initialization before it can begin.

## Example that fires

```python
import torch
from torch import nn

model = nn.Sequential(nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 10))
for m in model:
    if isinstance(m, nn.Linear):
        nn.init.normal_(m.weight, std=0.5)
```

## Remedy

Xavier initialization with the gain of the activation; inputs of unit variance.

## Limit and where it comes from

Three tenths of the outputs is a warning, half an error. Pre-activations of unit variance put 3.6% of a tanh's outputs
beyond 0.97; torch's own gain of 5/3 on inputs of unit variance puts 21% there at the first layer and 5.4% behind it.
Three tenths need a variance of 4, half one of 10, far above any sane initialization.

## References

Glorot & Bengio 2010, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.records import Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.drift import SIGNIFICANT
from initaudit.rules.flow import Flow, weight_deviation

_WARN, _FAIL = 0.3, 0.5


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    found = []
    for layer, call, _ in flow.layer_calls():
        share = call.activation.saturated if call.activation else None
        if share is not None and share > _WARN:
            found.append((layer, call, share))
    if not found:
        return
    layer, call, share = next((f for f in found if f[2] > _FAIL), found[0])
    before = call.pre_activation
    name = call.nonlinearity.name if call.nonlinearity else "activation"
    spread = f": its pre-activation has rms {before.rms:.3g}" if before else ""
    yield Observation(
        fqn=layer.fqn,
        message=f"{share:.0%} of the outputs of {name} lie at its flat ends{spread}",
        observed=share,
        limit=_FAIL if share > _FAIL else _WARN,
        severity=Severity.ERROR if share > _FAIL else Severity.WARNING,
        affected=tuple(dict.fromkeys(f[0].fqn for f in found if f[0].fqn != layer.fqn)),
        layer=layer if weight_deviation(layer, (None, call.nonlinearity)) > SIGNIFICANT else None,
    )


RULE = Rule(
    code="IA104",
    name="saturated-units",
    severity=Severity.ERROR,
    limit=Limit(_FAIL, "fraction of outputs", "Gaussian null of |tanh| > 0.97; Glorot & Bengio 2010"),
    check=check,
)
