"""Trainable tensors at work that the model does not hold as parameters.

## What it measures
Tensors that ask for a gradient and take part in the forward pass, but are in none of `model.parameters()`: layers in a
plain Python list or dict, in an attribute that hides them, tensors that are not wrapped in `nn.Parameter`, and weights
made anew in `forward`.

## Why it matters
An optimizer that is given `model.parameters()` never changes them, `state_dict` does not save them and `.to(device)`
leaves them behind. The network runs, and a part of it stays as it was drawn. What is not held is not judged here
either.

## Example that fires

```python
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = [nn.Linear(16, 16) for _ in range(4)]  # a list, not an nn.ModuleList
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.head(x)


model = Net()
inputs = torch.randn(8, 16)
```

## Remedy
`nn.ModuleList` and `nn.ModuleDict` for modules, `nn.ParameterList` and `nn.Parameter` for tensors, made in `__init__`.
For what another model trains, `requires_grad_(False)` says so.

## Limit and where it comes from
None: each is listed, in one warning.

## References
torch's documentation of `nn.ModuleList`.
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
    """Yield one warning for all that is not held."""
    names = flow.trace.unregistered
    if names:
        count = f"{len(names)} trainable tensors are" if len(names) > 1 else "1 trainable tensor is"
        yield Observation(
            fqn=names[0],
            message=f"{count} at work that model.parameters() does not hold, so that an optimizer does not train "
            f"{'them' if len(names) > 1 else 'it'} (layers in a plain list? use nn.ModuleList): {listing(names)}",
            observed=float(len(names)),
            affected=names[1:],
        )


RULE = Rule(
    code="IA903",
    name="unregistered-parameters",
    severity=Severity.WARNING,
    limit=Limit(0.0, unit="tensors", source="an optimizer trains what parameters() lists"),
    check=check,
    stands_alone=True,
)
