"""What stands around a layer in the recorded graph: the activation before it, norms behind it, residual branches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from initaudit.records import Activation, Layer, Op, Role, Trace

_KEPT = (Role.VIEW, Role.SCALE, Role.POOL, Role.CONCAT, Role.OTHER)


@dataclass
class Surroundings:
    """A trace with what the plan asks of its graph."""

    trace: Trace

    def activation_before(self, layer: Layer) -> Activation | None:
        """The activation that the input of the layer's first call has come through since the layer before it."""
        op = self._input(layer)
        while op is not None and op.activation is None and op.role in _KEPT:
            op = self._moving(op)
        return op.activation if op is not None else None

    def layer_before(self, layer: Layer) -> str | None:
        """The ``fqn`` of the one layer that the input of the first call comes from; sums of its output count."""
        start = self._input(layer)
        found: set[str | None] = set()
        seen: set[int] = set()
        waiting = [start] if start is not None else []
        while waiting:
            op = waiting.pop()
            if op.role in (*_KEPT, Role.ACTIVATION, Role.JOIN):
                operands = [self.trace.ops[i] for i in op.inputs if self.trace.ops[i].moving and i not in seen]
                seen.update(o.id for o in operands)
                waiting.extend(operands)
            else:
                found.add(op.layer if op.role is Role.LAYER else None)
        return found.pop() if len(found) == 1 else None

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
        while before is not None and before.role in (*_KEPT, Role.ACTIVATION, Role.NORM):
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
                elif reader.role in (*_KEPT, Role.ACTIVATION):
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
