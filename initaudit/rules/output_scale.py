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

from initaudit.records import Role, Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.drift import SIGNIFICANT
from initaudit.rules.flow import Flow
from initaudit.rules.wording import figure

_LIMIT = 10.0


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at the layer that makes it so."""
    for way in flow.ways:
        if not way or way[-1].ends_normalized:
            continue
        steps = way[-1].steps
        last = max(i for i, step in enumerate(steps) if step.layer is not None)
        stats = flow.measured(steps[-1].op).stats
        if stats is None or not stats.rms > _LIMIT or stats.count == 1:
            continue
        if any(step.op.role in (Role.JOIN, Role.ATTENTION) for step in steps[last:]):
            continue  # a sum, or a product of two signals, has no layer whose size it would be
        large = [step for step in way[-1].layers if step.deviation > SIGNIFICANT]
        layer = (large or [steps[last]])[0].layer
        assert layer is not None
        yield Observation(
            fqn=layer.fqn,
            message=f"the model's output has rms {figure(stats.rms)}: a cross-entropy would start about "
            f"{figure(stats.rms**2 / 2)} above chance",
            observed=stats.rms,
            layer=layer if large else None,
        )
        return


RULE = Rule(
    code="IA401",
    name="output-scale",
    severity=Severity.WARNING,
    limit=Limit(_LIMIT, "rms of the output", "ln C + s²/2 for Gaussian logits"),
    check=check,
)
