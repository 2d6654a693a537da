"""Gates of a recurrence that are held open or shut by the size of what drives them.

## What it measures

The share of pre-activations, biases left out, at which a sigmoid gate of an LSTM or a GRU lies outside (0.05, 0.95),
or the tanh of a plain recurrence beyond 0.97, over samples, units and time steps. In a recurrence written out by
hand, the share of the outputs of its sigmoids (outside 0.015 to 0.985) and tanhs that are so and differ from sample
to sample.

## Why it matters

A gate at its flat end passes no gradient: it does not learn when to open. A bias may put it there on purpose, to
remember; a large weight puts it there at random.

## Example that fires

```python
import torch
from torch import nn

model = nn.LSTM(32, 64, batch_first=True)
nn.init.normal_(model.weight_ih_l0)  # 1/sqrt(32) would do
inputs = torch.randn(8, 20, 32)
```

## Remedy

Weights of std `1/sqrt(fan_in)`, counted for one gate (torch stacks the gates in one matrix), orthogonal ones for the
state, and inputs of unit variance.

## Limit and where it comes from

Three tenths. Pre-activations of unit variance put 0.3% of the gates there and 3.7% of tanh; three tenths take a
variance of 8, and of 4 for tanh, as in `saturated-units`.

## References

Glorot & Bengio 2010, section 3; van der Westhuizen & Lasenby 2018 (arXiv:1804.04849) on biases that hold gates open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from initaudit.records import Layer, Op, Role, Severity
from initaudit.rules.attending import projections
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import Flow
from initaudit.rules.recurrences import SATURATED, gain, name
from initaudit.rules.wording import figure

# Outputs of an unrolled recurrence that follow a bias alone are alike on all samples; a saturated sigmoid or tanh that
# follows its input differs by nearly half its range.
_DIFFER = {"sigmoid": 0.25, "tanh": 0.5}
_STEPS = 8  # calls in one module from which it counts as unrolled


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes, once for each recurrence, at the weight that is largest for its fan-in."""
    yield from _fused(flow)
    yield from _by_hand(flow)


def _fused(flow: Flow) -> Iterator[Observation]:
    found = [r for r in flow.trace.recurrences if r.saturated > SATURATED]
    if not found:
        return
    first = found[0]
    own = {r.weight for r in found}
    layers = [layer for layer in flow.trace.layers if layer.weight.fqn.replace("weight_ih", "weight_hh") in own]
    largest = max(layers, key=gain, default=None)
    fqn = largest.fqn if largest is not None else name(flow, first)
    what = "gates" if first.gates else "tanh outputs"
    yield Observation(
        fqn=fqn,
        message=f"{first.saturated:.0%} of the {what} are held at their flat ends" + _reason(largest),
        observed=first.saturated,
        affected=tuple(dict.fromkeys(n for r in found if (n := name(flow, r)) != fqn)),
        layer=largest if largest is not None and gain(largest) > 1 else None,
        gain=1.0,
    )


def _by_hand(flow: Flow) -> Iterator[Observation]:
    """The gates of a recurrence that its author wrote out: sigmoids that multiply, many times in one module."""
    gating = {i for op in flow.trace.ops if op.role is Role.GATE for i in op.inputs}
    scopes: dict[str, list[Op]] = {}
    for op in flow.trace.ops:
        if op.id in gating and op.name in _DIFFER and op.layer is None and op.stats and op.stats.saturated is not None:
            scopes.setdefault(op.scope, []).append(op)
    for scope, gates in scopes.items():
        share = _saturated(gates)
        if len(gates) >= _STEPS and share > SATURATED:
            made_by = next((found for op in gates if (found := projections(flow, op.id))), ())
            largest = max((p.layer for p in made_by), key=gain, default=None)
            yield Observation(
                fqn=largest.fqn if largest is not None else scope,
                message=f"{share:.0%} of the gates are held at their flat ends" + _reason(largest),
                observed=share,
                affected=tuple(p.layer.fqn for p in made_by if p.layer is not largest),
                layer=largest if largest is not None and gain(largest) > 1 else None,
                gain=1.0,
            )


def _saturated(gates: Sequence[Op]) -> float:
    """Mean share of saturated outputs, those left out that hardly differ between samples."""
    shares = [
        op.stats.saturated or 0.0 if (op.stats.sample_std or 0.0) > _DIFFER[op.name] else 0.0
        for op in gates
        if op.stats is not None
    ]
    return sum(shares) / len(shares)


def _reason(layer: Layer | None) -> str:
    if layer is None:
        return ""
    if gain(layer) > 1:
        return (
            f": {layer.weight.fqn} has std {figure(layer.weight.std)}, {figure(gain(layer))} times the "
            f"{figure(layer.fan_in**-0.5)} that fan_in {layer.fan_in:g} asks for"
        )
    return ": the weights keep to the rule, so the inputs are large; bring them to unit variance"


RULE = Rule(
    code="IA110",
    name="saturated-gates",
    severity=Severity.WARNING,
    limit=Limit(SATURATED, "share of gates", "Gaussian null of a sigmoid outside (0.05, 0.95); Glorot & Bengio 2010"),
    check=check,
)
