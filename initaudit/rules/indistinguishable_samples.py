"""Every input gives nearly the same activations, though the activations themselves keep their size.

## What it measures

The variance of activations across samples, as in `vanishing-activations`, in nets whose mean square does *not* vanish;
and the share of it in the mean square where parameters (positions) are added to what an embedding gives and a
normalization follows, which divides both by the size of the larger.

## Why it matters

Biases, and the mean of a sigmoid or a softplus, keep the activations at a healthy size while what the input
contributes dies out: a monitor that looks at the standard deviation sees nothing. The network computes a constant,
and its gradient cannot tell one sample from another.

## Example that fires

```python
import torch
from torch import nn

layers = []
for _ in range(12):
    layers += [nn.Linear(64, 64), nn.Sigmoid()]
model = nn.Sequential(*layers, nn.Linear(64, 10))
```

## Remedy

Weights with the gain of the activation that follows, biases at zero. Behind a sigmoid no scale of the weights is
enough: its output has a mean of one half. Use a centred activation (tanh), a normalization layer, or residual
connections.

## Limit and where it comes from

The natural log of the variance ratio, as in `vanishing-activations`: a warning beyond -6, an error beyond -14, the
decay of a healthy net of that depth left out. Positions that drown the tokens in front of a normalization are a
warning: a small GPT with tokens of std 0.02 learned to copy a token in 250 steps to 100% with positions of the same
std, to 70% with those of std 1 (-7.8), to 6% with those of std 10 (-12.4).

## References

Poole et al. 2016 (arXiv:1606.05340); Schoenholz et al. 2017 (arXiv:1611.01232).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from initaudit.records import Op, Role, Severity
from initaudit.rules import drift
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import Flow, clarity, log_ratio
from initaudit.rules.paths import KEPT, behind, downstream, owners
from initaudit.rules.vanishing_activations import KEEPS_SIZE
from initaudit.rules.wording import figure, observe_drift, parameter_at


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    for segment in flow.judged:
        found = drift.judge_signal(segment)
        if found and found.amount < 0 and segment.mean_square_drift >= KEEPS_SIZE:
            yield observe_drift(found, "activations keep their size but what tells samples apart shrinks")
    for op in flow.trace.ops:
        if op.role is Role.SCALE and (seen := _drowned(flow, op)) is not None:
            yield seen


def _drowned(flow: Flow, op: Op) -> Observation | None:
    """Tokens to which ``op`` adds parameters so large that the normalization behind it leaves nothing of them."""
    tokens = flow.source(op)
    before = flow.measured(tokens).stats if tokens is not None else None
    if tokens is None or before is None or op.stats is None:
        return None
    loss = log_ratio(clarity(op.stats), clarity(before))
    if loss >= -drift.WARN or not _is_looked_up(flow, tokens):
        return None
    drawn = {p.fqn for p in flow.trace.parameters if p.requires_grad and not p.constant}  # and no fixed sinusoids
    added = sorted({name for i in op.inputs for name in behind(flow.trace, i)} & drawn)
    readers = downstream(flow.trace.ops, [op.id], passes=lambda reader: reader.role in KEPT)
    if not added or not any(reader.role is Role.NORM for reader in readers):
        return None
    names = owners(flow.trace, added)
    return Observation(
        fqn=names[0],
        message=f"added to the tokens, which have rms {figure(before.rms)}, it gives rms {figure(op.stats.rms)} and is "
        f"the same for every sample: the normalization behind leaves {figure(math.exp(loss / 2))} of what tells them "
        "apart",
        observed=math.exp(loss / 2),
        limit=math.exp(-drift.WARN / 2),
        severity=Severity.WARNING,
        affected=names[1:],
        code=f"nn.init.normal_({parameter_at(added[0])}, std={before.rms:.3g})",
    )


def _is_looked_up(flow: Flow, op: Op) -> bool:
    source: Op | None = op
    while source is not None and source.role in KEPT:
        source = flow.source(source)
    return source is not None and source.role is Role.EMBEDDING


RULE = Rule(
    code="IA105",
    name="indistinguishable-samples",
    severity=Severity.ERROR,
    limit=Limit(
        math.exp(-drift.FAIL / 2), "signal rms, end over start", "correlation map: Poole 2016, Schoenholz 2017"
    ),
    check=check,
)
