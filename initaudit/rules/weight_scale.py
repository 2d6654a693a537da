"""Layers that deviate from the fan-in rule though the signal survives: for the rules on the scale of weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from initaudit.records import Severity
from initaudit.rules.base import Observation
from initaudit.rules.drift import SIGNIFICANT
from initaudit.rules.flow import Flow, Step
from initaudit.rules.laws import is_torch_default, lawful_range
from initaudit.rules.wording import describe_weight, expected_std

TOO_SMALL, TOO_LARGE = 0.5, 2.0  # of the std that the rule gives
_FAR_OFF = 2 * math.log(4)  # in ln Var[w]: a factor of four in std


def deviating(flow: Flow) -> Iterator[Step]:
    """Layers, once each, that deviate by more than chance where nothing takes the scale away again.

    A last layer may be small: outputs near zero are a fair start.
    """
    seen = set()
    for segment in flow.judged:
        for step in segment.layers:
            assert step.layer is not None
            chance = 8 * step.layer.weight.std_uncertainty  # four standard errors, of the variance
            small_end = step.deviation < 0 and not segment.fails_a_norm and step is segment.layers[-1]
            if abs(step.deviation) > max(SIGNIFICANT, chance) and step.layer.fqn not in seen and not small_end:
                seen.add(step.layer.fqn)
                yield step


def is_fan_out(step: Step) -> bool:
    """Whether the weight has the std that ``fan_out`` would ask for, where that is another than ``fan_in``.

    torch's default is nobody's choice of it, though its ``1/(3 fan_in)`` is ``1/fan_out`` where that is three times
    as large.
    """
    layer = step.layer
    if layer is None or not layer.weight.rms > 0 or is_torch_default(layer.weight):
        return False
    apart = abs(math.log(layer.fan_out / layer.fan_in))
    return apart > SIGNIFICANT and abs(step.deviation + math.log(layer.fan_out / layer.fan_in)) < min(0.15, apart / 4)


def ratio(step: Step) -> float:
    """The weight's rms over what the rule gives with the gain of the activation that follows."""
    assert step.layer is not None
    return step.layer.weight.rms / expected_std(step)


@dataclass(frozen=True, slots=True)
class Company:
    """The layers of a segment: how many, how many keep to the rule, and of those with unequal fans to which of them."""

    size: int
    fitting: int
    by_fan_in: int
    by_fan_out: int


def companies(flow: Flow) -> dict[int, Company]:
    """The company of each layer's step, by the step's ``id()``."""
    found = {}
    for segment in flow.judged:
        unequal = [
            s for s in segment.layers if s.layer and abs(math.log(s.layer.fan_out / s.layer.fan_in)) > SIGNIFICANT
        ]
        company = Company(
            size=len(segment.layers),
            fitting=sum(abs(s.deviation) <= SIGNIFICANT for s in segment.layers),
            by_fan_in=sum(abs(s.deviation) <= SIGNIFICANT for s in unequal),
            by_fan_out=len({s.layer.fqn for s in unequal if s.layer and is_fan_out(s)}),
        )
        found.update({id(step): company for step in segment.layers})
    return found


def is_slip(step: Step, company: Company) -> bool:
    """Whether a layer is far off, or left at torch's default, where the layers around it mostly keep to the rule."""
    assert step.layer is not None
    if abs(step.deviation) <= _FAR_OFF and not is_torch_default(step.layer.weight):
        return False
    low, high = lawful_range(step.layer)
    if not is_torch_default(step.layer.weight) and low < step.layer.weight.rms < high:
        return False  # Glorot's rule, say, where the fans are far apart
    return company.size > 2 and company.fitting >= 2 / 3 * (company.size - 1)


def note(steps: list[Step], ending: str) -> Iterator[Observation]:
    """All of ``steps`` as one note at the first."""
    if not steps:
        return
    first = steps[0]
    assert first.layer is not None
    yield Observation(
        fqn=first.layer.fqn,
        message=f"{describe_weight(first)}{ending}",
        observed=ratio(first),
        severity=Severity.NOTE,
        affected=tuple(s.layer.fqn for s in steps[1:] if s.layer),
        layer=first.layer,
    )


def slips_and_notes(flow: Flow, steps: list[Step], ending: str) -> Iterator[Observation]:
    """A warning at each of ``steps`` that is a slip among layers that keep to the rule; the rest as one note."""
    around = companies(flow)
    slips = {id(step) for step in steps if is_slip(step, around[id(step)])}
    yield from warnings_and_note(steps, slips, "; the layers around it keep to the rule", ending)


def warnings_and_note(steps: list[Step], odd: set[int], why: str, ending: str) -> Iterator[Observation]:
    """A warning at each of ``steps`` whose ``id()`` is in ``odd``, and the others as one note."""
    for step in steps:
        if step.layer is not None and id(step) in odd:
            yield Observation(
                fqn=step.layer.fqn,
                message=f"{describe_weight(step)}{why}",
                observed=ratio(step),
                severity=Severity.WARNING,
                layer=step.layer,
            )
    yield from note([step for step in steps if id(step) not in odd], ending)
