"""What stands around a layer in the recorded graph: the activation before it, norms behind it, residual branches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

from initaudit.advice.computed import Computed
from initaudit.advice.depth import RMS_BAND
from initaudit.advice.padding import kept
from initaudit.records import Activation, Layer, Op, Role
from initaudit.rules import paths
from initaudit.rules.paths import KEPT

_TRANSPOSED = ("t", "T", "mT", "transpose")  # names of views that turn a matrix


class Surroundings(Computed):
    """A trace with what the plan asks of its graph."""

    def activation_before(self, layer: Layer) -> Activation | None:
        """The activation that the input of the layer's first call has come through since the layer before it."""
        return paths.activation_before(self.trace, layer)

    def summed(self, layer: Layer) -> tuple[int, ...] | None:
        """The dimensions of the weight that an output adds up: all but the first, or in ``x @ weight`` but the second.

        ``None`` where it cannot be told, and where outputs differ in what they add up, as behind a transposed
        convolution with a stride.
        """
        call, dims = layer.calls[0] if layer.calls else None, len(layer.weight.shape)
        if call is None:
            return None
        op = self.trace.ops[call.op]
        if op.name == "linear" or (op.name.startswith("conv") and "transpose" not in op.name):
            return tuple(range(1, dims))
        others = (0, *range(2, dims))
        last = self.trace.ops[op.inputs[-1]] if op.inputs else op
        if op.name in ("matmul", "addmm", "mm") and dims == 2 and layer.weight.fqn in last.parameters:
            return others if not last.inputs else (1,) if last.name in _TRANSPOSED else None
        whole = math.prod(layer.weight.shape[i] for i in others)
        return others if op.name.startswith("conv_transpose") and math.isclose(whole, layer.fan_in) else None

    def layer_before(self, layer: Layer) -> str | None:
        """The ``fqn`` of the one layer that the input of the first call comes from; sums of its output count."""
        start = self._input(layer)
        found: set[str | None] = set()
        seen: set[int] = set()
        waiting = [start] if start is not None else []
        while waiting:
            op = waiting.pop()
            if op.role in (*KEPT, Role.ACTIVATION, Role.JOIN):
                operands = [self.trace.ops[i] for i in op.inputs if self.trace.ops[i].moving and i not in seen]
                seen.update(o.id for o in operands)
                waiting.extend(operands)
            else:
                found.add(op.layer if op.role is Role.LAYER else None)
        return found.pop() if len(found) == 1 else None

    @cached_property
    def depths(self) -> dict[str, int]:
        """How many calls of layers stand in a row with each layer, its own included, all before one activation.

        In a row means that nothing but this activation, pooling and multiples by constants lies between them.
        """
        calls = {call.op: (layer, call) for layer in self.trace.layers for call in layer.calls}
        ends = {call.activation_op: call.op for _, call in calls.values() if call.activation_op is not None}
        before: dict[int, int] = {}
        depth = dict.fromkeys(sorted(calls), 1)
        for op, (_, call) in sorted(calls.items()):
            start = self.trace.ops[call.input_op] if call.input_op is not None else None
            while start is not None and start.id not in ends and start.role in KEPT:
                start = self._moving(start)
            source = ends.get(start.id) if start is not None else None
            if source is not None and call.nonlinearity and calls[source][1].nonlinearity == call.nonlinearity:
                before[op] = source
                depth[op] = depth[source] + 1
        for op, source in sorted(before.items(), reverse=True):
            depth[source] = max(depth[source], depth[op])
        found: dict[str, int] = {}
        for op, (layer, _) in calls.items():
            found[layer.fqn] = max(found.get(layer.fqn, 1), depth[op])
        return found

    def kept_at_borders(self, layer: Layer) -> float:
        """The share of the mean square that zeros around its map leave to a convolution, where its stack feels it.

        1 where so many layers of the kind would leave more than half of it.
        """
        call = layer.calls[0] if layer.calls else None
        kernel = layer.weight.shape[2:]
        if call is None or call.input_op is None or not layer.kind.startswith("Conv") or "Transpose" in layer.kind:
            return 1.0
        before, after = (self.trace.ops[i].shape[-len(kernel) :] for i in (call.input_op, call.op))
        if not kernel or not len(before) == len(after) == len(kernel):
            return 1.0
        share = kept(before, after, kernel)
        return share if share ** self.depths.get(layer.fqn, 1) < 1 / RMS_BAND else 1.0

    def _moving(self, op: Op) -> Op | None:
        """The first operand that depends on the model's input."""
        return next((self.trace.ops[i] for i in op.inputs if self.trace.ops[i].moving), None)

    def _input(self, layer: Layer) -> Op | None:
        call = layer.calls[0] if layer.calls else None
        return self.trace.ops[call.input_op] if call is not None and call.input_op is not None else None

    @cached_property
    def norm_parameters(self) -> dict[str, int]:
        """Gains and biases of normalizations, by the id of the operation that uses each."""
        found = {}
        for op in self.trace.ops:
            for i in op.inputs if op.role is Role.NORM else ():
                for name in self.trace.ops[i].parameters if self.trace.ops[i].role is Role.PARAMETER else ():
                    found[name] = op.id
        return found

    def norms_around(self, layer: Layer) -> set[int]:
        """The normalizations that the layer's output meets first, and those that its input has come from."""
        found = {i for call in layer.calls for i in self._norms_behind(call.op)}
        before = self._input(layer)
        while before is not None and before.role in (*KEPT, Role.ACTIVATION, Role.NORM):
            if before.role is Role.NORM:
                found.add(before.id)
            before = self._moving(before)
        return found

    def _norms_behind(self, start: int) -> Iterator[int]:
        waiting = [start]
        while waiting:
            for reader in self._readers.get(waiting.pop(), ()):
                if reader.role is Role.NORM:
                    yield reader.id
                elif reader.role in (*KEPT, Role.ACTIVATION):
                    waiting.append(reader.id)

    @cached_property
    def _readers(self) -> dict[int, list[Op]]:
        readers: dict[int, list[Op]] = {}
        for op in self.trace.ops:
            for i in op.inputs:
                readers.setdefault(i, []).append(op)
        return readers

    @cached_property
    def branch_ends(self) -> dict[str, int]:
        """Last layers of residual branches that no normalization tames, with the number of sums in the model."""
        found = [name for op in self.trace.ops if op.role is Role.JOIN for name in self._ends_at(op)]
        sums = len({op.id for op in self.trace.ops if op.role is Role.JOIN and any(self._ends_at(op))})
        return dict.fromkeys(found, sums)

    def _ends_at(self, join: Op) -> Iterator[str]:
        """The layer that ends in ``join``, when the other operand has gone around it and around no normalization."""
        operands = [self._through(self.trace.ops[i]) for i in join.inputs if self.trace.ops[i].moving]
        behind = self._readers.get(join.id, [])
        if len(operands) != 2 or (behind and all(op.role is Role.NORM for op in behind)):
            return
        for end, skip in (operands, operands[::-1]):
            if end.layer and end.role is Role.LAYER:
                inside = self._between(skip.id, end.id)
                if skip.id in inside and not any(self.trace.ops[i].role is Role.NORM for i in inside - {skip.id}):
                    yield end.layer

    def _between(self, start: int, end: int) -> set[int]:
        """The operations that lead from ``start`` to ``end``, and what feeds them since; ids grow along the way."""
        found, waiting = {end}, [end]
        while waiting:
            earlier = {i for i in self.trace.ops[waiting.pop()].inputs if i >= start} - found
            found |= earlier
            waiting.extend(earlier)
        return found

    def _through(self, op: Op) -> Op:
        """``op``, or what it is a view or a multiple of."""
        while op.role in (Role.VIEW, Role.SCALE) and op.inputs:
            op = self.trace.ops[op.inputs[0]]
        return op
