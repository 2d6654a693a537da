"""A parameter that is initialized unlike those of the same role and shape in its sister blocks.

## What it measures

Parameters whose paths differ in numbers only (`blocks.0.mlp.weight` ... `blocks.11.mlp.weight`) should be drawn from
one law: one rms, or, for weights of several shapes, one rms times the root of a fan. The rms of each is compared with
the median of its equals. Where there are only two, that one is right which is as the rest of the model is: its std, its
gain or its zero biases.

What has no sisters is compared with all of its kind: a weight with what most weights of the model have and with every
common rule, a norm's gain with the one value that most gains have, a bias drawn at random with biases that are zero or
torch's default.

## Why it matters

In a repeated stack the odd one out is nearly always a slip: a layer that `_init_weights` missed, one that was
initialized twice or after loading, a norm whose gain was overwritten. A normalization may hide it from the signal,
and it still learns at another pace than its sisters.

## Example that fires

```python
from torch import nn

block = lambda: nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU())
model = nn.Sequential(*[block() for _ in range(6)])
for m in model.modules():
    if isinstance(m, nn.Linear):
        nn.init.normal_(m.weight, std=0.1)
        nn.init.zeros_(m.bias)
model[3][1].reset_parameters()
```

## Remedy

Initialize it as its equals are; the finding says how. A bias without equals shall be zero. If it is meant, ignore the
rule for this model.

## Limit and where it comes from

A factor of 1.25 in rms (1.5 among several shapes) and six standard errors of it, `sqrt((kurtosis - 1) / 4N)` for `N`
values, while at least two thirds of the equals agree with each other to a tenth. Stacks whose scale changes with depth
on purpose do not agree, and are left alone; so is a weight that fits the variance rule among others that fit it. Layers
at different places of a block are no equals where three blocks or more agree place by place. A layer whose
input has passed another activation than the inputs of its equals, as that of a first layer has passed none, is asked
for another gain and another bias: its weight may differ by as much as common rules do, twice at most, and its bias may
be zero where theirs are not. Blocks with a way around them may start closed, at zero, and those without not. Blocks of
other parts that keep torch's default are other code's.
Without sisters: four times outside of all that Glorot's and He's rules and torch's default give with either fan, as it
is or as `torch.nn.init` reads it, or twice and four times the std that most weights of the model have, and shared with
no other weight; a weight that is computed has the scale of its computation, and a table that softmax weights choose
from that of its rows. A bias is no odd one where samples differ by more than they have in common behind the function
that follows: of a sine it is but the phase. A last layer that is small is a note: outputs near zero are a fair start.

## References

Sampling error of a standard deviation: Cramér 1946, Mathematical Methods of Statistics, 27.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

from initaudit.advice.settings import Setting, constant
from initaudit.records import Layer, Parameter, Role, Severity, Trace
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import Flow
from initaudit.rules.laws import Laws, block_of, is_torch_default, trained
from initaudit.rules.paths import activation_before, has_way_around, is_bias, is_last, is_zero, owner, owners
from initaudit.rules.sisters import FACTOR, Odd, module_of, odd_ones, sisters
from initaudit.rules.wording import figure, parameter_at

_BEYOND = 2.0  # times any std that a common rule gives
_FAR = 4.0  # times the std that most weights of the model have, or that any common rule gives


def check(flow: Flow) -> Iterator[Observation]:
    """One observation for each block that holds odd parameters, at the first of them."""
    laws = Laws(flow.trace)
    groups = sisters(laws)
    compared = {p.fqn for members in groups for p in members}
    blocks: dict[str, list[Odd]] = {}
    alone = (kind(laws, compared) for kind in (_odd_weights, _left_at_default, _odd_gains, _odd_biases))
    for odd in chain(odd_ones(laws, groups), *alone):
        if _has_reason(flow.trace, laws, groups, odd.parameter):
            continue
        if _closes_a_branch(flow.trace, groups, odd):
            continue
        if odd.parameter.rms == 0 and (odd.parameter.fqn not in compared or len(flow.liveness.factors) > 1):
            continue  # zeros that are many, or at a place of their own, are meant or for symmetric-units to judge
        blocks.setdefault(block_of(odd.parameter.fqn), []).append(odd)
    for found in blocks.values():
        yield _observation(flow, laws, found)


def _has_reason(trace: Trace, laws: Laws, groups: Sequence[Sequence[Parameter]], odd: Parameter) -> bool:
    """Whether a sister differs within what rules allow, and its layer's input has passed another activation."""
    layers = {module_of(weight): layer for weight, layer in laws.layers.items()}
    layer = layers.get(module_of(odd.fqn))
    members = next((group for group in groups if odd in group), ())
    if layer is None or not members:
        return False
    beside = [layers[name] for name in (module_of(p.fqn) for p in members) if name in layers]
    ((usual, _),) = Counter(_passed(trace, other) for other in beside).most_common(1)
    if _passed(trace, layer) == usual:
        return False
    return is_zero(odd) if is_bias(odd) else not is_torch_default(layer.weight) and laws.beyond(layer.weight) < _BEYOND


def _closes_a_branch(trace: Trace, groups: Sequence[Sequence[Parameter]], odd: Odd) -> bool:
    """Whether zeros stand where the signal passes by, and other values where zeros would end it; no bias ends any."""
    if is_bias(odd.parameter):
        return False
    if odd.usual == 0:
        return not _has_way_around(trace, odd.parameter)
    if odd.parameter.rms > 0 or not _has_way_around(trace, odd.parameter):
        return False
    members = next((group for group in groups if odd.parameter in group), ())
    return bool(members) and not any(_has_way_around(trace, p) for p in members if p.rms > 0)


def _has_way_around(trace: Trace, parameter: Parameter) -> bool:
    held = {op.id for op in trace.ops if op.role is Role.PARAMETER and parameter.fqn in op.parameters}
    readers = (op.id for op in trace.ops if op.moving and not held.isdisjoint(op.inputs))
    return all(has_way_around(trace, op) for op in readers)


def _passed(trace: Trace, layer: Layer) -> str | None:
    before = activation_before(trace, layer)
    return before.name if before is not None else None


def _odd_weights(laws: Laws, compared: set[str]) -> Iterator[Odd]:
    """Weights without sisters that no common rule gives, in a model whose other weights have one std or keep to one."""
    plain = (layer for layer in laws.layers.values() if not laws.is_computed(layer))
    layers = [layer for layer in plain if trained(layer.weight) and layer.weight.rms > 0]
    unlawful = [layer for layer in layers if laws.beyond(layer.weight) >= _BEYOND]
    if len(layers) - len(unlawful) < max(3, (len(layers) - 1) * 2 / 3):
        return
    for layer in unlawful:
        rms = layer.weight.rms
        if layer.weight.fqn in compared or layer.weight.fqn in laws.embeddings or not laws.is_alone(layer):
            continue
        off = max(rms / laws.habit, laws.habit / rms) if laws.habit else laws.beyond(layer.weight)
        if off < _FAR:
            continue
        if laws.habit:
            yield Odd(layer.weight, laws.habit, "most weights of the model have")
            continue
        low, high = laws.range_of(layer)
        small = rms < low
        words = f"common rules give it at {'least' if small else 'most'}"
        yield Odd(layer.weight, low if small else high, words, is_bound=True)


def _left_at_default(laws: Laws, compared: set[str]) -> Iterator[Odd]:
    """Two or more weights of a block without sisters that torch's default left, in a model that has one std for all."""
    if laws.habit is None:
        return
    kinds = {layer.kind for layer in laws.layers.values() if laws.is_usual(layer.weight)}
    left = [
        layer
        for layer in laws.layers.values()
        if layer.kind in kinds and is_torch_default(layer.weight) and layer.weight.fqn not in compared
    ]
    in_block = Counter(block_of(layer.weight.fqn) for layer in left)
    for layer in left:
        if in_block[block_of(layer.weight.fqn)] > 1 and not laws.is_usual(layer.weight):
            yield Odd(layer.weight, laws.habit, "most weights of the model have")


def _odd_gains(laws: Laws, compared: set[str]) -> Iterator[Odd]:
    """Gains of normalizations without sisters that differ from the one value that the others have."""
    usual = laws.usual_gain
    for gain in laws.gains if usual is not None else ():
        if trained(gain) and gain.fqn not in compared and _differs(gain.rms, abs(usual or 0.0)):
            words = "the gains of most normalizations have"
            yield Odd(gain, abs(usual or 0.0), words, constant(gain.fqn, usual or 0.0))


def _odd_biases(laws: Laws, compared: set[str]) -> Iterator[Odd]:
    """Biases drawn at random and far from zero and from torch's default, where those of other layers are neither.

    The bias of a last layer may hold the log frequencies of the classes.
    """
    layers = [layer for layer in laws.layers.values() if layer.bias is not None]
    large = [layer for layer in layers if layer.bias and layer.bias.rms >= _FAR * _default_bias(layer)]
    if len(layers) - len(large) < max(2, (len(layers) - 1) * 0.75):
        return
    for layer in large:
        bias = layer.bias
        if bias is None or bias.fqn in compared or not _looks_drawn(bias):
            continue
        drowns = bias.rms > layer.weight.rms * math.sqrt(layer.fan_in) and not _comes_through(layer)
        if drowns and not is_last(laws.trace, layer):
            words = "biases are zero or, by torch's default, have"
            yield Odd(bias, _default_bias(layer), words, constant(bias.fqn, 0.0))


def _comes_through(layer: Layer) -> bool:
    """Whether samples differ by more than they have in common behind the layer's function: of a wave the bias is but
    the phase, however large."""
    behind = layer.calls[0].activation if layer.calls else None
    return behind is not None and behind.sample_std is not None and 2 * behind.sample_std**2 > behind.rms**2


def _default_bias(layer: Layer) -> float:
    return 1 / math.sqrt(3 * layer.fan_in)


def _looks_drawn(bias: Parameter) -> bool:
    """Whether the values are no pattern laid out on purpose, which has equal values or zeros in it."""
    return trained(bias) and not bias.constant and bias.zero_fraction == 0


def _differs(a: float, b: float) -> bool:
    return a != b if a == 0 or b == 0 else max(a / b, b / a) > _BEYOND


def _observation(flow: Flow, laws: Laws, found: list[Odd]) -> Observation:
    odd = max(found, key=lambda f: f.parameter.fqn in laws.layers)
    parameter, usual = odd.parameter, odd.usual
    names = owners(flow.trace, (f.parameter for f in found))
    first = owner(flow.trace, parameter)
    layer = laws.layers.get(parameter.fqn)
    small_end = layer is not None and parameter.rms < usual and is_last(flow.trace, layer)
    ratio = parameter.rms / usual if usual else math.inf
    looks = f" ({parameter.init})" if parameter.init != "unknown" else ""
    return Observation(
        fqn=first,
        message=f"{parameter.fqn} has rms {figure(parameter.rms)}{looks}, where {odd.equals} {figure(usual)}",
        observed=max(ratio, 1 / ratio) if ratio else math.inf,
        severity=Severity.NOTE if small_end else None,  # outputs near zero are a fair start
        affected=tuple(name for name in names if name != first),
        layer=layer if usual else None,
        gain=usual * math.sqrt(layer.fan_in) if layer and usual and not odd.is_bound else None,
        code=None if layer else _code(parameter, odd.start),
    )


def _code(parameter: Parameter, start: Setting | None) -> str | None:
    if start is None:
        return None
    return f"nn.init.{start.scheme}({', '.join(filter(None, (parameter_at(parameter.fqn), start.arguments)))})"


RULE = Rule(
    code="IA503",
    name="unlike-its-equals",
    severity=Severity.WARNING,
    limit=Limit(FACTOR, "rms over that of its equals", "six standard errors of a sample std, at least a quarter"),
    check=check,
)
