"""Units that are zero on every sample, more of them than a healthy net of that depth and batch shows.

## What it measures

The fraction of units (channels) of an activation's output that are exactly zero on every sample and position of the
batch, less the fraction expected at the correlation that the samples have there. What is zero because parameters are
zeros is left to `symmetric-units`, which tells whether training revives it.

## Why it matters

A ReLU that is zero for every input passes no gradient: its incoming weights never move again.

## Example that fires

```python
import torch
from torch import nn

model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
nn.init.constant_(model[0].bias, -5.0)
```

## Remedy

Biases at zero, weights with mean zero. Where inputs are all positive, centre them.

## Limit and where it comes from

An excess of 25% of the units is a warning, of 50% an error. A healthy He-initialized ReLU net has 29% of its units
dead on a batch of 32 at layer 20, since its samples have become alike; a fixed limit would call it sick. The expected
fraction is `E[Φ(t·sqrt(ρ/(1-ρ)))^B]` for `B` samples at correlation `ρ`; three standard errors of the count are
added. A layer of which all units are dead is an error, but where chance alone kills them all (one draw in 10,000) and
the signal passes by, as beside the few units of a squeezed gate, a warning.

## References

Lu et al. 2019, Dying ReLU and Initialization (arXiv:1903.06733); Poole et al. 2016 (arXiv:1606.05340).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

from initaudit.records import Layer, LayerCall, Op, Severity, Stats, Trace
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import Flow
from initaudit.rules.liveness import Liveness
from initaudit.rules.paths import has_way_around
from initaudit.rules.wording import zero_bias
from initaudit.theory.variance import dead_unit_probability

_WARN, _FAIL = 0.25, 0.5
_CHANCE = 1e-4
_SAMPLES = 32  # of a batch, the most that statistics look at


@lru_cache(maxsize=1024)
def _expected(samples: int, correlation: float) -> float:
    return dead_unit_probability(samples, correlation)


def _correlation(before: Stats) -> float:
    """Mean correlation of two samples, over units around their common mean: a bias that all share is no likeness."""
    if before.cosine is None:
        return 1.0
    spread = before.rms**2 - before.mean**2
    return (before.cosine * before.rms**2 - before.mean**2) / spread if spread > 0 else 1.0


def _excess(call: LayerCall) -> tuple[float, float, float] | None:
    """Dead fraction, expected fraction, and the excess beyond three standard errors."""
    activation, before = call.activation, call.pre_activation
    if activation is None or before is None or activation.dead_units is None or activation.dead_units <= _WARN:
        return None
    expected = _expected(min(before.samples, _SAMPLES), round(_correlation(before), 3))
    error = 3 * math.sqrt(expected * (1 - expected) / max(1, activation.units))
    return activation.dead_units, expected, activation.dead_units - expected - error


def _starts_silent(liveness: Liveness, call: LayerCall, op: Op) -> bool:
    """Whether it is zero for the zeros of parameters, on purpose or not: symmetric-units tells which.

    Gates have no dead end: a recurrence that is zero has zeros for its weights.
    """
    end = liveness.trace.ops[call.activation_op if call.activation_op is not None else op.id]
    return op.name.startswith(("lstm", "gru")) or liveness.silenced(end)


def _is_error(trace: Trace, found: tuple[Layer, LayerCall, float, float, float]) -> bool:
    """More than half of the units beyond the expected, or all of them: nothing passes such a layer.

    All of a few units, as those of a squeezed gate, may be dead by chance; that is no error where the signal passes by.
    """
    _, call, dead, expected, excess = found
    by_chance = call.activation is not None and expected**call.activation.units > _CHANCE
    if by_chance and has_way_around(trace, call.op):
        return False
    return excess > _FAIL or dead == 1


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, at each place where it is so."""
    found = []
    liveness = Liveness(flow.trace)
    for layer, call, op in flow.layer_calls():
        excess = _excess(call)
        if excess is not None and excess[0] == 1 and _starts_silent(liveness, call, op):
            continue
        source = call.input
        alive = source is None or source.dead_units is None or source.dead_units < 1
        if excess is not None and op.moving and alive and (excess[2] > _WARN or excess[0] == 1):
            found.append((layer, call, *excess))
    if not found:
        return
    errors = [f for f in found if _is_error(flow.trace, f)]
    layer, call, dead, expected, _ = (errors or found)[0]
    severe = bool(errors)
    bias = layer.bias
    reason = (
        f"; its bias has mean {bias.mean:.3g} against a pre-activation std of {call.pre_activation.std:.3g}"
        if (bias is not None and call.pre_activation is not None and abs(bias.mean) > 2 * call.pre_activation.std)
        else ""
    )
    yield Observation(
        fqn=layer.fqn,
        message=f"{dead:.0%} of {call.activation.units if call.activation else 0} units are zero on every sample, "
        f"where {expected:.0%} would be healthy{reason}"
        if dead < 1
        else f"all {call.activation.units if call.activation else 0} units are zero on every sample{reason}",
        observed=dead,
        limit=expected + (_FAIL if severe else _WARN),
        severity=Severity.ERROR if severe else Severity.WARNING,
        affected=tuple(dict.fromkeys(f[0].fqn for f in found if f[0].fqn != layer.fqn)),
        layer=None if reason else layer,
        code=zero_bias(layer) if reason else None,
    )


RULE = Rule(
    code="IA103",
    name="dead-units",
    severity=Severity.ERROR,
    limit=Limit(
        _FAIL,
        "fraction of units beyond the expected",
        "null by correlation: Poole 2016; share of a layer: common practice",
    ),
    check=check,
)
