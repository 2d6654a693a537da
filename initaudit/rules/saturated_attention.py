"""Attention that gives all its weight to one key before it has learned which.

## What it measures

For a sample of queries, the concentration of the attention weights `p` over the `n` keys that a query may look at:
`(Σp² - 1/n) / (1 - 1/n)`, which is 0 where all keys count alike and 1 where one takes all.

## Why it matters

The gradient of a softmax is `diag(p) - ppᵀ`. Where one key has all the weight there is none: queries and keys do not
learn, while values learn from tokens that were picked at random. Attention whose entropy collapses is also where the
training of transformers becomes unstable.

## Example that fires

```python
import torch
from torch import nn


class Attend(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(64, 64) for _ in range(3))
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=1.0)  # the rule asks for 1/sqrt(64)

    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))


model = Attend()
inputs = torch.randn(4, 32, 64)
```

## Remedy

Query and key weights of std `1/sqrt(fan_in)` or smaller, scores divided by `sqrt(head_dim)`, and tokens that are
normalized before they are projected.

## Limit and where it comes from

A mean concentration of 0.6 is a warning, and 0.25 where a weight of queries or keys is more than four times what the
rule asks for. It is no error, since small transformers whose every attention starts on one key were seen to train. For
`n` independent Gaussian scores of std `s` the weights freeze onto a few keys at `s = sqrt(2 ln n)`, and from there on
the concentration is `1 - sqrt(2 ln n) / s` (the random-energy model): 0.6 takes scores 2.5 times as large as that.
Weights that follow the rule give `s = 1`, torch's `nn.MultiheadAttention` 0.5. Of 566 attentions in 192 library models
the highest concentrations were 0.48 and 0.41 (cosine attention times ten, on heads of width 8), all others were below
0.24, and none had a weight that large. A two-layer transformer that has to look up one of eight pairs reached a loss
of 1.95 at `s = 1` with Adam in the time that brought it to 2.37 at `s = 3` (concentration 0.44), 2.47 at `s = 9`
(0.79) and 2.62 at `s = 28` (0.93), where chance is 2.77.

Even attention is no fault: small scores are where many models start, and they grow at the first steps.

## References

Derrida 1981, Random-energy model; Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.1; Zhai et al. 2023, Stabilizing
Transformer Training by Preventing Attention Entropy Collapse (arXiv:2303.06296).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from initaudit.records import Attention, Severity
from initaudit.rules.attending import Projection, projections
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.drift import SIGNIFICANT
from initaudit.rules.flow import Flow
from initaudit.rules.wording import figure

_LIMIT = 0.6
_LIMIT_LARGE = 0.25  # where a weight is large
_LARGE = 2 * math.log(4)  # in ln Var[w], as in weight-too-large: a slip and no habit


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, once, at the layer whose scale accounts for it."""
    found = [a for a in flow.trace.attentions if a.concentration > _limit(flow, a)]
    if not found:
        return
    worst = found[0]
    blamed = _blamed(flow, worst)
    others = [p.layer.fqn for a in found for p in _blamed(flow, a)[:1]]
    large = bool(blamed) and blamed[0].deviation > SIGNIFICANT
    fqn = blamed[0].layer.fqn if large else flow.trace.ops[worst.op].scope
    yield Observation(
        fqn=fqn,
        message=f"attention {'gives nearly all its weight to one' if worst.concentration > _LIMIT else 'sees but few'} "
        f"of {worst.keys:.0f} keys: its entropy is {worst.entropy:.0%} of that of even weights, and its scores have "
        f"std {figure(worst.logit_std)}; " + (_weight(blamed[0]) if large else _other(flow, worst)),
        observed=worst.concentration,
        limit=_limit(flow, worst),
        affected=tuple(name for name in dict.fromkeys(others) if name != fqn),
        layer=blamed[0].layer if large else None,
        gain=1.0 if large else None,
    )


def _limit(flow: Flow, attention: Attention) -> float:
    """The concentration that is a warning."""
    if not attention.concentration > _LIMIT_LARGE:
        return _LIMIT  # nothing to look for
    return _LIMIT_LARGE if any(p.deviation > _LARGE for p in _blamed(flow, attention)) else _LIMIT


def _blamed(flow: Flow, attention: Attention) -> list[Projection]:
    """The projections of queries and keys, the one that is larger than the rule asks for by most first."""
    found = (*projections(flow, attention.query), *projections(flow, attention.key))
    return sorted(found, key=lambda p: -p.deviation)


def _weight(found: Projection) -> str:
    layer, expected = found.layer, found.layer.fan_in**-0.5
    looks = f" ({layer.weight.init})" if layer.weight.init not in ("unknown", "") else ""
    return (
        f"{layer.fqn} has weight std {figure(layer.weight.std)}{looks}, {figure(layer.weight.rms / expected)} times "
        f"the {figure(expected)} that fan_in {layer.fan_in:g} asks for"
    )


def _other(flow: Flow, attention: Attention) -> str:
    """Why scores are large though no weight is: one operand twice, no division by the root of the width, large ones."""
    sizes = [attention.query_rms, attention.key_rms]
    for i, op in enumerate((attention.query, attention.key)):
        stats = flow.measured(flow.trace.ops[op]).stats if op is not None else None
        sizes[i] = sizes[i] if sizes[i] is not None else stats.rms if stats else None
    query, key = sizes
    if attention.query is not None and attention.query == attention.key:
        return "queries and keys are the same, so that each token looks at itself"
    if query is None or key is None or attention.query is None:
        return "make queries and keys smaller, or normalize them"
    width = (flow.trace.ops[attention.query].shape or (1,))[-1]
    if width > 4 and attention.logit_std > query * key * math.sqrt(width) / 2:
        return f"divide the scores by the square root of the head's width, {width}"
    return f"queries have rms {figure(query)} and keys {figure(key)}: normalize the tokens that they are made from"


RULE = Rule(
    code="IA107",
    name="saturated-attention",
    severity=Severity.WARNING,
    limit=Limit(_LIMIT, "concentration of attention", "random-energy model: Derrida 1981"),
    check=check,
)
