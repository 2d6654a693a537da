"""Units that start equal and stay equal, and factors of zero that stay zero.

## What it measures
Layers whose weight is constant, or gives every output unit the same incoming row; and parameters of zeros that
multiply something: weights, gates, learned scales, gains of normalizations. For these it asks whether the signal finds
a way around, and whether a gradient reaches them at the first step or at one of the next.

## Why it matters
Two units with equal incoming weights, equal biases and equal outgoing weights get equal gradients: no step of
training ever tells them apart, and a layer of a thousand units does the work of one. A factor of zero lets nothing
through; and where all ways to it lead through another zero, or through a ReLU that sees nothing but zeros, no gradient
ever comes and both stay zero.

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
activation that follows. Of two zeros that stand behind each other, draw one (LoRA draws A and leaves B at zero).

## Limit and where it comes from
Rows are compared bit by bit: no number is tolerated or needed. It is an error when the symmetry is complete (equal
rows, constant bias, and constant layers after it), and when zeros never get a gradient because of each other or of
the ReLU behind them; a warning when the first step breaks the symmetry, or revives a layer that lets nothing through
at the start. Zeros that are meant are a note: the last layer or the last gain of a residual branch, gates and
modulations (adaLN-zero), a learned scale (ReZero, SkipInit), one factor of LoRA, the output layer; so is a learned
scale that starts below 0.01 (LayerScale). What tells them apart is the live-factor rule: a zero is live once some way
through it has no other zero factor that is not live, and what becomes live moves at that step of training.

Without a run (`--weights-only`) equal units are a warning. What no module tells to be a matrix is left alone where it
is one throughout, as gains and masks are, or a table whose entries follow from their neighbours.

## References
Goodfellow, Bengio & Courville 2016, "Deep Learning", section 8.4 (breaking symmetry). Zeros that are meant: Goyal et
al. 2017, arXiv:1706.02677; Zhang et al. 2019, "Fixup", arXiv:1901.09321; De & Smith 2020, "SkipInit",
arXiv:2002.10444; Bachlechner et al. 2021, "ReZero", arXiv:2003.04887; Touvron et al. 2021, "LayerScale",
arXiv:2103.17239; Hu et al. 2021, "LoRA", arXiv:2106.09685; Peebles & Xie 2022, "adaLN-zero", arXiv:2212.09748; Zhang
et al. 2023, "ControlNet", arXiv:2302.05543.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from initaudit.records import Layer, Op, Parameter, Role, Severity, Trace
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.liveness import Liveness
from initaudit.rules.paths import downstream, is_depthwise, is_zero, listing, multiplies, owner
from initaudit.rules.wording import parameter_at

if TYPE_CHECKING:
    from initaudit.rules.flow import Flow


_SMALL_SCALE = 0.01  # LayerScale starts at 1e-5 or 1e-6: the branch adds next to nothing
_KEPT_SHAPE = frozenset({Role.VIEW, Role.SCALE, Role.ACTIVATION, Role.NORM, Role.OTHER, Role.POOL, Role.CONCAT})

_ALL_EQUAL = (
    Severity.ERROR,
    "all its units are equal, so are the weights behind them, and training keeps them so",
)
_EQUAL_OUTPUTS = (
    Severity.NOTE,
    "all outputs are equal at the start; their own targets tell them apart at the first step",
)

_UNKNOWN_HARM = (
    Severity.WARNING,
    "all its units are equal; whether the layers around it ever tell them apart, only a run can say",
)


@dataclass(frozen=True, slots=True)
class _Seen:
    """One parameter that a verdict is about, with its layer if it is the weight of one."""

    name: str
    parameter: Parameter
    layer: Layer | None


def check(flow: Flow) -> Iterator[Observation]:
    """Yield one observation for each kind of symmetry and of zeros, at the first place that has it."""
    trace = flow.trace
    seen: dict[tuple[Severity, str], list[_Seen]] = {}
    if not trace.ops:
        seen[_UNKNOWN_HARM] = [
            _Seen(layer.fqn, layer.weight, layer) for layer in trace.layers if _has_equal_units(layer)
        ]
    for layer in _symmetric(trace):
        if verdict := _equal_rows(trace, layer):
            seen.setdefault(verdict, []).append(_Seen(layer.fqn, layer.weight, layer))
    if _ALL_EQUAL in seen and _EQUAL_OUTPUTS in seen:  # one cause: whoever filled the hidden layers filled the last
        seen[_ALL_EQUAL] += seen.pop(_EQUAL_OUTPUTS)
    for verdict, found in (*_zeros(trace), *_small_scales(trace)):
        seen.setdefault(verdict, []).append(found)
    for (severity, text), group in ((key, group) for key, group in seen.items() if group):
        first, *rest = dict.fromkeys(found.name for found in group)
        parameter, at = group[0].parameter, group[0].layer
        yield Observation(
            fqn=first,
            message=f"{parameter.fqn} is {parameter.init}: {text}" + (f" (also {listing(rest)})" if rest else ""),
            observed=1.0 + len(rest),
            severity=severity,
            affected=tuple(rest),
            layer=None if severity is Severity.NOTE else at,
            code=None if severity is Severity.NOTE or at else _cure(parameter),
        )


def _has_equal_units(layer: Layer) -> bool:
    """Of a layer that has not run: whether it is a matrix, or a kernel that reads several channels, of equal rows."""
    weight = layer.weight
    reads = len(weight.shape) == 2 or (len(weight.shape) > 2 and weight.shape[1] > 1)
    equal = weight.constant or weight.identical_rows
    return reads and weight.shape[0] > 1 and equal and not is_zero(weight) and weight.requires_grad


def _cure(parameter: Parameter) -> str:
    """The line that fills a parameter of no layer: a scale or a gain with ones, a factor of a product at random."""
    at = parameter_at(parameter.fqn)
    is_matrix = sum(size > 1 for size in parameter.shape) > 1
    return f"nn.init.kaiming_uniform_({at}, a=5**0.5)" if is_matrix else f"nn.init.ones_({at})"


def _symmetric(trace: Trace) -> Iterator[Layer]:
    """Layers whose units all have the same incoming weights, those of zeros left out."""
    own_shapes = {p.fqn: p.shape for p in trace.parameters}
    for layer in trace.layers:
        weight = layer.weight
        if not multiplies(trace, layer) or weight.shape[0] < 2 or is_depthwise(layer) or is_zero(weight):
            continue
        if own_shapes.get(weight.fqn, weight.shape) != weight.shape:
            continue  # computed from the parameter, which may be expanded: then equal rows are one row
        if weight.constant or weight.identical_rows:
            yield layer


def _equal_rows(trace: Trace, layer: Layer) -> tuple[Severity, str] | None:
    if not layer.weight.requires_grad:
        return None  # a fixed filter
    outgoing = _next_layers(trace, layer)
    if not outgoing:
        return _EQUAL_OUTPUTS
    constant_bias = layer.bias is None or layer.bias.constant
    if constant_bias and all(follower.weight.constant for follower in outgoing):
        return _ALL_EQUAL
    if constant_bias and all(f.weight.identical_rows and _next_layers(trace, f) for f in outgoing):
        return Severity.ERROR, "all its units read the same, and so do those of the next layer: one number passes both"
    return Severity.WARNING, "all its units read the same, so that one number passes it at the start"


def _zeros(trace: Trace) -> Iterator[tuple[tuple[Severity, str], _Seen]]:
    """The verdict on each factor of zeros, in the order in which they are used."""
    liveness = Liveness(trace)
    layers = {layer.weight.fqn: layer for layer in trace.layers}
    parameters = {p.fqn: p for p in trace.parameters}
    for fqn, op in liveness.factors.items():
        layer, parameter = layers.get(fqn), parameters[fqn]
        verdict = _verdict(trace, op, liveness.first_step.get(fqn), stuck=fqn in liveness.stuck)
        yield verdict, _Seen(layer.fqn if layer else owner(trace, parameter), parameter, layer)


def _verdict(trace: Trace, op: Op, step: int | None, *, stuck: bool) -> tuple[Severity, str]:
    """What becomes of the zero factor of ``op``, which gets its first gradient at ``step``, or never (``None``)."""
    later = downstream(trace.ops, [op.id])
    passes = _signal_passes(later, op.id)
    if stuck and not passes:
        return Severity.ERROR, "nothing of the input passes it and no gradient ever reaches it, so it stays zero"
    if stuck:
        return Severity.ERROR, (
            "no gradient ever reaches it, for what it is multiplied with is zero as well and stays so: draw one of them"
        )
    opens = (
        "the first step changes it" if step == 0 else f"it gets its gradient at step {step}, after the zeros on its way"
    )
    if step is None:
        opens = "no gradient reaches it on this input"
    if passes:
        return Severity.NOTE, f"{_kind(trace, op)}; {opens}"
    if not any(o.role is Role.LAYER for o in later):
        return Severity.NOTE, f"an output layer of zeros: {opens}"
    return Severity.WARNING, f"nothing of the input passes it at the start; {opens}"


def _kind(trace: Trace, op: Op) -> str:
    """What a zero that is meant does at its place, by what feeds it and where its value goes first."""
    around = "and the signal finds a way around"
    if op.role is Role.NORM:
        return f"a gain of zero closes a residual branch, {around}"
    if op.role is Role.PARAMETER and all(trace.ops[i].role is Role.PARAMETER for i in op.inputs):
        return f"one factor of a product of weights is zero (as in LoRA), {around}"
    if op.role is not Role.LAYER:
        return f"a learned scale of zero closes a branch (as in ReZero), {around}"
    meets = _first_meeting(trace, op)
    if meets is Role.GATE:
        return f"a gate of zeros closes what it multiplies (as in adaLN-zero), {around}"
    if meets is Role.ATTENTION:
        return f"it starts a product with another signal at zero (attention: uniform), {around}"
    if _reads_a_layer(trace, op):
        return f"one factor of a product of weights is zero (as in LoRA), {around}"
    return f"zeros at the end of a residual branch, {around}"


def _reads_a_layer(trace: Trace, op: Op) -> bool:
    """Whether nothing but views and dropout stand between the layer and another one before it."""
    source = trace.ops[op.inputs[0]]
    while source.role in (Role.VIEW, Role.SCALE) and source.inputs:
        source = trace.ops[source.inputs[0]]
    return source.role is Role.LAYER


def _first_meeting(trace: Trace, op: Op) -> Role | None:
    """The role of the first operation behind ``op`` that brings another value in."""
    behind = downstream(trace.ops, [op.id], passes=lambda o: o.role in _KEPT_SHAPE)
    return next((o.role for o in behind if o.role not in _KEPT_SHAPE), None)


def _small_scales(trace: Trace) -> Iterator[tuple[tuple[Severity, str], _Seen]]:
    """Learned scales that start small and equal, on a branch that is added to what goes around it."""
    small = {p.fqn: p for p in trace.parameters if p.constant and p.requires_grad and 0 < abs(p.mean) <= _SMALL_SCALE}
    for op in trace.ops:
        names = [n for i in op.inputs if trace.ops[i].role is Role.PARAMETER for n in trace.ops[i].parameters]
        if op.role is Role.SCALE and names and names[0] in small and _first_meeting(trace, op) is Role.JOIN:
            parameter = small[names[0]]
            text = "a learned scale lets its residual branch start with next to nothing, as is done on purpose"
            yield (Severity.NOTE, text), _Seen(owner(trace, parameter), parameter, None)


def _signal_passes(later: list[Op], start: int) -> bool:
    """Whether something behind a layer of zeros still differs from sample to sample."""
    known = [op.stats for op in later if op.stats and op.stats.sample_std is not None]
    if known:
        return any(s.sample_std > 1e-6 * s.rms for s in known if s.sample_std is not None)
    inside = {start, *(op.id for op in later)}
    return any(op.role is Role.JOIN and not inside.issuperset(op.inputs) for op in later)


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
    needs_run=False,
)
