"""Parts that ran and got no verdict.

## What it measures
Parts of the model that ran but could not be judged: code whose calls cannot be recorded (TorchScript, `torch.vmap`),
complex weights, outputs without a gradient.

## Why it matters
A part that is passed over in silence looks like a part that passed.

## Example that fires

```python
from torch import nn

model = nn.Linear(16, 4).requires_grad_(False)  # frozen: its gradients cannot be judged
```

## Remedy
None is needed for the model. Read the reason that stands beside each part, and judge it by hand.

## Limit and where it comes from
None: every such part is listed, in one note.

## References
None.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from initaudit.records import Severity, Unjudged
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.paths import listing

if TYPE_CHECKING:
    from initaudit.rules.flow import Flow


def check(flow: Flow) -> Iterator[Observation]:
    """Yield one note for all that was not judged, with the reason of each."""
    parts = flow.trace.unjudged
    if parts:
        names = dict.fromkeys(part.fqn for part in parts)
        first, *rest = names
        count = f"{len(names)} parts were" if len(names) > 1 else "1 part was"
        yield Observation(
            fqn=first,
            message=f"{count} not judged: {listing(_with_reason(part) for part in parts)}",
            observed=float(len(names)),
            affected=tuple(rest),
        )


def _with_reason(part: Unjudged) -> str:
    return f"{part.fqn} ({part.reason})" if part.fqn else part.reason


RULE = Rule(
    code="IA902",
    name="not-judged",
    severity=Severity.NOTE,
    limit=Limit(0.0, unit="parts", source="what was not judged did not pass"),
    check=check,
    needs_run=False,
)
