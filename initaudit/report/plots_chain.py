"""The layers of an audit in the order they ran, with what a figure shows of each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from initaudit.records import Layer, Report, Role, Stats, Trace
from initaudit.report.glyphs import UNICODE
from initaudit.report.merge import merge
from initaudit.theory.variance import predicted_mean_square

NAME = 20  # characters of a layer's name


@dataclass(frozen=True, slots=True)
class Passage:
    """One layer that ran: its pre-activations, what the next one reads, its gradients, over all its calls.

    ``predicted`` is the rms of the pre-activations as the variance rule has it: from the weights and the input's rms.
    """

    number: int
    name: str
    before: Stats | None
    after: Stats | None
    activated: bool
    gradient: Stats | None
    predicted: float | None


@dataclass(frozen=True, slots=True)
class Chain:
    """The layers of one audit. ``plain``: nothing in the model sets the scale anew, so both ends can be compared."""

    title: str
    passages: tuple[Passage, ...]
    plain: bool

    def depth_of(self, passage: Passage) -> float:
        """Where a layer stands: 0 for the first, 1 for the last."""
        return (passage.number - 1) / max(1, len(self.passages) - 1)

    @property
    def read(self) -> tuple[Passage, ...]:
        """The layers whose output another one reads: not the last, unless an activation follows it."""
        return self.passages if len(self.passages) < 2 or self.passages[-1].activated else self.passages[:-1]

    @property
    def carried(self) -> tuple[Passage, ...]:
        """The layers that have a gradient, but for the one next to the loss, whose gradient is the loss's own."""
        found = tuple(passage for passage in self.passages if passage.gradient is not None)
        return found[:-1] or found


def chain_of(report: Report, title: str) -> Chain:
    """What there is to draw of ``report``; no layers where nothing ran."""
    trace = report.trace
    if trace is None:
        return Chain(title, (), plain=False)
    ran = [layer for layer in trace.layers if layer.calls]
    passages = tuple(_passage(number, layer, trace) for number, layer in enumerate(ran, start=1))
    plain = not any(op.role in (Role.NORM, Role.EMBEDDING) for op in trace.ops) and not trace.recurrences
    return Chain(title, passages, plain)


def _passage(number: int, layer: Layer, trace: Trace) -> Passage:
    before = merge(call.pre_activation for call in layer.calls)
    after = merge(call.activation for call in layer.calls)
    return Passage(
        number=number,
        name=UNICODE.middle(layer.fqn or "(model)", NAME),
        before=before,
        after=after or before,
        activated=after is not None,
        gradient=merge(call.gradient for call in layer.calls),
        predicted=_predicted(layer, trace),
    )


def _predicted(layer: Layer, trace: Trace) -> float | None:
    """``sqrt(fan_in E[w^2] E[x^2] + E[b^2])``; ``None`` where the layer is more than one sum of products."""
    fed = merge(call.input for call in layer.calls)
    recurrent = {recurrence.op for recurrence in trace.recurrences}
    if fed is None or not layer.fan_in > 0 or any(call.op in recurrent for call in layer.calls):
        return None
    bias = layer.bias.rms**2 if layer.bias else 0.0
    square = predicted_mean_square(layer.fan_in, layer.weight.rms**2, fed.rms**2, bias)
    return math.sqrt(square) if square >= 0 else None
