"""Layers that deviate from the fan-in rule though the signal survives: for the rules on the scale of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from initaudit.rules.base import Observation
from initaudit.rules.drift import SIGNIFICANT, judged_segments
from initaudit.rules.flow import Flow, Step

FACTOR_TWO = 2 * math.log(2)  # in ln Var[w]


def deviating(flow: Flow) -> Iterator[Step]:
    """Layers, once each, that deviate by more than chance where nothing takes the scale away again."""
    seen = set()
    for segment in judged_segments(flow):
        for step in segment.layers:
            assert step.layer is not None
            chance = 8 * step.layer.weight.std_uncertainty  # four standard errors, of the variance
            if abs(step.deviation) > max(SIGNIFICANT, chance) and step.layer.fqn not in seen:
                seen.add(step.layer.fqn)
                yield step


def is_fan_out(step: Step) -> bool:
    """Whether the weight has the std that ``fan_out`` would ask for, where that is another than ``fan_in``."""
    layer = step.layer
    if layer is None or not layer.weight.rms > 0:
        return False
    apart = abs(math.log(layer.fan_out / layer.fan_in))
    return apart > SIGNIFICANT and abs(step.deviation + math.log(layer.fan_out / layer.fan_in)) < min(0.15, apart / 4)


def one_observation(steps: list[Step], say: Callable[[Step], str]) -> Iterator[Observation]:
    """All of ``steps`` as one observation at the first."""
    if not steps:
        return
    first = steps[0]
    assert first.layer is not None
    yield Observation(
        fqn=first.layer.fqn,
        message=say(first),
        observed=math.exp(first.deviation / 2),
        affected=tuple(s.layer.fqn for s in steps[1:] if s.layer),
        layer=first.layer,
    )
