"""Weights whose mean is not zero.

## What it measures
For a weight of mean m and variance v, the share that the mean adds to the second moment of the pre-activation,
against the share of the variance: `(m^2 / v) * (1 + fan_in * E[x]^2 / E[x^2])`, with the measured input x.

## Why it matters
The variance rule `Var[z] = fan_in * Var[w] * E[x^2]` holds for weights around zero. A mean adds `m * sum(x)` to
every unit alike, and where the inputs have a mean of their own (after ReLU or sigmoid they always do) the terms add
up: `fan_in^2 * m^2 * E[x]^2`, which grows with the square of the fan-in. All units then say the same, and a stack
of such layers explodes along one direction.

## Example that fires

```python
from torch import nn

model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4))
for layer in model[::2]:
    nn.init.uniform_(layer.weight)  # from 0 to 1: the mean is 0.5
```

## Remedy
Draw around zero: `nn.init.uniform_(w, -b, b)`, or one of the initializers named in the advice.

## Limit and where it comes from
1: the mean adds as much as the variance. It is a warning, and an error where it leads to a drift that is one. A mean
is taken for real only beyond 5 of its standard errors `sqrt(v / N)`, which chance passes in fewer than one layer in a
million. Not judged: norms, biases, embeddings, depthwise convolutions, fixed filters, and layers with a fan-in under
16. Without a run (`--weights-only`) also scales by their name, tables whose entries follow from their neighbours, and
in a checkpoint kernels that read one channel.

## References
He et al. 2015, "Delving Deep into Rectifiers", arXiv:1502.01852, section 2.2 (weights of zero mean). LeCun et al.
1998, "Efficient BackProp", section 4.3 (what a common sign of the inputs does).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initaudit.records import Layer, Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.never_written import looks_unwritten
from initaudit.rules.paths import is_depthwise, listing, multiplies

if TYPE_CHECKING:
    from initaudit.rules.flow import Flow

STANDARD_ERRORS = 5.0
SMALLEST_FAN_IN = 16
LIMIT = 1.0
_LOOKUP = "Embedding"  # the one kind of matrix that is told from a layer's by its class alone


def check(flow: Flow) -> Iterator[Observation]:
    """Yield one observation, at the first layer whose weights have a mean, with the others as affected."""
    trace = flow.trace
    layers = [layer for layer in trace.layers if multiplies(trace, layer) or (not trace.ops and layer.kind != _LOOKUP)]
    biased = [(layer, share) for layer in layers if (share := _share(layer)) > LIMIT]
    if not biased:
        return
    layer, share = biased[0]
    rest = tuple(dict.fromkeys(other.fqn for other, _ in biased[1:] if other.fqn != layer.fqn))
    weight = layer.weight
    yield Observation(
        fqn=layer.fqn,
        message=(
            f"the weights have mean {weight.mean:.3g} beside a std of {weight.std:.3g}: the mean adds {share:.3g} "
            "times what their variance adds to the pre-activation" + (f" (also {listing(rest)})" if rest else "")
        ),
        observed=share,
        severity=Severity.WARNING,
        affected=rest,
        layer=layer,
    )


def _share(layer: Layer) -> float:
    weight = layer.weight
    if is_depthwise(layer) or not weight.requires_grad or layer.fan_in < SMALLEST_FAN_IN:
        return 0.0
    if weight.constant or weight.identical_rows or looks_unwritten(weight) or not weight.std > 0:
        return 0.0  # symmetric-units and never-written have these
    if abs(weight.mean) < STANDARD_ERRORS * weight.std / math.sqrt(math.prod(weight.shape)):
        return 0.0
    source = layer.calls[0].input if layer.calls else None
    alike = min(1.0, (source.mean / source.rms) ** 2) if source and source.rms > 0 else 0.0
    return (weight.mean / weight.std) ** 2 * (1 + layer.fan_in * alike)


RULE = Rule(
    code="IA305",
    name="weights-with-a-mean",
    severity=Severity.ERROR,
    limit=Limit(LIMIT, unit="times the share of the variance", source="He et al. 2015, section 2.2: zero-mean weights"),
    check=check,
    needs_run=False,
)
