"""What a recurrence remembers from one step to the next: too much, or nothing.

## What it measures

The factor by which one step multiplies the mean square of a small change of the state, along the states that the
sample input leads to: the square of the effective radius of the recurrent Jacobian. Over the steps of the input it
counts to the power of their number.

## Why it matters

The gradient goes back through time by the same Jacobians. Above one it explodes with the length of the sequence;
far below one nothing that happened a step ago can be learned from.

## Example that fires

```python
import torch
from torch import nn

model = nn.RNN(64, 64, batch_first=True)
nn.init.orthogonal_(model.weight_hh_l0, gain=3.0)
inputs = torch.randn(8, 50, 64)
```

## Remedy

Orthogonal recurrent weights with gain 1 (identity for ReLU), read through weights of the usual size. For long memory
a gated recurrence whose forget gate starts open.

## Limit and where it comes from

Growth over all steps of the input is judged like growth through depth: the natural log of the mean-square ratio is a
warning beyond 6 and an error beyond 14, when the rate is above one by more than finite width explains. Less than 2% of
the mean square kept per step is a warning, a tenth of what torch's own defaults keep: 21% in `nn.RNN`, 35% in
`nn.LSTM` and `nn.GRU`. Those forget in a step or two, which is a note where the sequence is longer than
that memory reaches (beyond -14), since many train all the same; that of an LSTM is its forget bias (`gate-bias`).

## References

Pascanu et al. 2013 (arXiv:1211.5063); Le et al. 2015 (arXiv:1504.00941), identity initialization; Saxe et al. 2014
(arXiv:1312.6120); Schoenholz et al. 2017 (arXiv:1611.01232).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from initaudit.records import Recurrence, Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.drift import FAIL, WARN
from initaudit.rules.flow import Flow
from initaudit.rules.recurrences import SATURATED, gain, log_retention, name, state_layer
from initaudit.rules.wording import figure

_ERASED = 0.02  # of the mean square, per step
_SETTLED = 10  # steps that the rate is the mean of


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes: one observation for growth, one for loss, one for a short memory."""
    every = flow.trace.recurrences
    growing = [r for r in every if _total(r) > WARN and log_retention(r) > _chance(r)]
    # Where gates erase the state, or saturation does, that is the finding.
    erased = [r for r in every if r.retention < _ERASED and not r.gates and r.saturated <= SATURATED]
    fading = [r for r in every if r not in erased and _total(r) < -FAIL and r.kind != "lstm"]
    if growing:
        worst = max(growing, key=_total)
        severe = _total(worst) > FAIL
        growth = figure(math.exp(min(_total(worst) / 2, 700.0)))
        yield _observe(
            flow,
            [worst, *growing],
            lambda r: (
                f"a change of the state grows by {figure(r.retention**0.5)} per step, {growth} over {r.steps} "
                "steps: gradients explode on their way back through time"
            ),
            severity=Severity.ERROR if severe else Severity.WARNING,
            limit=math.exp((FAIL if severe else WARN) / 2 / worst.steps),
        )
    if erased:
        yield _observe(
            flow,
            erased,
            lambda r: (
                f"a step keeps {r.retention:.2g} of the mean square of the state, where torch's defaults keep "
                "0.2 to 0.4: nothing before the last step can be learned from"
            ),
            severity=Severity.WARNING,
            limit=_ERASED**0.5,
        )
    if fading:
        yield _observe(
            flow,
            fading,
            lambda r: (
                f"the state halves every {figure(math.log(2) / -log_retention(r))} steps in mean square, and the "
                f"input has {r.steps}: early steps will hardly be learned from"
            ),
            severity=Severity.NOTE,
            limit=math.exp(-FAIL / 2 / fading[0].steps),
        )


def _total(r: Recurrence) -> float:
    return r.steps * log_retention(r)


def _chance(r: Recurrence) -> float:
    """3.3 standard errors of the rate: a step's mean square varies by kappa over width (Hanin 2018)."""
    kappa = 5.0 if r.kind == "rnn_relu" else 2.0
    return 3.3 * math.sqrt(kappa / (r.hidden_size * min(r.steps, _SETTLED)))


def _observe(
    flow: Flow, found: Sequence[Recurrence], say: Callable[[Recurrence], str], *, severity: Severity, limit: float
) -> Observation:
    first = found[0]
    layer = state_layer(flow, first)
    fqn = name(flow, first)
    scale = f"; {layer.weight.fqn} has gain {figure(gain(layer))}" if layer and severity is not Severity.NOTE else ""
    names = dict.fromkeys(name(flow, r) for r in found)
    return Observation(
        fqn=fqn,
        message=say(first) + scale,
        observed=first.retention**0.5,
        limit=limit,
        severity=severity,
        affected=tuple(n for n in names if n != fqn),
        layer=layer,
        gain=1.0,
        code=f"nn.init.orthogonal_({layer.weight_access})" if layer is not None and layer.repeats == 1 else None,
    )


RULE = Rule(
    code="IA204",
    name="recurrent-memory",
    severity=Severity.ERROR,
    limit=Limit(1.0, "rms of a change of the state, per step", "limits of trainability: Schoenholz 2017, He 2015"),
    check=check,
)
