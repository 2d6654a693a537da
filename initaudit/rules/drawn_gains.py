"""Gains of normalizations that were drawn at random around zero.

## What it measures

The gain (`weight`, gamma) of every normalization: whether its values scatter around zero instead of being equal.

## Why it matters

A normalization gives each channel unit variance, and its gain should leave it that at the start. Gains drawn from
`N(0, 0.02)` turn the sign of half of the channels and shrink all of them, each by another factor, so that what follows
sees a small, nearly linear signal and channels that differ for no reason. It happens where `_init_weights` treats a
BatchNorm like a linear layer.

## Example that fires

```python
from torch import nn

model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
nn.init.normal_(model[1].weight, std=0.02)
```

## Remedy

`nn.init.ones_(norm.weight)`; zero in the last normalization of a residual branch. Values scattered around one, as in
DCGAN (`N(1, 0.02)`), are no finding.

## Limit and where it comes from

A mean below half of the rms, over at least eight channels: independent values around one never come near it, and those
around zero only exceed it by chance once in a hundred thousand for 64 channels. A vector that multiplies a norm's
output is its gain only where nothing else reads that output: the skip of a state space (`D * u` beside `S(u)`) is none.

Without a run (`--weights-only`), gains are the vectors called `weight` or `gamma`, and nobody tells what becomes of
them: some normalizations multiply by `1 + w` (Gemma), whose `w` training scatters around zero. So they are judged only
where they look drawn and something else of the model shows that it has not been trained: another gain is one
throughout, or at least half of its matrices have a std that an initializer gives (of a scheme, or of one digit).

## References

Ioffe & Szegedy 2015 (arXiv:1502.03167), section 3: the gain starts at one. Goyal et al. 2017 (arXiv:1706.02677),
section 5.1: or at zero at the end of a residual branch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from initaudit.records import Parameter, Severity, Trace
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import Flow
from initaudit.rules.laws import Laws, trained
from initaudit.rules.not_random import looks_drawn
from initaudit.rules.paths import listing, owners
from initaudit.rules.wording import figure, parameter_at

_LIMIT = 0.5
_FRESH = 0.5
_LEFT_BY_AN_INITIALIZER = re.compile(
    r"(kaiming|xavier|lecun)_|orthogonal|sparse|torch recurrent|(trunc_)?normal\(std=(0\.0*)?[1-9]\)"
)
_CHANNELS = 8


def check(flow: Flow) -> Iterator[Observation]:
    """One observation for all such gains, at the first."""
    gains = Laws(flow.trace).gains if flow.trace.ops else _gains_by_name(flow.trace)
    drawn = [
        p for p in gains if trained(p) and not p.constant and sum(p.shape) >= _CHANNELS and abs(p.mean) < _LIMIT * p.rms
    ]
    if drawn:
        first, names = drawn[0], owners(flow.trace, drawn)
        more = f" (also {listing(names[1:])})" if len(names) > 1 else ""
        yield Observation(
            fqn=names[0],
            message=f"its gains are drawn around zero (mean {figure(first.mean)}, rms {figure(first.rms)}), which "
            f"turns the sign of half of the channels and shrinks them all{more}",
            observed=abs(first.mean) / first.rms,
            affected=names[1:],
            code=f"nn.init.ones_({parameter_at(first.fqn)})",
        )


def _gains_by_name(trace: Trace) -> list[Parameter]:
    """Vectors called ``weight``, where no run tells what they multiply, and fresh: training moves gains anywhere."""
    vectors = [p for p in trace.parameters if len(p.shape) == 1 and p.fqn.rpartition(".")[2] in ("weight", "gamma")]
    drawn = [p for p in vectors if looks_drawn(p)]
    return drawn if drawn and (any(p.init == "ones" for p in vectors) or _is_fresh(trace)) else []


def _is_fresh(trace: Trace) -> bool:
    """Whether at least half of the matrices and kernels are as an initializer leaves them, which no training does."""
    matrices = [p for p in trace.parameters if sum(size > 1 for size in p.shape) > 1]
    fresh = sum(p.constant or bool(_LEFT_BY_AN_INITIALIZER.match(p.init)) for p in matrices)
    return fresh >= _FRESH * len(matrices) > 0


RULE = Rule(
    code="IA309",
    name="drawn-norm-gains",
    severity=Severity.WARNING,
    limit=Limit(_LIMIT, "mean of the gains over their rms", "Ioffe & Szegedy 2015: gains start at one"),
    check=check,
    needs_run=False,
)
