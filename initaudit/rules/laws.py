"""The laws a model draws its parameters from, read off the parameters themselves: a std for all, or a rule of the fan.

Authors write one initializer and call it for every layer. What most parameters of a kind agree on is therefore the
author's intention, and a parameter that agrees with none of it was written by something else.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from initaudit.records import Layer, Op, Parameter, Role, Trace
from initaudit.rules.flow import accepted_gains
from initaudit.rules.paths import behind, is_bias, multiplies

AGREE = 0.1  # in ln rms: what draws from one law may differ by
HABIT = 0.6  # share of a kind of parameters that makes what they agree on a habit
_TORCH_DEFAULT = "kaiming_uniform(a=sqrt(5)"


def block_of(fqn: str) -> str:
    """The numbered part that a parameter belongs to (``h.3`` of ``h.3.mlp.weight``), else its module."""
    numbered = re.match(r"(?:[^.]+\.)*?\d+(?=\.)", fqn)
    return numbered[0] if numbered else fqn.rpartition(".")[0]


def near(a: float, b: float) -> bool:
    """Whether two root mean squares may come from one law."""
    return a > 0 and b > 0 and abs(math.log(a / b)) < AGREE


def trained(parameter: Parameter) -> bool:
    """Whether there is a start to judge: written, finite and to be trained."""
    return math.isfinite(parameter.rms) and not parameter.unwritten and parameter.requires_grad


def is_torch_default(parameter: Parameter) -> bool:
    """Whether the values look as ``reset_parameters`` of torch's own layers leaves them."""
    return parameter.init.startswith(_TORCH_DEFAULT)


@dataclass(frozen=True)
class Laws:
    """What the parameters of one trace agree on."""

    trace: Trace

    @cached_property
    def layers(self) -> dict[str, Layer]:
        """The layers that multiply the signal by a matrix or a kernel, by the name of their weight."""
        ops = self.trace.ops
        return {
            layer.weight.fqn: layer
            for layer in self.trace.layers
            if multiplies(self.trace, layer) and any(ops[call.op].moving for call in layer.calls)
        }

    @cached_property
    def gains(self) -> list[Parameter]:
        """The gains of normalizations: what a normalization multiplies by, itself or, written by hand, right after.

        What multiplies a normalized value that something else reads as it is (the skip of a state space) is no gain.
        """
        ops = self.trace.ops
        names: set[str] = set()
        for op in ops:
            if op.role is Role.NORM:
                names.update(op.parameters)
            if op.role is Role.NORM or (op.name.startswith("mul") and any(self._is_normalized(i) for i in op.inputs)):
                names.update(*(behind(self.trace, i) for i in op.inputs))
        vectors = (p for p in self.trace.parameters if p.fqn in names and 1 < math.prod(p.shape) == max(p.shape))
        return [p for p in vectors if not is_bias(p)]

    def _is_normalized(self, i: int) -> bool:
        """Whether op ``i`` shows the output of a normalization, in another dtype or shape perhaps, to one reader."""
        ops = self.trace.ops
        while ops[i].role is Role.VIEW and ops[i].inputs and self._readers[i] == 1:
            i = ops[i].inputs[0]
        return ops[i].role is Role.NORM and self._readers[i] == 1

    @cached_property
    def _readers(self) -> Counter[int]:
        """How many operations read each, by its id."""
        return Counter(i for op in self.trace.ops for i in set(op.inputs))

    @cached_property
    def embeddings(self) -> set[str]:
        """The names of weights that are looked up, tied heads included; also softly, as a mean that softmax weighs."""
        ops = self.trace.ops
        calls = ((layer.weight.fqn, call) for layer in self.trace.layers for call in layer.calls)
        return {fqn for fqn, call in calls if ops[call.op].role is Role.EMBEDDING or _is_weighed(ops, call.input_op)}

    @cached_property
    def biases(self) -> list[Parameter]:
        return [layer.bias for layer in self.layers.values() if layer.bias is not None]

    @cached_property
    def _names(self) -> tuple[set[str], set[str]]:
        return {p.fqn for p in self.gains}, {p.fqn for p in self.biases}

    @cached_property
    def _drawn(self) -> list[Parameter]:
        """Everything that a scale can be shared with: matrices, kernels and embeddings."""
        return [p for p in self.trace.parameters if len(p.shape) > 1 and p.rms > 0 and math.isfinite(p.rms)]

    @cached_property
    def habit(self) -> float | None:
        """The rms that most weights of the model share, whatever their fans.

        What torch's default gives most of them is one rms only because they are of one width.
        """
        rms, count = _most_shared([p.rms for p in self._drawn])
        if len(self._drawn) < 4 or count < HABIT * len(self._drawn):
            return None
        backers = [p for p in self._drawn if near(p.rms, rms)]
        return rms if sum(map(is_torch_default, backers)) <= len(backers) / 2 else None

    @cached_property
    def _scales_by_fan_in(self) -> bool:
        """Whether the model's weights agree better on a std times the root of the fan-in than on a std."""
        layers = [layer for layer in self.layers.values() if layer.weight.rms > 0]
        by_std = _most_shared([layer.weight.rms for layer in layers])[1]
        return _most_shared([_gain_of(layer) for layer in layers])[1] > by_std

    def backers(self, parameter: Parameter, apart_from: Iterable[str] = ()) -> int:
        """How many weights outside the blocks ``apart_from`` share its std, or gain, whichever the model keeps to."""
        excluded = set(apart_from)
        others = [p for p in self._drawn if p.fqn != parameter.fqn and block_of(p.fqn) not in excluded]
        layer = self.layers.get(parameter.fqn)
        if layer is None or not self._scales_by_fan_in:
            return sum(near(parameter.rms, p.rms) for p in others)
        return sum(near(_gain_of(layer), _gain_of(self.layers[p.fqn])) for p in others if p.fqn in self.layers)

    def is_alone(self, layer: Layer) -> bool:
        """Whether no other weight has its std, or its std in terms of the fan-in."""
        by_std = sum(near(layer.weight.rms, p.rms) for p in self._drawn)
        by_gain = sum(near(_gain_of(layer), _gain_of(other)) for other in self.layers.values())
        return max(by_std, by_gain) <= 1  # that is itself

    def is_computed(self, layer: Layer) -> bool:
        """Whether the weight is made from its parameter, which sets its scale: normalized, say, or standardized."""
        held = self._rms.get(layer.weight.fqn)
        return held is not None and held != layer.weight.rms

    @cached_property
    def _rms(self) -> dict[str, float]:
        return {p.fqn: p.rms for p in self.trace.parameters}

    def is_usual(self, parameter: Parameter) -> bool:
        """Whether the parameter is what nearly all of its kind in the model are."""
        if len(parameter.shape) > 1:
            return self.habit is not None and near(parameter.rms, self.habit)
        if not parameter.constant:
            return False
        is_gain, is_added = parameter.fqn in self._names[0], parameter.fqn in self._names[1]
        return parameter.min == (self.usual_gain if is_gain else self._usual_bias if is_added else None)

    def beyond(self, parameter: Parameter) -> float:
        """By what factor a weight is outside of all that common rules give; 1 inside, and for the model's habit."""
        layer = self.layers.get(parameter.fqn)
        if layer is None or self.is_usual(parameter):
            return 1.0
        low, high = self.range_of(layer)
        return max(1.0, low / parameter.rms, parameter.rms / high) if parameter.rms > 0 else math.inf

    def range_of(self, layer: Layer) -> tuple[float, float]:
        """:func:`lawful_range` with the fans as they are and as they are read from the shape, with which authors draw.

        ``torch.nn.init`` takes all outputs of a grouped convolution together, and nobody's fan-out knows of the stride.
        """
        return lawful_range(layer, *self.fans_by_shape(layer))

    def fans_by_shape(self, layer: Layer) -> tuple[float, ...]:
        """Fan-in and fan-out as ``torch.nn.init`` reads them, and the fan-out of one group where there are several."""
        fan_in, fan_out = layer.torch_fan_in or layer.fan_in, layer.torch_fan_out or layer.fan_out
        call = layer.calls[0] if layer.calls else None
        name = self.trace.ops[call.op].name if call is not None else ""
        if call is None or call.input_op is None or not name.startswith("conv") or "transpose" in name:
            return fan_in, fan_out, fan_out
        shape, weight = self.trace.ops[call.input_op].shape, layer.weight.shape
        channels = shape[-len(weight) + 1] if len(shape) > len(weight) - 2 else weight[1]
        return fan_in, fan_out, fan_out * weight[1] / channels

    @cached_property
    def usual_gain(self) -> float | None:
        """The one value that most gains of normalizations have."""
        return _shared(self.gains)

    @cached_property
    def _usual_bias(self) -> float | None:
        return _shared(self.biases)


def _gain_of(layer: Layer) -> float:
    return layer.weight.rms * math.sqrt(layer.fan_in)


def _most_shared(values: Sequence[float]) -> tuple[float, int]:
    """The value that most of ``values``, all positive, are near to, and how many these are."""
    logs = sorted(math.log(value) for value in values)
    near_by = ((bisect_left(logs, x + AGREE) - bisect_right(logs, x - AGREE), x) for x in logs)
    count, best = max(near_by, default=(0, 0.0))
    return math.exp(best), count


def _is_weighed(ops: Sequence[Op], i: int | None) -> bool:
    """Whether op ``i`` shows the shares that a softmax gives."""
    while i is not None and ops[i].role is Role.VIEW and ops[i].inputs:
        i = ops[i].inputs[0]
    return i is not None and "softmax" in ops[i].name and "log" not in ops[i].name


def _shared(parameters: Sequence[Parameter]) -> float | None:
    """The constant that most of ``parameters`` are."""
    values = Counter(p.min if p.constant else None for p in parameters)
    ((best, count),) = values.most_common(1) or [(None, 0)]
    return best if len(parameters) > 2 and count >= HABIT * len(parameters) else None


def lawful_range(layer: Layer, *more: float) -> tuple[float, float]:
    """The smallest and the largest std that any common rule gives this layer, whatever the author's taste.

    Glorot & Bengio 2010, He et al. 2015 with either fan or one of ``more``, and torch's own default of
    ``1/sqrt(3 fan_in)``.
    """
    gains = [*accepted_gains(layer.nonlinearity), 1.0, 1 / math.sqrt(3)]
    fans = [layer.fan_in, layer.fan_out, (layer.fan_in + layer.fan_out) / 2, *more]
    stds = [gain / math.sqrt(fan) for gain in gains for fan in fans if fan > 0]
    return min(stds), max(stds)
