"""Outputs far from unit size before the first step.

## What it measures

The root mean square of what the model returns, where it comes from a layer that no normalization follows.

## Why it matters

Logits of rms `s` add about `s²/2` to a cross-entropy that should start at `ln C`, and the first steps only undo that.
An embedding with unit variance tied to the output head gives logits of rms `sqrt(d)`.

## Example that fires

```python
from torch import nn

model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
nn.init.normal_(model[2].weight, std=3.0)
```

## Remedy

Scale the last layer with `1/sqrt(fan_in)`, or start it at zero.

## Limit and where it comes from

An rms of 10: a cross-entropy of logits `N(0, s²)` then starts some 50 nats above chance.

## References

Zhang et al. 2019, Fixup (arXiv:1901.09321), section 3: start the last layer at zero.
"""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.records import Layer, LayerCall, Op, Role, Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import Flow
from initaudit.rules.wording import figure

_LIMIT = 10.0


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    for op in flow.trace.ops:
        if not op.output or not op.moving:
            continue
        stats = flow.measured(op).stats
        last = _last_layer(flow, op)
        if stats is None or last is None or not stats.rms > _LIMIT or stats.count == 1:
            continue
        layer = last[0]
        yield Observation(
            fqn=layer.fqn,
            message=f"the model's output has rms {figure(stats.rms)}: a cross-entropy would start about "
            f"{figure(stats.rms**2 / 2)} above chance",
            observed=stats.rms,
            layer=layer,
        )
        return


def _last_layer(flow: Flow, end: Op) -> tuple[Layer, LayerCall] | None:
    op: Op | None = end
    while op is not None and op.role not in (Role.NORM, Role.ATTENTION, Role.JOIN, Role.EMBEDDING):
        found = flow.layer_of(op)
        if found is not None:
            return found
        op = flow.source(op)
    return None


RULE = Rule(
    code="IA401",
    name="output-scale",
    severity=Severity.WARNING,
    limit=Limit(_LIMIT, "rms of the output", "ln C + s²/2 for Gaussian logits"),
    check=check,
)
