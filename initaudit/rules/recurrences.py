"""What the rules on recurrences share."""

from __future__ import annotations

import math

from initaudit.records import Layer, Recurrence
from initaudit.rules.flow import Flow

SATURATED = 0.3  # share of gates at their flat ends: see the rule saturated-gates


def state_layer(flow: Flow, recurrence: Recurrence) -> Layer | None:
    """The layer that multiplies the state."""
    return next((layer for layer in flow.trace.layers if layer.weight.fqn == recurrence.weight), None)


def name(flow: Flow, recurrence: Recurrence) -> str:
    """The layer's path, as findings name it."""
    layer = state_layer(flow, recurrence)
    return layer.fqn if layer is not None else recurrence.weight or flow.trace.ops[recurrence.op].scope


def log_retention(recurrence: Recurrence) -> float:
    """``ln`` of what a step multiplies the mean square of a change by; minus infinity where nothing is left."""
    return math.log(recurrence.retention) if recurrence.retention > 0 else -math.inf


def gain(layer: Layer) -> float:
    """``std * sqrt(fan_in)``: the spectral radius of a large matrix of independent numbers."""
    return layer.weight.rms * math.sqrt(layer.fan_in)
