"""The tokens of a sample become one on their way through attention.

## What it measures

How unlike the tokens of a sample are at each self-attention, `‖X - mean over tokens‖ / ‖X‖` of its values, followed
along the stream of tokens from the first attention to the last.

## Why it matters

Attention averages, the more evenly the smaller its scores. Where nothing carries the tokens past it, each attention
brings them closer together, and the scores of the next are more even still: after a few layers every token is the
same vector, and so is every position of the output. The samples may still differ, so that no other rule sees it.

## Example that fires

```python
import torch
from torch import nn


class Stack(nn.Module):  # no residual connection
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.MultiheadAttention(64, 4, batch_first=True) for _ in range(6))

    def forward(self, x):
        for block in self.blocks:
            x = block(x, x, x, need_weights=False)[0]
        return x


model = Stack()
inputs = torch.randn(4, 32, 64)
```

## Remedy

Residual connections around attention, `x + attention(norm(x))`. An MLP between them slows the collapse and does not
stop it.

## Limit and where it comes from

The natural log of the ratio of mean squares, last over first, as for the signal that tells samples apart
(`vanishing-activations`): a warning below -6, an error below -14. Of 60 healthy transformers and four with 32 layers
none lost more than 2.4; the most where small embeddings are soon outweighed by averages.

## References

Dong et al. 2021, Attention is not all you need: pure attention loses rank doubly exponentially with depth
(arXiv:2103.03404); Noci et al. 2022, Signal Propagation in Transformers (arXiv:2206.03126).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from initaudit.records import Attention, Severity
from initaudit.rules.attending import projections, stream
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.drift import FAIL, WARN
from initaudit.rules.flow import Flow
from initaudit.rules.wording import figure

_ROUNDING = 1e-6  # the spread is taken in float32


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at the first attention of the stream that loses most."""
    losses = [found for a in flow.trace.attentions if (found := _loss(flow, a)) is not None]
    worst = min(losses, key=lambda found: found[0], default=None)
    if worst is None or worst[0] > -WARN:
        return
    amount, first, last, count = worst
    names = (_name(flow, first), _name(flow, last))
    yield Observation(
        fqn=names[0],
        message=f"the tokens of a sample become one: from {names[0]} to {names[1]} what tells them apart shrinks by a "
        f"factor of {figure(math.exp(-amount / 2))}, over {count} attentions that nothing carries them past; add "
        "residual connections",
        observed=math.exp(amount / 2),
        limit=math.exp(-(FAIL if amount < -FAIL else WARN) / 2),
        severity=Severity.ERROR if amount < -FAIL else Severity.WARNING,
        affected=names[1:],
    )


def _loss(flow: Flow, last: Attention) -> tuple[float, Attention, Attention, int] | None:
    """``ln`` of the mean square of the spread at ``last`` over the largest before it, and how far apart they are."""
    if last.token_spread is None:
        return None
    before = [a for a in stream(flow, last) if a.token_spread]
    if not before:
        return None
    first = max(before, key=lambda a: a.token_spread or 0.0)
    start = first.token_spread or 0.0
    return 2 * math.log(max(last.token_spread, _ROUNDING) / start), first, last, before.index(first) + 1


def _name(flow: Flow, attention: Attention) -> str:
    """The layer that makes the values."""
    made_by = projections(flow, attention.value)
    return made_by[0].layer.fqn if made_by else flow.trace.ops[attention.op].scope


RULE = Rule(
    code="IA108",
    name="collapsed-tokens",
    severity=Severity.ERROR,
    limit=Limit(
        math.exp(-FAIL / 2), "spread of tokens, end over start", "Dong 2021; limits of trainability: Schoenholz 2017"
    ),
    check=check,
)
