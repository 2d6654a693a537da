"""Parameters that a second build with the same seed gives other values.

## What it measures
A class or a factory is built twice under one seed, that of torch (on every device), of numpy and of Python's `random`.
Parameters whose values differ were drawn from something else, or were missing from the second build.

## Why it matters
A run that starts elsewhere each time cannot be repeated: not by its author after a bug, not by a reader of the paper,
and not by another process of the same training that must hold the same weights.

## Example that fires

```python
import numpy as np
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        weights = np.random.default_rng().normal(0, 64**-0.5, (10, 64))  # no seed: from the system
        self[2].weight = nn.Parameter(torch.tensor(weights, dtype=torch.float32))


model = Net  # a class or a function: an instance cannot be built twice
```

## Remedy
Draw with `nn.init` or `torch.randn`, which `torch.manual_seed` seeds; give a generator of numpy or `random.Random` a
seed that comes from `torch.initial_seed()`. Other sources are `os.urandom`, the time, `torch.seed()`, and counters in
the module or class, by which the second model that a process builds is another than the first.

## Limit and where it comes from
0.1% of the std: rounding in a decomposition (`orthogonal_`) stays below 1e-5 of it, another draw differs by about the
std itself. Not judged: instances; models of more than 67 million parameters, since two must fit in memory; sets whose
order follows `PYTHONHASHSEED`, which is fixed within a process; buffers. Memory that was never written is never-written
(IA501).

## References
The pages of torch and numpy on reproducibility: https://pytorch.org/docs/stable/notes/randomness.html,
https://numpy.org/doc/stable/reference/random/generator.html.
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
    """Yield one observation, at the first parameter that came out otherwise, with the others as affected."""
    known = [p for p in flow.trace.parameters if p.reproducible is not None and not looks_unwritten(p)]
    changed = [p for p in known if not p.reproducible]
    if not changed:
        return
    first, *rest = owners(flow.trace, changed)
    others = f" (also {listing(p.fqn for p in changed[1:])})" if changed[1:] else ""
    yield Observation(
        fqn=first,
        message=f"{changed[0].fqn} has other values when the model is built a second time with the same seed{others}: "
        "it is drawn from a source that the seeds of torch, numpy and random do not reach",
        observed=len(changed) / len(known),
        affected=tuple(rest),
    )


RULE = Rule(
    code="IA504",
    name="not-reproducible",
    severity=Severity.WARNING,
    limit=Limit(0.0, unit="fraction of parameters", source="one seed, one model"),
    check=check,
    stands_alone=True,
)
