"""The signal's way through the graph: what each step does to it, and where its scale is set anew.

The *signal* at a value is what tells one sample from another: its variance across the samples of the batch. A deep
network with biases can keep its mean square while its samples become one; this variance does not hide that.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from initaudit.records import Activation, Layer, LayerCall, Op, Parameter, Role, Stats, Trace
from initaudit.rules.liveness import Liveness
from initaudit.rules.paths import KEPT, behind, is_bias

_RESET = 0.1  # of unit size, from which a normalization did what it is there for
_NORMS_OF_UNIT_RMS = frozenset({"layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm"})
_COUNTED = frozenset({Role.NORM, Role.LAYER, Role.ACTIVATION, Role.SCALE, Role.GATE, Role.JOIN})
RECURRENT = ("lstm", "gru", "rnn")
_GATES = frozenset({"sigmoid", "hardsigmoid"})
_HALF_OPEN = math.log(4)  # what a sigmoid of 1/2 takes of the power

# Differences between samples smaller than this, relative to the rms, are rounding and no signal.
_ROUNDING = {"float64": 1e-15, "float16": 1e-3, "bfloat16": 8e-3}
_ROUNDING_FLOAT32 = 1.2e-7
_CLEAR = 3  # times rounding, for a signal to be there at all


def power(stats: Stats | None) -> float | None:
    """The signal's variance: across samples where there are several, else over all elements."""
    if stats is None:
        return None
    spread = stats.sample_std if stats.sample_std is not None else stats.std
    return spread * spread


def log_ratio(after: float | None, before: float | None) -> float:
    """``ln(after / before)``; 0 where either is unknown or nothing was there, minus infinity where it ends."""
    if after is None or before is None or math.isnan(after) or math.isnan(before) or before <= 0:
        return 0.0
    if after <= 0:
        return -math.inf
    return math.log(after) - math.log(before) if math.isfinite(after) else math.inf


def signal_drift(after: Stats, before: Stats, rounding: float) -> float:
    """``ln`` of the signal's variance after over before; what is left below rounding is taken as rounding."""
    start, end = power(before), power(after)
    if start is None or end is None or start <= (_CLEAR * rounding * before.rms) ** 2:
        return 0.0
    return log_ratio(max(end, (rounding * after.rms) ** 2), start)


@dataclass(frozen=True, slots=True)
class Step:
    """One op on the way; ``drift`` is the natural log of the signal's variance after it over that before it."""

    op: Op
    drift: float
    mean_square_drift: float
    layer: Layer | None = None
    call: LayerCall | None = None
    deviation: float = (
        0.0  # ln of Var[w] found over what the variance rule allows, 0 inside: see :func:`weight_deviation`
    )


@dataclass(frozen=True)
class Segment:
    """A stretch of the way in which nothing sets the scale anew.

    ``ends_normalized``: a normalization follows.
    """

    steps: tuple[Step, ...]
    ends_normalized: bool

    @cached_property
    def layers(self) -> tuple[Step, ...]:
        return tuple(s for s in self.steps if s.layer is not None)

    @cached_property
    def fails_a_norm(self) -> bool:
        """Whether a normalization follows the last layer that cannot bring its output to size: see Flow.resets."""
        last = max((i for i, step in enumerate(self.steps) if step.layer is not None), default=0)
        return any(step.op.role is Role.NORM for step in self.steps[last:])

    @property
    def activations(self) -> int:
        return sum(s.op.role is Role.ACTIVATION or s.op.activation is not None for s in self.steps)

    @property
    def drift(self) -> float:
        """Natural log of the signal's variance at the end over that at the start, pooling and attention left out."""
        return sum(s.drift for s in self.steps)

    @property
    def mean_square_drift(self) -> float:
        return sum(s.mean_square_drift for s in self.steps)

    @property
    def noise(self) -> float:
        """Variance of the log of the signal that finite width alone gives: sum of kappa over width (Hanin 2018)."""
        total = 0.0
        for step in self.layers[:-1]:  # the last one's own width only says how well its outputs are known
            call = step.call
            width = call.pre_activation.units if call and call.pre_activation else 1
            kappa = 5.0 if call and call.nonlinearity else 2.0
            total += kappa / max(1, width)
        return total


def drift_by_chance(segment: Segment) -> float:
    """What width and depth do to a healthy net: mean and 3.3 deviations of its log-normal drift."""
    return segment.noise / 2 + 3.3 * math.sqrt(segment.noise)


def expected_decay(activations: int) -> float:
    """What a critical net loses by itself: ReLU's correlation map has ``1 - c = 44.4 / l**2`` (Poole 2016)."""
    return min(0.0, math.log(44.41) - 2 * math.log(activations)) if activations else 0.0


@dataclass
class Flow:
    """A trace with its graph indexed; everything that rules share is computed here once."""

    trace: Trace

    @cached_property
    def _layers(self) -> dict[int, tuple[Layer, LayerCall]]:
        return {call.op: (layer, call) for layer in self.trace.layers for call in layer.calls}

    @cached_property
    def liveness(self) -> Liveness:
        """Which zeros of parameters training leaves."""
        return Liveness(self.trace)

    @cached_property
    def _parameters(self) -> dict[str, Parameter]:
        return {p.fqn: p for p in self.trace.parameters}

    def is_learned_factor(self, op: Op) -> bool:
        """Whether ``op`` multiplies by a factor that got a gradient of its own."""
        names = (behind(self.trace, i) for i in op.inputs) if op.role is Role.SCALE else ()
        return any(self._parameters[name].grad_rms for found in names for name in found)

    @property
    def _rounding(self) -> float:
        return _ROUNDING.get(self.trace.environment.dtype, _ROUNDING_FLOAT32)

    def layer_of(self, op: Op) -> tuple[Layer, LayerCall] | None:
        """The layer and the call that ``op`` is."""
        return self._layers.get(op.id)

    @cached_property
    def _behind_a_layer(self) -> set[int]:
        """The ids of the operations that a layer leads to, and of the layers' own."""
        found = set(self._layers)
        for op in self.trace.ops:
            if not found.isdisjoint(op.inputs):
                found.add(op.id)
        return found

    @cached_property
    def inputs_of(self) -> dict[int, frozenset[int]]:
        """By the id of each operation, those of the model's inputs that it is computed from."""
        found: dict[int, frozenset[int]] = {}
        for op in self.trace.ops:
            read = {found[i] for i in op.inputs}  # mostly one and the same
            found[op.id] = frozenset({op.id}) if op.name == "input" else frozenset().union(*read)
        return found

    def measured(self, op: Op) -> Op:
        """``op``, or the nearest measured value that it shows, whole or in good part: see :func:`_stands_for`."""
        while op.stats is None and (whole := self._shown(op)) is not None and _stands_for(op.shape, whole.shape):
            op = whole
        return op

    def nearest(self, op: Op) -> Stats | None:
        """The statistics of ``op``, or of the nearest value that it shows, however small a part of it.

        A step of a sequence is no sample of the whole, but which of two operands outweighs the other it can tell.
        """
        while op.stats is None and (whole := self._shown(op)) is not None:
            op = whole
        return op.stats

    def _shown(self, op: Op) -> Op | None:
        """The value that ``op`` shows elements of."""
        moving = self._moving(op) if op.role in (Role.VIEW, Role.OTHER, Role.SCALE) else []
        return moving[0] if moving else None

    def _moving(self, op: Op) -> list[Op]:
        return [self.trace.ops[i] for i in op.inputs if self.trace.ops[i].moving]

    def source(self, op: Op) -> Op | None:
        """The operand that ``op``'s value mainly comes from: the data of a layer, the largest term of a sum.

        Of a product see :meth:`_followed`. Where an operand's size is not known at all nobody can tell, and the way
        ends.
        """
        found = self.layer_of(op)
        if found is not None and found[1].input_op is not None:
            data = self.trace.ops[found[1].input_op]
            return data if data.moving else None
        moving = self._moving(op)
        if op.role is Role.GATE:
            moving = [o for o in moving if o.shape == op.shape] or moving
        if len(moving) < 2:
            return moving[0] if moving else None
        if any(self.nearest(o) is None for o in moving):
            return None
        if op.role is Role.GATE:
            return self._followed(moving)
        return max(moving, key=lambda o: power(self.nearest(o)) or 0.0)

    def _followed(self, factors: Sequence[Op]) -> Op:
        """The factor of a product that the way leads through, in whichever order they are written.

        It is the one behind the most layers: the trunk beside what conditions it. A gate is passed over, unless it
        alone tells the samples apart: ``d(ab) = a db + b da``, so the parts that two factors have in the product's
        variance are as ``Var[a] / E[a^2]`` to ``Var[b] / E[b^2]``.
        """
        shares = {o.id: clarity(self.nearest(o)) for o in factors}
        gates = [o for o in factors if self._is_gate(o)]
        signals = [o for o in factors if o not in gates]
        if signals and max(shares.values()) <= 2 * max(shares[o.id] for o in signals):
            factors = signals
        elif signals:
            factors = gates
        return max(factors, key=lambda o: (self._depths[o.id], shares[o.id]))

    @cached_property
    def _depths(self) -> dict[int, int]:
        """By the id of each operation, how many layers the longest way to it has."""
        found: dict[int, int] = {}
        for op in self.trace.ops:
            found[op.id] = max((found[i] for i in op.inputs), default=0) + (op.id in self._layers)
        return found

    @cached_property
    def ends(self) -> tuple[Op, ...]:
        """What the model returns, where it depends on the input; losses only when there is nothing else."""
        ends = tuple(op for op in self.trace.ops if op.output and op.moving)
        return tuple(op for op in ends if math.prod(op.shape) > 1) or ends

    @cached_property
    def ways(self) -> tuple[tuple[Segment, ...], ...]:
        """For each output of the model, the segments of the way that dominates it, from input to output."""
        return tuple(self.segments(self.path_to(op)) for op in self.ends)

    @cached_property
    def judged(self) -> tuple[Segment, ...]:
        """Each segment once that ends where its scale counts: at an output, or where no normalization sets it anew."""
        found: dict[tuple[int, ...], Segment] = {}
        for segment in (segment for way in self.ways for segment in way if not segment.ends_normalized):
            found.setdefault(tuple(s.op.id for s in segment.layers), segment)
        return tuple(found.values())

    def path_to(self, end: Op, known: Container[int] = ()) -> list[Op]:
        """The operations that dominate the value of ``end``, in order.

        The first is an input, or follows one of which ``known`` has the id.
        """
        path: list[Op] = []
        seen: set[int] = set()
        op: Op | None = end
        while op is not None and op.id not in seen and op.id not in known:
            seen.add(op.id)
            path.append(op)
            op = self.source(op)
        return path[::-1]

    def segments(self, path: Sequence[Op]) -> tuple[Segment, ...]:
        """Those of a path that have layers."""
        before = self.source(path[0]) if path else None
        met_layer = before is not None and before.id in self._behind_a_layer
        segments: list[Segment] = []
        steps: list[Step] = []
        activation: Activation | None = None
        for op in path:
            if self._begins(op):
                segments.append(Segment(tuple(steps), ends_normalized=op.role is Role.NORM))
                steps, activation = [], None
                continue
            step = self._step(op, activation)
            met_layer = met_layer or step.layer is not None or bool(segments)
            if not met_layer:
                step = replace(step, drift=0.0, mean_square_drift=0.0)  # how the input is scaled is no initialization
            activation = op.activation or (None if step.layer else activation)
            steps.append(step)
        segments.append(Segment(tuple(steps), ends_normalized=False))
        return tuple(s for s in segments if s.layers)

    def resets(self, op: Op) -> bool:
        """Whether ``op`` is a normalization that sets the scale anew, and not one whose epsilon outweighs its input.

        What it gives should be of the size of its gain. One written by hand may give vectors of unit length instead,
        of which each sample has one at least.
        """
        if op.role is not Role.NORM or op.stats is None or not op.shape:
            return op.role is Role.NORM
        found = (self._parameters[name] for i in op.inputs for name in behind(self.trace, i))
        gain = max((p.rms for p in found if not is_bias(p)), default=1.0)
        size = op.stats.rms if op.name in _NORMS_OF_UNIT_RMS else op.stats.rms * math.sqrt(math.prod(op.shape[1:]))
        return size >= _RESET * gain

    def _step(self, op: Op, activation: Activation | None) -> Step:
        source = self.source(op)
        before = self.measured(source).stats if source else None
        found = self.layer_of(op)
        layer, call = found if found else (None, None)
        if call is not None and call.input is not None:
            before = call.input
        drift = square = 0.0
        # What parameters of zeros silence is for symmetric-units to judge.
        silent = op.stats is not None and op.stats.rms == 0 and self.liveness.silenced(op)
        if op.role in _COUNTED and op.stats is not None and before is not None and not silent and self._keeps_size(op):
            drift = signal_drift(op.stats, before, self._rounding)
            square = 2 * log_ratio(op.stats.rms, before.rms)
        if op.role is Role.GATE and source is not None and op.activation is None:
            others = [self._own_change(o) for o in self._moving(op) if o is not source]
            # Growth of what tells samples apart may come with the other factor, without any growth of the values.
            drift = min(max(drift, min(0.0, sum(others))), max(0.0, min(square, sum(others))))
        if drift < 0 and self._gates_a_recurrence(op):
            drift = min(0.0, drift + _HALF_OPEN)
        deviation = weight_deviation(layer, (activation, call.nonlinearity if call else None)) if layer else 0.0
        return Step(op, drift, square, layer, call, deviation)

    def _own_change(self, op: Op) -> float:
        """``ln`` of the mean square of ``op`` over that where its way begins: at an input, or what sets the scale anew.

        A factor that is small from its beginning, like a quiet recording beside its mask, was not lost on its way.
        """
        here, there = self.measured(op).stats, self.measured(self.trace.ops[self._origins[op.id]]).stats
        return 2 * log_ratio(here.rms, there.rms) if here is not None and there is not None else 0.0

    @cached_property
    def _origins(self) -> dict[int, int]:
        """By the id of each operation, where its way begins."""
        found: dict[int, int] = {}
        for op in self.trace.ops:
            source = None if self._begins(op) else self.source(op)
            found[op.id] = op.id if source is None else found.get(source.id, source.id)
        return found

    def _begins(self, op: Op) -> bool:
        """Whether ``op`` gives values whose size does not come from what they are made of."""
        return self.resets(op) or op.role is Role.EMBEDDING or op.name.startswith(RECURRENT)

    def _is_gate(self, op: Op) -> bool:
        """Whether ``op`` gives values between 0 and 1 of a sigmoid, seen through views and constant factors."""
        while op.role in KEPT and (moving := self._moving(op)):
            op = moving[0]
        return (op.activation.name if op.activation else op.name.rstrip("_")) in _GATES

    def _gates_a_recurrence(self, op: Op) -> bool:
        """Whether ``op`` multiplies by a gate of a recurrence that is written by hand.

        Such gates start half open by design, in torch's own layers (which are not followed) as here.
        """
        source = self.source(op) if op.role is Role.GATE else None
        if source is None or not self._recurring:
            return False
        gates = [o for o in self._moving(op) if o is not source and self._is_gate(o)]
        return any(not self._recurring.isdisjoint(self._nearest_layers(gate)) for gate in gates)

    @cached_property
    def _recurring(self) -> frozenset[int]:
        """The ids of the operations that are calls of layers that what they gave comes back to."""
        calls = [[call.op for call in layer.calls] for layer in self.trace.layers if len(layer.calls) > 1]
        bits = {ids[0]: 1 << i for i, ids in enumerate(calls)}
        behind_first: dict[int, int] = {}  # by operation, a bit for each of these layers that it comes after
        for op in self.trace.ops:
            reached = bits.get(op.id, 0)
            for i in op.inputs:
                reached |= behind_first.get(i, 0)
            behind_first[op.id] = reached
        return frozenset(i for ids in calls if behind_first[ids[-1]] & bits[ids[0]] for i in ids)

    def _nearest_layers(self, op: Op) -> set[int]:
        """The ids of the layers' calls that lead to ``op`` with no other in between."""
        found: set[int] = set()
        waiting, seen = [op], {op.id}
        while waiting:
            here = waiting.pop()
            if self.layer_of(here) is not None:
                found.add(here.id)
                continue
            onward = [o for o in self._moving(here) if o.id not in seen]
            seen.update(o.id for o in onward)
            waiting += onward
        return found

    def _keeps_size(self, op: Op) -> bool:
        """Whether the size of ``op`` is that of its source.

        Of a sum with unknown terms nobody knows, and where a gate alone carries the signal the size is that of what it
        scales, which has a way of its own.
        """
        if op.role is Role.JOIN:
            return all(self.measured(term).stats is not None for term in self._moving(op))
        source = self.source(op) if op.role is Role.GATE else None
        return source is None or not self._is_gate(source) or all(map(self._is_gate, self._moving(op)))

    def layer_calls(self) -> Iterator[tuple[Layer, LayerCall, Op]]:
        """Every call of every layer that multiplies by a weight, in execution order."""
        for op in self.trace.ops:
            if op.role is Role.LAYER and (found := self.layer_of(op)) is not None:
                yield found[0], found[1], op


def clarity(stats: Stats | None) -> float:
    """The share of the mean square that tells samples apart."""
    square = stats.rms * stats.rms if stats is not None else 0.0  # `**` raises beyond what a float holds
    return (power(stats) or 0.0) / square if 0 < square < math.inf else 0.0


def _stands_for(part: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether the statistics of ``whole`` hold for ``part``: some of the units do, one position of many does not."""
    return 4 * math.prod(part) >= math.prod(whole) or part[:-1] == whole[:-1]


def weight_deviation(layer: Layer, around: Sequence[Activation | None]) -> float:
    """``ln(Var[w] · fan_in / gain²)`` for the nearest gain that one could ask for, 0 between them.

    ``around`` are the activations before and after the layer. Authors differ in which of the two they scale for (the
    first layer has none before it), and in the gain: the one that keeps the mean square, the one that keeps the
    gradient, torch's own table, and for a saturating function also 1, its slope at zero, where signals neither grow
    nor die in the limit of depth (Schoenholz 2017).
    """
    rms = layer.weight.rms
    if not rms > 0 or not math.isfinite(rms):
        return 0.0
    gains = [gain for activation in around for gain in accepted_gains(activation)]
    found = 2 * math.log(rms) + math.log(layer.fan_in)
    low, high = 2 * math.log(min(gains)), 2 * math.log(max(gains))
    return found - low if found < low else found - high if found > high else 0.0


def accepted_gains(activation: Activation | None) -> tuple[float, ...]:
    """Every gain that a careful author may choose for ``activation``."""
    if activation is None:
        return (1.0,)
    usual = {"tanh": 5 / 3, "selu": 3 / 4}.get(activation.name, activation.gain)
    return (activation.gain, activation.backward_gain, usual, *((1.0,) if activation.saturating else ()))
