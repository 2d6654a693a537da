"""Layers that deviate from the fan-in rule though the signal survives: for the rules on the scale of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from initaudit.rules.base import Observation
from initaudit.rules.drift import SIGNIFICANT, judged_segments
from initaudit.rules.flow import Flow, Step
from initaudit.rules.wording import expected_std

TOO_SMALL, TOO_LARGE = 0.5, 2.0  # of the std that the rule gives


def deviating(flow: Flow) -> Iterator[Step]:
    """Layers, once each, that deviate by more than chance where nothing takes the scale away again.

    A last layer may be small: outputs near zero are a fair start.
    """
    seen = set()
    for segment in judged_segments(flow):
        for step in segment.layers:
            assert step.layer is not None
            chance = 8 * step.layer.weight.std_uncertainty  # four standard errors, of the variance
            small_end = step.deviation < 0 and step is segment.layers[-1]
            if abs(step.deviation) > max(SIGNIFICANT, chance) and step.layer.fqn not in seen and not small_end:
                seen.add(step.layer.fqn)
                yield step


def is_fan_out(step: Step) -> bool:
    """Whether the weight has the std that ``fan_out`` would ask for, where that is another than ``fan_in``."""
    layer = step.layer
    if layer is None or not layer.weight.rms > 0:
        return False
    apart = abs(math.log(layer.fan_out / layer.fan_in))
    return apart > SIGNIFICANT and abs(step.deviation + math.log(layer.fan_out / layer.fan_in)) < min(0.15, apart / 4)


def ratio(step: Step) -> float:
    """The weight's rms over what the rule gives with the gain of the activation that follows."""
    assert step.layer is not None
    return step.layer.weight.rms / expected_std(step)


def one_observation(steps: list[Step], say: Callable[[Step], str]) -> Iterator[Observation]:
    """All of ``steps`` as one observation at the first."""
    if not steps:
        return
    first = steps[0]
    assert first.layer is not None
    yield Observation(
        fqn=first.layer.fqn,
        message=say(first),
        observed=ratio(first),
        affected=tuple(s.layer.fqn for s in steps[1:] if s.layer),
        layer=first.layer,
    )
