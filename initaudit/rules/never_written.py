"""Parameters that were never written.

## What it measures
Whether a parameter holds what memory happened to hold: its factory left it as memory was, or its
largest value is beyond 1e10, or below 1e-30 without being zero.

## Why it matters
`torch.empty` reserves memory and writes nothing. What is in it is often zero, so that the mistake hides, and now
and then 1e38: the run that diverges cannot be repeated.

## Example that fires

```python
import torch
from torch import nn


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        # What torch.empty(64, 64) may hold, made certain for this page.
        self.weight = nn.Parameter(torch.full((64, 64), 1e-40).uniform_(1e-41, 1e-40))

    def forward(self, x):
        return x @ self.weight


model = nn.Sequential(nn.Linear(64, 64), Scale())
inputs = torch.randn(8, 64)
```

## Remedy
Write every parameter where it is made: `nn.Parameter(torch.zeros(n))`, or `torch.empty` followed by one of
`nn.init`. Modules built on the `meta` device or with `skip_init` need `reset_parameters()` after `to_empty()`.

## Limit and where it comes from
No initializer gives weights beyond 1e10 or below 1e-30: the fan-in rule would ask for a fan-in of 1e60. Both lie
far from the values that any known architecture starts with, constants such as -1e9 in masks excepted: a parameter
that is constant is not judged by its size. Memory that holds zeros looks like zeros: when a class or a factory is
audited it is built in memory that torch fills with NaN, and what is NaN afterwards was not written, whatever it would
have held.

## References
The page of `torch.empty` ("filled with uninitialized data"),
https://pytorch.org/docs/stable/generated/torch.empty.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from initaudit.records import Parameter, Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.paths import listing, owners

if TYPE_CHECKING:
    from initaudit.rules.flow import Flow

HUGE, TINY = 1e10, 1e-30


def check(flow: Flow) -> Iterator[Observation]:
    """Yield one observation, at the first parameter that holds old memory, with the others as affected."""
    unwritten = [p for p in flow.trace.parameters if looks_unwritten(p)]
    if not unwritten:
        return
    first = unwritten[0]
    names = owners(flow.trace, unwritten)
    if first.unwritten:
        sign = "built in memory that torch had filled with NaN, it still is NaN"
    else:
        sign = f"its values reach from {first.min:.3g} to {first.max:.3g}"
    others = listing(p.fqn for p in unwritten[1:])
    yield Observation(
        fqn=names[0],
        message=f"{first.fqn} was never written: {sign}" + (f" (also {others})" if others else ""),
        observed=max(abs(first.min), abs(first.max)),
        affected=names[1:],
        layer=next((layer for layer in flow.trace.layers if layer.weight.fqn == first.fqn), None),
    )


def looks_unwritten(parameter: Parameter) -> bool:
    """Whether the values are those of memory that nobody wrote, as far as that can be seen."""
    largest = max(abs(parameter.min), abs(parameter.max))
    return parameter.unwritten or (not parameter.constant and (largest > HUGE or 0 < largest < TINY))


RULE = Rule(
    code="IA501",
    name="never-written",
    severity=Severity.ERROR,
    limit=Limit(HUGE, unit="largest value", source="no initializer draws beyond it"),
    check=check,
    needs_run=False,
)
