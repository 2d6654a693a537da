"""A parameter that is initialized unlike those of the same role and shape in its sister blocks.

## What it measures

Parameters whose paths differ in numbers only (`blocks.0.mlp.weight` ... `blocks.11.mlp.weight`) and that have one
shape should be drawn from one law. The root mean square of each is compared with the median of its equals; where
there are only two, with the std that most weights of the model have.

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

Initialize it as its equals are; the finding says how. If it is meant, ignore the rule for this model.

## Limit and where it comes from

A factor of 1.25 in rms and six standard errors of it, `sqrt((kurtosis - 1) / 4N)` for `N` values, while at least two
thirds of the equals agree with each other to a tenth. Stacks whose scale changes with depth on purpose do not agree,
and are left alone; so is a weight that fits the variance rule among others that fit it.

## References

Sampling error of a standard deviation: Cramér 1946, Mathematical Methods of Statistics, 27.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from statistics import median

from initaudit.records import Layer, Parameter, Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.drift import SIGNIFICANT
from initaudit.rules.flow import Flow, weight_deviation
from initaudit.rules.paths import owner
from initaudit.rules.wording import figure

_FACTOR = 1.25
_AGREE = 0.1  # in ln rms
_MAJORITY = 2 / 3
_HABIT = 0.6  # share of a model's weights that makes one std its habit


def check(flow: Flow) -> Iterator[Observation]:
    """One observation for each block that holds odd parameters, at the first of them."""
    layers = {layer.weight.fqn: layer for layer in flow.trace.layers}
    habit = _habit([p for p in flow.trace.parameters if len(p.shape) > 1])
    blocks: dict[str, list[tuple[Parameter, float, int]]] = {}
    for members in _equals(flow.trace.parameters):
        usual, odd = _compare(members, habit)
        if usual is None or not _harmless(members, odd, layers):
            for parameter in odd:
                prefix = re.split(r"(?<=\d)\.", parameter.fqn, maxsplit=1)[0]
                blocks.setdefault(prefix, []).append((parameter, usual or 0.0, len(members)))
    for found in blocks.values():
        yield _observation(flow, found, layers)


def _equals(parameters: Sequence[Parameter]) -> Iterator[list[Parameter]]:
    """Parameters of one role and shape; a bias also by the weight beside it, whose fan-in its law follows."""
    groups: dict[tuple[str, tuple[int, ...], tuple[int, ...]], list[Parameter]] = {}
    beside = {_module(p): p.shape for p in parameters if len(p.shape) > 1}
    for parameter in parameters:
        role = re.sub(r"(?<![^.])\d+(?![^.])", "*", parameter.fqn)
        if "*" in role and math.isfinite(parameter.rms) and not parameter.unwritten and parameter.requires_grad:
            key = (role, parameter.shape, beside.get(_module(parameter), ()))
            groups.setdefault(key, []).append(parameter)
    # Numbers alone, as in a plain Sequential, are no sister blocks: there three must agree against the odd one.
    return (
        ps for (role, *_), ps in groups.items() if len(ps) > (3 if role.startswith("*") and role.count(".") == 1 else 1)
    )


def _module(parameter: Parameter) -> str:
    return parameter.fqn.rpartition(".")[0].split(".parametrizations.")[0]


def _habit(weights: Sequence[Parameter]) -> float | None:
    """The rms that most weights of the model share."""
    best = max(weights, key=lambda w: sum(_near(w.rms, v.rms) for v in weights), default=None)
    if best is None or best.rms == 0 or len(weights) < 4:
        return None
    return best.rms if sum(_near(best.rms, v.rms) for v in weights) >= _HABIT * len(weights) else None


def _near(a: float, b: float) -> bool:
    return a > 0 and b > 0 and abs(math.log(a / b)) < _AGREE


def _compare(members: Sequence[Parameter], habit: float | None) -> tuple[float | None, list[Parameter]]:
    """The usual rms among ``members``, and those that are unlike it."""
    if len(members) == 2:
        usual = next((p for p in members if habit and _near(p.rms, habit)), None)
        odd = [p for p in members if usual and _apart(p, usual.rms)]
        return (usual.rms, odd) if usual and len(odd) == 1 else (None, [])
    zero = [p for p in members if p.rms == 0]
    usual_rms = 0.0 if len(zero) > len(members) / 2 else median(p.rms for p in members if p.rms > 0)
    agreeing = [p for p in members if p.rms == usual_rms or _near(p.rms, usual_rms)]
    if len(agreeing) < max(2.0, _MAJORITY * len(members)):
        return None, []
    return usual_rms, [p for p in members if _apart(p, usual_rms)]


def _apart(parameter: Parameter, usual: float) -> bool:
    if parameter.rms == 0 or usual == 0:
        return parameter.rms != usual
    # At least that of normal values: the kurtosis of a handful of them says nothing.
    error = 0.0 if parameter.constant else max(parameter.std_uncertainty, 1 / math.sqrt(2 * math.prod(parameter.shape)))
    error *= 6 * math.sqrt(2)
    return abs(math.log(parameter.rms / usual)) > max(math.log(_FACTOR), error)


def _harmless(members: Sequence[Parameter], odd: Sequence[Parameter], layers: dict[str, Layer]) -> bool:
    """Whether the odd ones fit the variance rule like the rest: then the gain differs, as for a first layer."""
    if not all(p.fqn in layers for p in members):
        return False
    return all(_fits(layers[p.fqn]) for p in members)


def _fits(layer: Layer) -> bool:
    return layer.weight.rms > 0 and abs(weight_deviation(layer, (None, layer.nonlinearity))) < SIGNIFICANT


def _observation(flow: Flow, found: list[tuple[Parameter, float, int]], layers: dict[str, Layer]) -> Observation:
    parameter, usual, equals = max(found, key=lambda f: f[0].fqn in layers)
    names = tuple(dict.fromkeys(owner(flow.trace, p) for p, _, _ in found))
    first = owner(flow.trace, parameter)
    layer = layers.get(parameter.fqn)
    ratio = parameter.rms / usual if usual else math.inf
    looks = f" ({parameter.init})" if parameter.init != "unknown" else ""
    return Observation(
        fqn=first,
        message=f"{parameter.fqn} has rms {figure(parameter.rms)}{looks}, where its {equals - 1} equals in the sister "
        f"blocks have {figure(usual)}",
        observed=max(ratio, 1 / ratio) if ratio else math.inf,
        affected=tuple(name for name in names if name != first),
        layer=layer if usual else None,
        gain=usual * math.sqrt(layer.fan_in) if layer and usual else None,
    )


RULE = Rule(
    code="IA503",
    name="unlike-its-equals",
    severity=Severity.WARNING,
    limit=Limit(_FACTOR, "rms over that of its equals", "six standard errors of a sample std, at least a quarter"),
    check=check,
)
