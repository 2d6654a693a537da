"""A bias that holds a gate of a recurrence shut, or a forget gate that starts half shut.

## What it measures

How far each gate of an LSTM or a GRU is open on the sample input, on the average, and the two biases that torch adds
up for it (`bias_ih` and `bias_hh`).

## Why it matters

An LSTM keeps what its forget gate lets through. With a bias of 0 that is half per step; with one far below, nothing.
A shut output gate hides the state, a shut input gate keeps everything out of it, and a shut gate passes no gradient
that would open it. Setting "the" forget bias to 1 in a loop over parameters sets both, and makes it 2.

## Example that fires

```python
import torch
from torch import nn

model = nn.LSTM(32, 64, batch_first=True)
nn.init.constant_(model.bias_ih_l0[64:128], -10.0)  # the forget gate is the second of four
inputs = torch.randn(8, 20, 32)
```

## Remedy

A forget bias of 1 in one of the two vectors, 0 elsewhere; for dependencies over `T` steps, `ln U(1, T-1)` for the
forget gate and its negative for the input gate.

## Limit and where it comes from

A gate that is open to less than 5% on the average is a warning, when no other gate makes up for it: what an input gate
lets in adds up where the forget gate is open, as in the chrono initialization. A forget bias of 0, torch's default, is
a note on sequences longer than its memory (mean square below `exp(-6)` at the end), and so is one of 2.

## References

Gers et al. 2000, Learning to Forget; Jozefowicz et al. 2015, An Empirical Exploration of Recurrent Network
Architectures (forget bias 1); Tallec & Ollivier 2018 (arXiv:1804.11188), chrono initialization.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from initaudit.records import Gate, Recurrence, Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.drift import WARN
from initaudit.rules.flow import Flow
from initaudit.rules.recurrences import log_retention, state_layer
from initaudit.rules.wording import figure

_SHUT = 0.05
_NEAR_ZERO = 0.5  # of the forget bias 1 that is recommended
_PLACE = {"input": 0, "forget": 1, "output": 3, "reset": 0, "update": 1}  # among the gates that torch stacks


def check(flow: Flow) -> Iterator[Observation]:
    """What the page above describes: one observation for each kind of fault, at the first bias that has it."""
    for shut, harm in _FAULTS:
        yield from _observe(flow, shut, harm, Severity.WARNING)
    yield from _observe(flow, _doubled, _say_doubled, Severity.NOTE)
    yield from _observe(flow, _half_shut, _say_half_shut, Severity.NOTE)


def _gate(recurrence: Recurrence, name: str) -> Gate | None:
    return next((g for g in recurrence.gates if g.name == name), None)


def _bias(gate: Gate) -> float:
    return gate.input_bias + gate.state_bias


def _erasing(r: Recurrence) -> Gate | None:
    """A forget gate that is shut; in a GRU the update gate is what keeps the state."""
    gate = _gate(r, "forget") or _gate(r, "update")
    return gate if gate is not None and gate.open < _SHUT else None


def _hiding(r: Recurrence) -> Gate | None:
    gate = _gate(r, "output")
    return gate if gate is not None and gate.open < _SHUT else None


def _keeping_out(r: Recurrence) -> Gate | None:
    """An input gate that lets in less than the forget gate lets go, or an update gate that never lets anything in."""
    write, forget = _gate(r, "input"), _gate(r, "forget")
    if write is not None and forget is not None:
        return write if write.open < _SHUT * max(1 - forget.open, 1e-6) else None
    update = _gate(r, "update")
    return update if update is not None and r.steps * (1 - update.open) < _SHUT else None


def _doubled(r: Recurrence) -> Gate | None:
    gate = _gate(r, "forget")
    return gate if gate is not None and min(gate.input_bias, gate.state_bias) > 0.9 and _bias(gate) < 2.5 else None


def _half_shut(r: Recurrence) -> Gate | None:
    gate = _gate(r, "forget")
    near = gate is not None and abs(_bias(gate)) < _NEAR_ZERO and r.steps * log_retention(r) < -WARN
    return gate if near else None


_Find = Callable[[Recurrence], "Gate | None"]
_Say = Callable[[Recurrence, Gate], str]
_FAULTS: tuple[tuple[_Find, _Say], ...] = (
    (_erasing, lambda r, g: f"keeps {figure(g.open)} of the state at each step, so the {r.kind.upper()} has no memory"),
    (_hiding, lambda r, g: f"lets out {figure(g.open)} of the state, so nothing of it reaches the next layer"),
    (
        _keeping_out,
        lambda r, g: (
            f"lets in {figure(1 - g.open if g.name == 'update' else g.open)} of what is new at each step, "
            f"so hardly anything is written in {r.steps} steps"
        ),
    ),
)


def _say_doubled(r: Recurrence, gate: Gate) -> str:
    return f"has a bias of {figure(_bias(gate))}: torch adds bias_ih and bias_hh, and both were set; set one of them"


def _say_half_shut(r: Recurrence, gate: Gate) -> str:
    half = figure(math.log(2) / -log_retention(r)) if r.retention > 0 else "0"
    return (
        f"starts at {figure(gate.open)}: the memory of the state halves every {half} steps in mean square, and the "
        f"input has {r.steps}; a forget bias of 1 is usual (Jozefowicz 2015)"
    )


def _observe(flow: Flow, find: _Find, say: _Say, severity: Severity) -> Iterator[Observation]:
    found = [(r, gate) for r in flow.trace.recurrences if (gate := find(r)) is not None]
    if not found:
        return
    r, gate = found[0]
    names = [_bias_name(other) for other, _ in found]
    yield Observation(
        fqn=names[0],
        message=f"the {gate.name} gate {say(r, gate)}"
        + (f"; its bias has mean {figure(_bias(gate))}" if severity is Severity.WARNING else ""),
        observed=gate.open,
        severity=severity,
        affected=tuple(n for n in dict.fromkeys(names) if n != names[0]),
        code=_cure(flow, r, gate),
    )


def _bias_name(r: Recurrence) -> str:
    """The bias beside the input's weight, by the name that torch gives it."""
    return r.weight.replace("weight_hh", "bias_ih")


def _cure(flow: Flow, r: Recurrence, gate: Gate) -> str | None:
    """Set the one bias, so that the sum is right."""
    layer = state_layer(flow, r)
    if layer is None or "weight_hh" not in layer.weight_access:
        return None
    start = _PLACE[gate.name] * r.hidden_size
    value = (1.0 if gate.name == "forget" else 0.0) - (gate.state_bias if abs(gate.state_bias) > 0.1 else 0.0)
    bias = layer.weight_access.replace("weight_hh", "bias_ih")
    return f"nn.init.constant_({bias}[{start}:{start + r.hidden_size}], {value:.4g})"


RULE = Rule(
    code="IA308",
    name="gate-bias",
    severity=Severity.WARNING,
    limit=Limit(_SHUT, "of the gate open, on the average", "Jozefowicz 2015; Tallec & Ollivier 2018"),
    check=check,
)
