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

Three tenths of the outputs is a warning. It is no error by itself: networks of eight layers with half of their tanh
outputs at the ends still train, at a smaller learning rate; what depth makes of it, `vanishing-gradients` and
`exploding-gradients` measure. Pre-activations of unit variance put 3.6% of a tanh's outputs
beyond 0.97; torch's own gain of 5/3 on inputs of unit variance puts 21% there at the first layer and 5.4% behind it.
Three tenths need a variance of 4, half one of 10, far above any sane initialization. A hardtanh is flat from 1 on,
beyond which 32% of a standard normal lie by themselves: so what the function is fed must have an rms above 2 as well.

## References

Glorot & Bengio 2010, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.records import LayerCall, Role, Severity, Stats
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.drift import SIGNIFICANT
from initaudit.rules.flow import Flow, weight_deviation
from initaudit.rules.paths import KEPT

_LIMIT = 0.3
_LARGE = 2.0  # rms of what a tanh is fed to reach the limit


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    found = []
    for layer, call, _ in flow.layer_calls():
        share = call.activation.saturated if call.activation else None
        fed = _fed(flow, call)
        if share is not None and share > _LIMIT and (fed is None or fed.rms > _LARGE):
            found.append((layer, call, share, fed))
    if not found:
        return
    layer, call, share, before = found[0]
    name = call.nonlinearity.name if call.nonlinearity else "activation"
    spread = f": its pre-activation has rms {before.rms:.3g}" if before else ""
    yield Observation(
        fqn=layer.fqn,
        message=f"{share:.0%} of the outputs of {name} lie at its flat ends{spread}",
        observed=share,
        affected=tuple(dict.fromkeys(f[0].fqn for f in found if f[0].fqn != layer.fqn)),
        layer=layer if weight_deviation(layer, (None, call.nonlinearity)) > SIGNIFICANT else None,
    )


def _fed(flow: Flow, call: LayerCall) -> Stats | None:
    """What the function itself is given: the layer's output, or what a norm or a factor between them makes of it."""
    op = flow.trace.ops[call.activation_op] if call.activation_op is not None else None
    while op is not None and op.role in KEPT:
        op = flow.source(op)
    source = flow.source(op) if op is not None and op.role is Role.ACTIVATION else None
    return (flow.measured(source).stats if source is not None else None) or call.pre_activation


RULE = Rule(
    code="IA104",
    name="saturated-units",
    severity=Severity.WARNING,
    limit=Limit(_LIMIT, "fraction of outputs", "Gaussian null of |tanh| > 0.97; Glorot & Bengio 2010"),
    check=check,
)
