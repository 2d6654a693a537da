"""Weights that look drawn and are the same whatever the seed.

## What it measures
A class or a factory is built with two seeds. Matrices and kernels that are equal in both, though they look drawn from
a law of `torch.nn.init`, were drawn with a seed of their own.

## Why it matters
The seed promises independent runs: error bars over seeds, ensembles and restarts all start from the same weights here
and vary less than they claim. And a fixed seed inside a block gives every block the same weights (identical-copies).

## Example that fires

```python
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        fixed = torch.Generator().manual_seed(42)
        nn.init.kaiming_normal_(self[0].weight, nonlinearity="relu", generator=fixed)


model = Net  # a class or a function: an instance cannot be built twice
```

## Remedy
Seed once, in the script and not in the model: no `torch.manual_seed` in a constructor, no generator with a seed of its
own. For weights that are meant to be fixed, use a buffer or `requires_grad=False`.

## Limit and where it comes from
Equality is exact. It is a warning when some weights follow the seed and others, which look drawn, do not. At least
three quarters of those must have a centred law and a scale that a known scheme gives: of freshly drawn weights all do,
of weights trained for a few epochs (MLP, CNN and transformer on scikit-learn's digits) at most two of five, so that a
backbone loaded from a checkpoint is silent. When no weight at all follows the seed, as in a factory that calls
`torch.manual_seed(0)` for itself or loads what it returns, it is a note. Not judged: constants, tables whose entries
follow from their neighbours (positions, filter banks), frozen weights, instances, models of more than 67 million
parameters.

## References
Bouthillier et al. 2021, "Accounting for Variance in Machine Learning Benchmarks", arXiv:2103.03098 (initialization as a
source of variance that must be sampled).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initaudit.records import Parameter, Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.paths import listing, owners

if TYPE_CHECKING:
    from initaudit.rules.flow import Flow

_LAW = re.compile(r"(kaiming|xavier|lecun)_|(trunc_)?normal\(std|uniform\(-|orthogonal|sparse|torch recurrent")
_FRESH = 0.75  # of the fixed weights: see the page
_FEWEST_KURTOSIS = 2.2  # of random orthogonal matrices (3); of cosines 1.5, of a Hadamard matrix 1


def check(flow: Flow) -> Iterator[Observation]:
    """Yield one observation: at the first fixed weight, or for the whole model when nothing follows the seed."""
    weights = [p for p in flow.trace.parameters if len(p.shape) > 1 and p.requires_grad and not p.constant]
    known = [p for p in weights if p.follows_seed is not None and not p.unwritten]
    fixed = [p for p in known if not p.follows_seed]
    if fixed and len(fixed) == len(known):
        yield Observation(
            fqn="",
            message="no weight depends on the seed: the factory seeds itself or loads its weights, so that every seed "
            "gives the same model",
            observed=1.0,
            severity=Severity.NOTE,
        )
        return
    drawn = [p for p in fixed if looks_drawn(p)]
    if not drawn or len(drawn) < _FRESH * len(fixed):
        return
    first, *rest = owners(flow.trace, drawn)
    others = f" (also {listing(p.fqn for p in drawn[1:])})" if drawn[1:] else ""
    yield Observation(
        fqn=first,
        message=f"{drawn[0].fqn} looks drawn ({drawn[0].init}) and is the same with another seed{others}: it is drawn "
        "with a seed of its own",
        observed=len(drawn) / len(known),
        affected=tuple(rest),
    )


def looks_drawn(parameter: Parameter) -> bool:
    """Whether the values are those of a fresh draw: of a centred law that an initializer draws from."""
    if not _LAW.match(parameter.init):
        return False
    if parameter.init.startswith("orthogonal"):
        return parameter.kurtosis is not None and parameter.kurtosis > _FEWEST_KURTOSIS
    return True


RULE = Rule(
    code="IA506",
    name="not-random",
    severity=Severity.WARNING,
    limit=Limit(0.0, unit="fraction of weights", source="another seed, another draw"),
    check=check,
    stands_alone=True,
)
