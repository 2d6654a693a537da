"""A cross-entropy that starts far above chance.

## What it measures

The value of the cross-entropy that the model or the given loss computes, against `ln C` for `C` classes.

## Why it matters

Before training a classifier knows nothing, and a loss of `ln C` says so. Above it the net is confidently wrong, and
the first epoch only unlearns that.

## Example that fires

```python
import torch
from torch import nn
from torch.nn import functional as F


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)
        nn.init.normal_(self.head.weight, std=1.0)

    def forward(self, x, labels):
        return F.cross_entropy(self.head(x), labels)


model = Model()
inputs = (torch.randn(64, 64), torch.randint(10, (64,)))
```

## Remedy

Scale the output layer down, or start it at zero.

## Limit and where it comes from

Half of `ln C` above it. Gaussian logits of std `s` start at `ln C + s²/2`; half of `ln C` is a std of 1.5 at ten
classes.

## References

Zhang et al. 2019, Fixup (arXiv:1901.09321).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from initaudit.records import Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.drift import SIGNIFICANT
from initaudit.rules.flow import Flow, weight_deviation

_LIMIT = 1.5


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    trace = flow.trace
    if trace.loss_value is None or not trace.classes or trace.classes < 2 or not math.isfinite(trace.loss_value):
        return
    chance = math.log(trace.classes)
    if trace.loss_value > _LIMIT * chance:
        last = next((layer for layer, _, op in reversed(list(flow.layer_calls())) if op.moving), None)
        large = last is not None and weight_deviation(last, (None,)) > SIGNIFICANT
        yield Observation(
            fqn=last.fqn if last else "",
            message=f"the loss starts at {trace.loss_value:.3g}, chance is ln {trace.classes} = {chance:.3g}",
            observed=trace.loss_value / chance,
            layer=last if large else None,
        )


RULE = Rule(
    code="IA402",
    name="loss-at-init",
    severity=Severity.WARNING,
    limit=Limit(_LIMIT, "loss over ln C", "ln C + s²/2 for Gaussian logits"),
    check=check,
)
