"""Biases that drown the signal.

## What it measures
The mean square of the bias against `fan_in * E[w^2] * E[x^2]`, the mean square of what the layer makes of its
measured input.

## Why it matters
The bias is the same for every sample. In `Var[z] = fan_in * Var[w] * E[x^2] + Var[b]` it is the part that tells no
input from another: at a ratio r the pre-activations of two unrelated samples have a cosine of `r / (1 + r)`, and
the next layer starts from there.

## Example that fires

```python
from torch import nn

model = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 4))
for layer in model[::2]:
    nn.init.xavier_normal_(layer.weight, gain=1.6)
    nn.init.normal_(layer.bias, std=6.0)
```

## Remedy
`nn.init.zeros_(layer.bias)`: a bias has no symmetry to break.

## Limit and where it comes from
4: two unrelated samples leave the layer with a cosine of 0.8. Judged only where the input is healthy (rms of at
least 0.25): where it has vanished any bias is larger, and the vanishing is the fault. A note on output layers (a
bias of minus the log odds of the classes is a good start) and on layers followed by a sigmoid or softplus, whose
bias sets how far a gate is open. Not judged: recurrent layers (a forget bias of 1 is advised), biases that a batch
norm removes, weights of zeros, torch's default bias on fewer than 8 inputs.

## References
Schoenholz et al. 2017, "Deep Information Propagation", arXiv:1611.01232, equation 5 (the correlation map with
Var[b]). Lin et al. 2017, "Focal Loss for Dense Object Detection", arXiv:1708.02002, section 4.1; Jozefowicz et al.
2015, "An Empirical Exploration of Recurrent Network Architectures", section 2.2 (biases that are meant).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from initaudit.records import Layer, Role, Severity, Trace
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.paths import downstream, listing, multiplies
from initaudit.rules.wording import zero_bias

if TYPE_CHECKING:
    from initaudit.rules.flow import Flow

HEALTHY_RMS = 0.25  # below it even torch's default bias, U(±1/sqrt(fan_in)), may weigh 4 times a narrow layer's signal
LIMIT = 4.0
_FEW_INPUTS = 8  # of which a draw is too uncertain to say more than torch's default bias does
GATES = frozenset({"sigmoid", "softplus", "hardsigmoid", "logsigmoid"})


def check(flow: Flow) -> Iterator[Observation]:
    """Yield one observation for the layers where a bias harms and one for those where it may be meant."""
    seen: dict[Severity, list[tuple[Layer, float]]] = {}
    for layer in (layer for layer in flow.trace.layers if multiplies(flow.trace, layer)):
        if (ratio := _ratio(layer)) > LIMIT and (severity := _severity(flow.trace, layer)):
            seen.setdefault(severity, []).append((layer, ratio))
    for severity, members in seen.items():
        layer, ratio = members[0]
        rest = tuple(other.fqn for other, _ in members[1:])
        rms = layer.bias.rms if layer.bias else 0.0
        yield Observation(
            fqn=layer.fqn,
            message=(
                f"the bias (rms {rms:.3g}) adds {ratio:.3g} times what the input adds to the pre-activation, and it "
                "is the same for every sample" + (f" (also {listing(rest)})" if rest else "")
            ),
            observed=ratio,
            severity=severity,
            affected=rest,
            code=zero_bias(layer),
        )


def _ratio(layer: Layer) -> float:
    source = layer.calls[0].input
    if layer.bias is None or source is None or layer.repeats > 1:
        return 0.0
    if layer.fan_in < _FEW_INPUTS and layer.bias.rms <= layer.fan_in**-0.5:
        return 0.0
    signal = layer.weight.rms * source.rms
    share = layer.bias.rms / signal if source.rms >= HEALTHY_RMS and signal > 0 else 0.0
    return share * share / layer.fan_in  # `**` raises where the square is beyond what a float holds


def _severity(trace: Trace, layer: Layer) -> Severity | None:
    reached = downstream(trace.ops, [layer.calls[0].op], passes=lambda op: op.role is Role.VIEW)
    if any(op.role is Role.NORM and op.over_batch for op in reached):
        return None
    later = downstream(trace.ops, [layer.calls[0].op])
    output = not any(op.role is Role.LAYER for op in later)
    open_roles = (Role.VIEW, Role.ACTIVATION, Role.SCALE)
    direct = downstream(trace.ops, [layer.calls[0].op], passes=lambda op: op.role in open_roles)
    gate = layer.nonlinearity is not None and layer.nonlinearity.name in GATES
    gate = gate or any(op.role is Role.GATE for op in direct)
    return Severity.NOTE if output or gate else Severity.WARNING


RULE = Rule(
    code="IA306",
    name="bias-dominates",
    severity=Severity.WARNING,
    limit=Limit(LIMIT, unit="times the share of the input", source="Schoenholz et al. 2017, eq. 5: a cosine of 0.8"),
    check=check,
)
