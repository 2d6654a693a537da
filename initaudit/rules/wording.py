"""The sentences that several rules share."""

from __future__ import annotations

import math

from initaudit.rules.base import Observation
from initaudit.rules.drift import Drift
from initaudit.rules.flow import Step

_HARD = {
    "sigmoid": 0.236,
    "hardsigmoid": 0.167,
    "softplus": 0.56,
    "logsigmoid": 0.56,
}  # rms of the signal kept per layer under the variance-preserving gain's own best case: sqrt(chi_1)


def figure(value: float) -> str:
    """Three significant digits, the way a person would write them."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"


def observe_drift(found: Drift, what: str) -> Observation:
    """A drift through depth as an observation at the layer that starts it, with the cure where weights are the cause."""
    steps = found.segment.layers
    first = found.first
    assert first.layer is not None
    names = [s.layer.fqn for s in steps if s.layer]
    span = f"from {names[0]} to {names[-1]}" if len(set(names)) > 1 else f"at {names[0]}"
    per_layer = math.exp(found.amount / (2 * len(steps))) if math.isfinite(found.amount) else 0.0
    if found.amount == -math.inf:
        message = f"{what} to nothing {span}"
    else:
        message = f"{what} by a factor of {figure(found.factor)} {span}"
        message += f", {figure(per_layer)} per layer over {len(steps)} layers" if len(steps) > 1 else ""
    reason = _blame(found.culprits) if found.culprits else _hard_activation(first)
    message += f"; {reason}" if reason else ""
    return Observation(
        fqn=first.layer.fqn,
        message=message,
        observed=found.factor,
        limit=math.exp(found.limit / 2),
        severity=found.severity,
        affected=found.affected,
        layer=first.layer if found.culprits else None,
    )


def _blame(culprits: tuple[Step, ...]) -> str:
    first = culprits[0]
    assert first.layer is not None
    weight = first.layer.weight
    ratio = math.exp(first.deviation / 2)
    more = f", as has each of {len(culprits) - 1} more" if len(culprits) > 1 else ""
    looks = f" and looks like {weight.init}" if weight.init not in ("unknown", "") else ""
    return f"its weight has std {figure(weight.std)}{looks}, {figure(ratio)} times what the variance rule asks for{more}"


def _hard_activation(first: Step) -> str | None:
    activation = first.call.nonlinearity if first.call else None
    if activation is None:
        return None
    if activation.name in _HARD:
        return (
            f"a {activation.name} passes on at best {figure(_HARD[activation.name])} of the signal's rms per layer, "
            "which no initialization cures: use another activation, a normalization layer or residual connections"
        )
    return None
