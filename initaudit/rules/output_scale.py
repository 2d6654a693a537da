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

Scale the last layer with `1/sqrt(fan_in)`, or start it at zero. Where the size comes in with the input, normalize
that: the finding says so where an input of unit size would give an output within the limit.

## Limit and where it comes from

An rms of 10: a cross-entropy of logits `N(0, s²)` then starts some 50 nats above chance.

## References

Zhang et al. 2019, Fixup (arXiv:1901.09321), section 3: start the last layer at zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from initaudit.records import Role, Severity, Stats
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.drift import SIGNIFICANT
from initaudit.rules.flow import Flow, Segment
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
            f"{figure(stats.rms**2 / 2)} above chance{_from_the_input(way, stats)}",
            observed=stats.rms,
            layer=layer if large else None,
        )
        return


def _from_the_input(way: Sequence[Segment], output: Stats) -> str:
    """That an input of unit size would not give so much, where nothing between sets the scale anew."""
    first = way[0].steps[0].op
    if len(way) > 1 or first.role is not Role.INPUT or first.stats is None:
        return ""
    given = first.stats
    biases = max((step.layer.bias.rms for step in way[0].layers if step.layer and step.layer.bias), default=0.0)
    if given.rms <= 1 or output.rms / given.rms > _LIMIT or biases > output.rms / 2:
        return ""
    return (
        f"; it comes in with the input (mean {figure(given.mean)}, rms {figure(given.rms)}), which the layers do not "
        "amplify: normalize the input"
    )


RULE = Rule(
    code="IA401",
    name="output-scale",
    severity=Severity.WARNING,
    limit=Limit(_LIMIT, "rms of the output", "ln C + s²/2 for Gaussian logits"),
    check=check,
)
