"""A layer that does something else to the signal than its weights declare.

## What it measures

Two numbers that should be one. The weights *declare* the factor `fan_in · E[w²]` by which a layer changes the mean
square of its input; the run *measures* it, with the bias taken off. The declared one is sharp, the measured one is one
draw of as many terms as the layer has units.

## Why it matters

The variance rule holds for independent weights of mean zero. Where the two disagree, the weights are not what their
variance says: they are correlated with each other or with the input, have a mean, or are laid out in another way than
the layer reads them, so that the fan they were scaled for is not the one they work with. Scaling such a layer by the
rule will not give what the rule promises.

## Example that fires

```python
import torch
from torch import nn

model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
with torch.no_grad():
    model[2].weight.copy_(model[2].weight.abs() * 0.1)  # no sign: all terms of the sum add up
```

## Remedy

Draw the weights independently and around zero, with the fan in which the layer really sums: the report gives the
effective fan-in. A structured weight (an identity, a fixed filter) that is meant needs none.

## Limit and where it comes from

The ratio of a mean over `n` units is close to a Gamma law of shape `n/2` for one input, and narrower for a batch; it
must leave the band that holds all but one in 100,000 healthy layers. A factor of four beyond one is a warning, less
is a note. Convolutions wider than one are not judged below one, since zero padding takes from what they sum, and
depthwise ones not at all, nor recurrences, nor layers whose bias is larger than what their input adds. Nor is a layer
that lets pass the variance of its input alone: its rows sum to zero, as weight standardization makes them. Of 5,500
layers of architectures at their own initialization these limits left two, one of them with weights of a mean far from
zero.

## References

He et al. 2015 (arXiv:1502.01852), eq. 7; Hanin & Nica 2020 (arXiv:1812.05994) on the law of the ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from initaudit.records import Layer, Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.flow import RECURRENT, Flow
from initaudit.rules.paths import is_depthwise, multiplies
from initaudit.rules.wording import figure
from initaudit.theory.variance import ratio_band

_CHANCE = 1e-5
_KAPPA = 2.0  # of one linear unit: E[z^4]/E[z^2]^2 - 1
_WARN = 4.0


def check(flow: Flow) -> Iterator[Observation]:
    """One observation for the layers that are a factor of four off, and one for those that are off by less."""
    found: dict[bool, list[tuple[Layer, float]]] = {}
    for layer in flow.trace.layers:
        plain = multiplies(flow.trace, layer) and not flow.trace.ops[layer.calls[0].op].name.startswith(RECURRENT)
        ratio = _ratio(layer) if plain else None
        if ratio is not None and not any(_plausible(layer, r) for r in (ratio, ratio / _spread(layer))):
            found.setdefault(max(ratio, 1 / ratio) > _WARN, []).append((layer, ratio))
    for severe, members in found.items():
        layer, ratio = members[0]
        names = tuple(other.fqn for other, _ in members[1:])
        yield Observation(
            fqn=layer.fqn,
            message=f"its weights declare a factor of {figure(layer.declared_factor)} on the mean square, measured are "
            f"{figure(ratio * layer.declared_factor)}: they are not independent draws around zero, or not laid out "
            f"for the fan-in of {layer.fan_in:g}",
            observed=ratio,
            severity=Severity.WARNING if severe else Severity.NOTE,
            affected=names,
        )


def _ratio(layer: Layer) -> float | None:
    measured, declared = layer.measured_factor, layer.declared_factor
    if measured is None or not measured > 0 or not declared > 0 or not math.isfinite(measured / declared):
        return None
    return measured / declared


def _spread(layer: Layer) -> float:
    """The share of the input's mean square that is not its mean: what rows that sum to zero let pass."""
    before = layer.calls[0].input
    return 1 - (before.mean / before.rms) ** 2 if before and 0 < before.mean**2 < before.rms**2 else 1.0


def _plausible(layer: Layer, ratio: float) -> bool:
    """Whether chance, or the padding of a convolution, may account for the ratio."""
    if is_depthwise(layer) or (ratio < 1 and any(size > 1 for size in layer.weight.shape[2:])):
        return True
    before = layer.calls[0].pre_activation
    low, high = ratio_band(_KAPPA, before.units if before else 1, _CHANCE)
    return low < ratio < high


RULE = Rule(
    code="IA310",
    name="factor-disagrees",
    severity=Severity.WARNING,
    limit=Limit(
        _WARN, "measured factor over the declared one", "Gamma law of a mean over the units: Hanin & Nica 2020"
    ),
    check=check,
)
