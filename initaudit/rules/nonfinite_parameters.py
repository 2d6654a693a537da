"""Parameters that hold NaN or infinity.

## What it measures
The number of entries of each parameter that are not finite.

## Why it matters
Everything computed from a NaN is NaN: the model is broken before the first step.

## Example that fires

```python
import torch
from torch import nn

model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
with torch.no_grad():
    model[0].weight[0, 0] = float("nan")
```

## Remedy
Initialize the parameter anew, and look for what wrote the value: a division by a norm that is zero, a logarithm, a
checkpoint saved after training had diverged, a cast to float16 of numbers beyond 65504.

## Limit and where it comes from
None: no entry may be NaN or infinite. Parameters that `never-written` reports are not reported again.

## References
IEEE 754-2019, section 6.2 (a NaN operand gives a NaN result).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from initaudit.records import Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.never_written import looks_unwritten
from initaudit.rules.paths import listing, owners

if TYPE_CHECKING:
    from initaudit.rules.flow import Flow


def check(flow: Flow) -> Iterator[Observation]:
    """Yield one observation, at the first parameter that is not finite, with the others as affected."""
    broken = [p for p in flow.trace.parameters if p.nonfinite and not looks_unwritten(p)]
    if not broken:
        return
    first = broken[0]
    names = owners(flow.trace, broken)
    others = listing(p.fqn for p in broken[1:])
    yield Observation(
        fqn=names[0],
        message=f"{first.nonfinite} {'entry' if first.nonfinite == 1 else 'entries'} of {first.fqn} "
        f"{'is' if first.nonfinite == 1 else 'are'} NaN or infinite" + (f" (also {others})" if others else ""),
        observed=float(first.nonfinite),
        affected=names[1:],
        layer=next((layer for layer in flow.trace.layers if layer.weight.fqn == first.fqn), None),
    )


RULE = Rule(
    code="IA502",
    name="non-finite-parameters",
    severity=Severity.ERROR,
    limit=Limit(0.0, unit="entries", source="IEEE 754: nothing computed from a NaN is a number again"),
    check=check,
    needs_run=False,
)
