"""The sentences that several rules share."""

from __future__ import annotations

import json
import math
from keyword import iskeyword

from initaudit.records import Layer, Role
from initaudit.rules.base import Observation
from initaudit.rules.drift import SIGNIFICANT, Drift
from initaudit.rules.flow import Step
from initaudit.theory.variance import std_for


def figure(value: float) -> str:
    """Three significant digits, the way a person would write them."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"


def parameter_at(fqn: str) -> str:
    """The expression of a parameter below a model ``m``, whatever its name."""
    return f"m.get_parameter({json.dumps(fqn, ensure_ascii=False)})"


def zero_bias(layer: Layer) -> str | None:
    """The line that takes off the layer's bias."""
    if layer.bias is None:
        return None
    owner, _, leaf = layer.bias.fqn.rpartition(".")
    beside = owner in (layer.fqn, layer.weight.fqn.rpartition(".")[0])
    named = beside and leaf.isidentifier() and not iskeyword(leaf)
    return f"nn.init.zeros_({f'{layer.access}.{leaf}' if named else parameter_at(layer.bias.fqn)})"


def observe_drift(found: Drift, what: str) -> Observation:
    """A drift through depth as an observation at the layer that starts it, cured where weights are the cause."""
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
        if len(steps) > 1 and found.leap is None:
            message += f", {figure(per_layer)} per layer over {len(steps)} layers"
    reason = _blame(found.culprits) if found.culprits else _blame_others(found)
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
    more = f", and {len(culprits) - 1} more deviate likewise" if len(culprits) > 1 else ""
    return f"{describe_weight(culprits[0])}{more}"


def expected_std(step: Step) -> float:
    """``gain / sqrt(fan_in)`` with the gain of the activation that follows (He et al. 2015, eq. 10)."""
    assert step.layer is not None
    after = step.call.nonlinearity if step.call else None
    return std_for(after.gain if after else 1.0, step.layer.fan_in)


def describe_weight(step: Step) -> str:
    """The std found, what it looks like, and what the variance rule asks for."""
    layer = step.layer
    assert layer is not None
    looks = f" ({layer.weight.init})" if layer.weight.init not in ("unknown", "") else ""
    after = step.call.nonlinearity if step.call else None
    expected = expected_std(step)
    before = f"before {after.name}" if after else "with no activation of its own behind it"
    return (
        f"{layer.fqn} has weight std {figure(layer.weight.std)}{looks}, "
        f"{figure(layer.weight.rms / expected)} times the "
        f"{figure(expected)} that fan_in {layer.fan_in:g} asks for {before}"
    )


def _blame_others(found: Drift) -> str | None:
    """What drives a drift that the weights do not account for, where that can be told."""
    if found.leap is not None:
        factor, name = figure(math.exp(found.leap.drift / 2)), found.leap.op.name
        other = " by another signal" if found.leap.op.role is Role.GATE else ""
        assert found.first.layer is not None
        return f"most of it is one step: `{name}` behind {found.first.layer.fqn}{other} makes a factor of {factor}"
    joins = [s for s in found.segment.steps if s.op.role is Role.JOIN and s.drift > 0]
    if found.amount > 0:
        if sum(s.drift for s in joins) < found.amount / 2:
            return None
        return (
            f"it comes from {len(joins)} sums with residual branches: scale the last layer of each branch by "
            f"1/sqrt({2 * len(joins)}), start it at zero, or normalize"
        )
    activation = found.first.call.nonlinearity if found.first.call else None
    if activation is None or found.amount == -math.inf:
        return None
    small = any(s.deviation < -SIGNIFICANT for s in found.segment.layers)
    share = "small weights are less than half of it, the rest" if small else "the weights keep to the rule, so it"
    return (
        f"{share} is {activation.name} at this depth: "
        "use another activation, a normalization layer or residual connections"
    )
