"""Modules that the forward pass never called.

## What it measures
Modules with parameters of their own that did not run on the sample input.

## Why it matters
Nothing is known of their initialization: neither a pass nor a failure of this audit speaks for them. They may be a
part for another mode (a decoder, an auxiliary head), or a line missing in `forward`.

## Example that fires

```python
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(16, 4)
        self.forgotten = nn.Linear(16, 4)

    def forward(self, x):
        return self.body(x)


model = Net()
```

## Remedy
Give an input on which they run (`--input`), or remove them.

## Limit and where it comes from
None: every such module is listed, in one note.

## References
None.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from initaudit.records import Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.paths import listing

if TYPE_CHECKING:
    from initaudit.rules.flow import Flow


def check(flow: Flow) -> Iterator[Observation]:
    """Yield one note for all that was not called."""
    names = flow.trace.uncalled
    if names:
        count = f"{len(names)} modules were" if len(names) > 1 else "1 module was"
        yield Observation(
            fqn=names[0],
            message=f"{count} not called on this input, so nothing is known of them: {listing(names)}",
            observed=float(len(names)),
            affected=tuple(names[1:]),
        )


RULE = Rule(
    code="IA901",
    name="uncalled-modules",
    severity=Severity.NOTE,
    limit=Limit(0.0, unit="modules", source="what did not run was not measured"),
    check=check,
)
