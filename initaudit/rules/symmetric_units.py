"""Units that start equal and stay equal.

## What it measures
Layers whose weight is constant, or gives every output unit the same incoming row. For weights of zeros it asks
further: whether the signal finds a way around the layer, and whether a gradient reaches it.

## Why it matters
Two units with equal incoming weights, equal biases and equal outgoing weights get equal gradients: no step of
training ever tells them apart, and a layer of a thousand units does the work of one. A hidden layer of zeros on the
only path lets nothing through that depends on the input; with ReLU after it no gradient comes back either, and it
stays so.

## Example that fires

```python
from torch import nn

model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))
for layer in model[::2]:
    nn.init.constant_(layer.weight, 0.1)
    nn.init.zeros_(layer.bias)
```

## Remedy
Draw the weights at random: any of the initializers of `torch.nn.init` that draws will do, with the gain of the
activation that follows.

## Limit and where it comes from
Rows are compared bit by bit: no number is tolerated or needed. It is an error when the symmetry is complete (equal
rows, constant bias, and constant layers after it) and when a layer of zeros cuts the only path without a gradient;
a warning when the first step breaks the symmetry or revives the layer, and when zeros stand behind each other so
that neither ever gets a gradient (LoRA with both factors zero). Zeros that are meant are a note: the last layer of
a residual branch, the gates of adaLN, the second factor of LoRA, the output layer. What tells them apart is that
the signal varies from sample to sample behind them and that a gradient reaches them, or will after the first step.

## References
Goodfellow, Bengio & Courville 2016, "Deep Learning", section 8.4 (breaking symmetry). Zhang et al. 2019, "Fixup
Initialization", arXiv:1901.09321; Hu et al. 2021, "LoRA", arXiv:2106.09685; Peebles & Xie 2022, "Scalable Diffusion
Models with Transformers", arXiv:2212.09748 (zeros that are meant).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from initaudit.records import Layer, Op, Role, Severity, Trace
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.paths import downstream, is_depthwise, is_zero, listing, multiplies, upstream

if TYPE_CHECKING:
    from initaudit.rules.flow import Flow


_ALL_EQUAL = (
    Severity.ERROR,
    "all its units are equal, so are the weights behind them, and training keeps them so",
)
_EQUAL_OUTPUTS = (
    Severity.NOTE,
    "all outputs are equal at the start; their own targets tell them apart at the first step",
)


def check(flow: Flow) -> Iterator[Observation]:
    """Yield one observation for each kind of symmetry, at the first layer that has it."""
    trace = flow.trace
    own_shapes = {p.fqn: p.shape for p in trace.parameters}
    seen: dict[tuple[Severity, str], list[Layer]] = {}
    for layer in trace.layers:
        weight = layer.weight
        if not multiplies(trace, layer) or weight.shape[0] < 2 or is_depthwise(layer):
            continue
        if not (weight.constant or weight.identical_rows):
            continue
        if own_shapes.get(weight.fqn, weight.shape) != weight.shape:
            continue  # computed from the parameter, which may be expanded: then equal rows are one row
        verdict = _zeros(trace, layer) if is_zero(weight) else _equal_rows(trace, layer)
        if verdict:
            seen.setdefault(verdict, []).append(layer)
    if _ALL_EQUAL in seen and _EQUAL_OUTPUTS in seen:  # one cause: whoever filled the hidden layers filled the last
        seen[_ALL_EQUAL] += seen.pop(_EQUAL_OUTPUTS)
    for (severity, text), layers in seen.items():
        first, *rest = dict.fromkeys(layer.fqn for layer in layers)
        weight = layers[0].weight
        yield Observation(
            fqn=first,
            message=f"{weight.fqn} is {weight.init}: {text}" + (f" (also {listing(rest)})" if rest else ""),
            observed=1.0 + len(rest),
            severity=severity,
            affected=tuple(rest),
            layer=None if severity is Severity.NOTE else layers[0],
        )


def _equal_rows(trace: Trace, layer: Layer) -> tuple[Severity, str] | None:
    if not layer.weight.requires_grad:
        return None  # a fixed filter
    outgoing = _next_layers(trace, layer)
    if not outgoing:
        return _EQUAL_OUTPUTS
    constant_bias = layer.bias is None or layer.bias.constant
    if constant_bias and all(follower.weight.constant for follower in outgoing):
        return _ALL_EQUAL
    return Severity.WARNING, "all its units read the same, so that one number passes it at the start"


def _zeros(trace: Trace, layer: Layer) -> tuple[Severity, str] | None:
    gradient = layer.weight.grad_rms
    start = layer.calls[0].op
    later = downstream(trace.ops, [start])
    if not any(op.role is Role.LAYER for op in later):
        return Severity.NOTE, "an output layer of zeros, which the first step changes"
    if not _signal_passes(later, start):
        if gradient:
            return Severity.WARNING, "nothing of the input passes it at the start; a gradient does reach it"
        return Severity.ERROR, "nothing of the input passes it and no gradient reaches it, so it stays zero"
    if gradient == 0.0 and layer.weight.requires_grad and not _wakes(trace, start, later):
        return Severity.WARNING, "no gradient reaches it, and no other zero on its path will give way: it stays zero"
    return Severity.NOTE, "zeros on a branch that the signal finds a way around, as is done on purpose"


def _signal_passes(later: list[Op], start: int) -> bool:
    """Whether something behind a layer of zeros still differs from sample to sample."""
    known = [op.stats for op in later if op.stats and op.stats.sample_std is not None]
    if known:
        return any(s.sample_std > 1e-6 * s.rms for s in known if s.sample_std is not None)
    inside = {start, *(op.id for op in later)}
    return any(op.role is Role.JOIN and not inside.issuperset(op.inputs) for op in later)


def _wakes(trace: Trace, start: int, later: list[Op]) -> bool:
    """Whether another zero factor on the layer's paths has a gradient already, and will let one through.

    A factor multiplies: a weight, a norm's gain, a gate. Biases and embeddings of position are added and block nothing.
    """
    on_path = upstream(trace.ops, [start]).union(*({op.id, *op.inputs} for op in later))
    added = {i for op in trace.ops if op.role is Role.LAYER or "add" in op.name for i in op.inputs}
    factors = {layer.weight.fqn for layer in trace.layers}
    names = {name for op in trace.ops if op.id in on_path and op.role is Role.LAYER for name in op.parameters} & factors
    for op in trace.ops:
        if op.id in on_path and op.role is Role.PARAMETER and op.id not in added:
            names.update(name for name in op.parameters if "bias" not in name.rpartition(".")[2])
    return any(p.fqn in names and is_zero(p) and p.grad_rms for p in trace.parameters)


def _next_layers(trace: Trace, layer: Layer) -> list[Layer]:
    """The layers that read this one's output with no other between."""
    starts = [call.op for call in layer.calls]
    reached = downstream(trace.ops, starts, passes=lambda op: op.role is not Role.LAYER)
    names = {op.id for op in reached if op.role is Role.LAYER}
    return [other for other in trace.layers if any(call.op in names for call in other.calls)]


RULE = Rule(
    code="IA304",
    name="symmetric-units",
    severity=Severity.ERROR,
    limit=Limit(0.0, unit="layers with equal units", source="equal units get equal gradients"),
    check=check,
)
