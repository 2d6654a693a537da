"""Which zeros training leaves: the live-factor rule, decided on the graph of one run.

A value that is a product is zero while one factor is, and the other factors get no gradient from it. A parameter of
zeros is *live* once some way from it to a differentiated output has no other factor of zero left; it then moves, and
may make others live at the next step. What never becomes live sits on a saddle that gradient descent does not leave:
both factors of LoRA at zero, a gate of zero before a layer of zeros, a layer of zeros before a ReLU with no way around.

Every operation is written as a sum of products of its inputs (:func:`_terms`); what is zero, and where a gradient
comes, then follows without a number. The gradients of the first step are the measured ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from initaudit.records import Op, Parameter, Role, Trace
from initaudit.rules.paths import is_zero

Term = tuple[int, ...]

_PRODUCTS = frozenset(
    "mul __mul__ __rmul__ __imul__ multiply matmul __matmul__ __rmatmul__ mm bmm mv einsum tensordot inner outer dot "
    "vdot kron weight_norm grouped_mm".split()
)
_QUOTIENTS = frozenset("div __truediv__ __idiv__ true_divide divide".split())
_ADDED_PRODUCTS = frozenset("addmm baddbmm addbmm addmv addr addcmul addcdiv".split())
_SUMS = frozenset("add __add__ __radd__ sub __sub__ __rsub__ subtract rsub".split())
_RECURRENT = ("lstm", "gru", "rnn")
# phi'(0) = 0: at zero nothing comes back through these, as torch has it. A product of the input with itself says so.
_FLAT_AT_ZERO = frozenset(
    "relu relu6 threshold hardshrink softshrink tanhshrink square pow __pow__ float_power abs absolute cos cosh".split()
)
_NOT_ZERO_AT_ZERO = frozenset(
    "exp exp2 sigmoid expit hardsigmoid softplus logsigmoid log_sigmoid cos cosh erfc sinc reciprocal rsqrt softmax "
    "log_softmax softmin gumbel_softmax logsumexp".split()
)
_ZERO_FILLS = frozenset("zeros zeros_like new_zeros".split())
_SPLITS = frozenset("chunk split split_with_sizes tensor_split".split())
STOPS = frozenset("detach data".split())  # no gradient passes these, whatever the values


@dataclass(frozen=True, slots=True)
class Spread:
    """What follows when the parameters of a set are not zero: values that are not, and what gets a gradient."""

    filled: tuple[bool, ...]
    reached: frozenset[str]


@dataclass
class Liveness:
    """The zeros of a trace: when each parameter first gets a gradient, and which ones never do because of zeros."""

    trace: Trace

    @cached_property
    def first_step(self) -> dict[str, int]:
        """The first step of training at which a parameter has a gradient that is not zero; without those that never do.

        Step 0 is the measured one.
        """
        steps = {p.fqn: 0 for p in self._trained if p.grad_rms}
        awake, step = self._awake | steps.keys() | (self._now.reached & self._parts), 0
        while len(steps) < len(self._trained):
            reached, step = self._spread(awake).reached, step + 1
            steps.update(dict.fromkeys(reached - self._parts - steps.keys(), step))
            if reached <= awake:
                break
            awake = awake | reached
        return steps

    @cached_property
    def stuck(self) -> frozenset[str]:
        """Parameters whose gradient is zero and stays so for no other reason than the zeros of parameters."""
        still = [p for p in self._trained if p.grad_rms == 0.0 and p.fqn not in self.first_step]
        return frozenset(p.fqn for p in still if p.fqn in self._ideal.reached) if still else frozenset()

    @cached_property
    def factors(self) -> dict[str, Op]:
        """Trained parameters of zeros that multiply something, each with the first operation in which it does."""
        zeros = {p.fqn for p in self._trained if is_zero(p)}
        holders = {op.id: op.parameters[0] for op in self.trace.ops if _is_leaf(op) and op.parameters[0] in zeros}
        found: dict[str, Op] = {}
        for op in self.trace.ops if holders else ():
            for term in self._terms[op.id]:
                for i in holders.keys() & set(term):
                    if len(set(term)) > 1:
                        found.setdefault(holders[i], op)
                    elif op.role is Role.PARAMETER and not self._now.filled[op.id]:
                        holders.setdefault(op.id, holders[i])  # a view of it
        return found

    def waits(self, parameter: Parameter) -> bool:
        """Whether its gradient is zero at the first step for the zeros of others, and will come at a later one."""
        return parameter.fqn not in self._now.reached and parameter.fqn in self.first_step

    def silenced(self, op: Op) -> bool:
        """Whether the value of ``op`` is zero because of trained parameters of zeros, and of nothing else."""
        return not self._now.filled[op.id] and self._ideal.filled[op.id]

    # -- how zeros spread ----------------------------------------------------------------------------------------------

    @cached_property
    def _trained(self) -> list[Parameter]:
        return [p for p in self.trace.parameters if p.requires_grad and p.grad_rms is not None]

    @cached_property
    def _awake(self) -> frozenset[str]:
        return frozenset(p.fqn for p in self.trace.parameters if not is_zero(p))

    @cached_property
    def _now(self) -> Spread:
        return self._spread(self._awake)

    @cached_property
    def _ideal(self) -> Spread:
        """As if no trained parameter were zero."""
        return self._spread(self._awake.union(self._parts, (p.fqn for p in self._trained)))

    @cached_property
    def _parts(self) -> frozenset[str]:
        """The chunks of what a layer of zeros gives: the rows behind each move for themselves, as gates do."""
        zeros = {layer.weight.fqn for layer in self.trace.layers if is_zero(layer.weight)}
        return frozenset(_part(op) for op in self.trace.ops if _splits_a_layer(op, self.trace.ops, zeros))

    @cached_property
    def _terms(self) -> list[list[Term]]:
        return [_terms(op, self.trace.ops) for op in self.trace.ops]

    @cached_property
    def _measured(self) -> tuple[list[bool], frozenset[int]]:
        """What is not zero in this run, and what is zero although no parameter makes it so: dead units, say."""
        filled: list[bool] = []
        odd: set[int] = set()
        for op in self.trace.ops:
            expected = self._fills(op, filled, self._awake)
            silent = op.stats is not None and op.stats.rms == 0 and op.stats.count == op.stats.sampled
            if expected and silent:
                odd.add(op.id)
            filled.append((expected and not silent) or (op.stats is not None and op.stats.rms != 0))
        return filled, frozenset(odd)

    def _changes(self, op: Op, filled: list[bool]) -> bool:
        """Whether something new reaches a value that was zero without a cause: a bias that has moved, say."""
        before, odd = self._measured
        new = (t for t in self._terms[op.id] if not all(before[i] for i in t))
        return op.id not in odd or any(all(filled[i] for i in t) for t in new)

    def _fills(self, op: Op, filled: list[bool], awake: frozenset[str]) -> bool:
        if _is_leaf(op):
            return op.parameters[0] in awake
        if _part(op) in self._parts:
            return _part(op) in awake
        if not op.inputs or op.name in _ZERO_FILLS:
            return op.name not in _ZERO_FILLS
        return any(all(filled[i] for i in term) for term in self._terms[op.id])

    def _spread(self, awake: Iterable[str]) -> Spread:
        ops, awake = self.trace.ops, frozenset(awake)
        filled: list[bool] = []
        for op in ops:
            known = op.stats is not None and op.stats.rms != 0
            filled.append(known or (self._fills(op, filled, awake) and self._changes(op, filled)))
        reached: set[str] = set()
        back = self._ends.copy()
        for op in reversed(ops):
            if op.id not in back or op.name in STOPS:
                continue
            reached.add(op.parameters[0] if _is_leaf(op) else _part(op))
            for term in self._terms[op.id]:
                for i in term:
                    if self._comes_back(op, term, i, filled):
                        back.add(i)
        moving = self._parts.union(p.fqn for p in self._trained)
        return Spread(tuple(filled), moving & reached)

    def _comes_back(self, op: Op, term: Term, i: int, filled: list[bool]) -> bool:
        source = self.trace.ops[i]
        if not source.moving and source.role not in (Role.PARAMETER, Role.LAYER, Role.EMBEDDING):
            return False  # a mask, an index: no gradient goes there
        others = [j for j in term if j != i] if len(set(term)) > 1 else [*term[1:], *([op.id] if term[1:] else [])]
        return all(filled[j] for j in others)

    @cached_property
    def _ends(self) -> set[int]:
        """Where gradients enter: the differentiated outputs, and wherever one was seen."""
        ends = {op.id for op in self.trace.ops if op.gradient is not None and op.gradient.rms != 0}
        for op in self.trace.ops:
            shown = op
            while shown.gradient is None and shown.role is Role.VIEW and shown.inputs:
                shown = self.trace.ops[shown.inputs[0]]
            if op.output and shown.gradient is not None:
                ends.add(op.id)
        return ends


def _is_leaf(op: Op) -> bool:
    return op.role is Role.PARAMETER and not op.inputs and bool(op.parameters)


def _part(op: Op) -> str:
    """The name of a value among those of parameters; no parameter has such a one."""
    return f"#{op.id}"


def _splits_a_layer(op: Op, ops: tuple[Op, ...], zeros: set[str]) -> bool:
    """Whether ``op`` is a chunk, along the units, of the output of a layer whose weight is one of ``zeros``."""
    if op.name not in _SPLITS or not op.inputs:
        return False
    source = ops[op.inputs[0]]
    split = [d for d, (a, b) in enumerate(zip(op.shape, source.shape, strict=False)) if a != b]
    while source.role is Role.VIEW and source.name not in _SPLITS and source.inputs:
        source = ops[source.inputs[0]]
    units = 1 if source.name.startswith("conv") else len(op.shape) - 1
    return split == [units] and source.role is Role.LAYER and not zeros.isdisjoint(source.parameters)


def _terms(op: Op, ops: tuple[Op, ...]) -> list[Term]:
    """``op``'s value as a sum of products of its inputs. An empty product is a number that is not zero."""
    every, name = op.inputs, op.name
    if name in _PRODUCTS:
        return [every]
    if name in _QUOTIENTS:
        return [every[:1], every]
    if name in _ADDED_PRODUCTS:
        return [every[:1], every[1:]]
    if name.startswith(_RECURRENT) and op.role is Role.LAYER:
        wide = tuple(i for i in every[1:] if ops[i].role is Role.PARAMETER and len(ops[i].shape) > 1)
        return [(every[0], *wide), *((i,) for i in every[1:] if i not in wide)]
    if name == "bilinear" or name.startswith(("linear", "conv")):
        operands = 3 if name == "bilinear" else 2
        return [every[:operands], *((i,) for i in every[operands:])]
    if op.role is Role.EMBEDDING:
        return [(i,) for i in every if ops[i].role is Role.PARAMETER]
    if op.role is Role.NORM:
        learned = [i for i in every[1:] if ops[i].role is Role.PARAMETER]
        return [(*every[:1], *learned[:1]), *((i,) for i in learned[1:])]
    if name == "scaled_dot_product_attention":
        return [every[2:3], every[:3]]
    if name == "hardtanh" and op.activation is not None:
        name = op.activation.name  # torch's relu6 is a hardtanh by its name
    flat = name in _FLAT_AT_ZERO
    terms: list[Term] = [(i, i) if flat else (i,) for i in every]
    number = name in _NOT_ZERO_AT_ZERO or (name in _SUMS and len(every) == 1)
    return [*terms, ()] if number else terms
