"""Which elementwise function follows a value, found by data flow and described by replaying it on quadrature nodes.

``F.relu``, ``nn.ReLU()``, ``x.relu_()``, ``torch.relu`` and a GELU written out by hand are one thing here: a region of
elementwise calls that starts at one value, depends on nothing else that moves, and leaves through one value.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from initaudit.errors import UnknownActivationError
from initaudit.probe import ops
from initaudit.probe.tape import Node, Slot, tensors_in
from initaudit.records import Activation, Role
from initaudit.theory.elementwise import describe

_MAX_REGION = 24  # calls; the longest activation written out by hand that we know has nine
_PASS = frozenset(
    "dropout contiguous clone to view reshape transpose permute flatten unflatten unsqueeze squeeze movedim float "
    "type_as view_as t half bfloat16 double".split()
)


_CASTS = frozenset("float to type_as type double half bfloat16".split())


# Functions already described, by their calls: a process may audit many models, and they use the same few.
_DESCRIBED: dict[Any, Activation | None] = {}
_MOST = 1_024


@dataclass(frozen=True, slots=True)
class Followed:
    """The activation after a value: the node that it leaves through, and the function."""

    node: int
    activation: Activation


class ActivationFinder:
    """Finds activations in one recorded graph.

    ``excluded`` nodes are the inner steps of a normalization written out by hand, which is no activation.
    """

    def __init__(self, nodes: list[Node], excluded: set[int]) -> None:
        self._nodes = nodes
        self._excluded = excluded
        self._consumers: list[list[int]] = [[] for _ in nodes]
        for node in nodes:
            for i in node.inputs:
                self._consumers[i].append(node.id)
        self._numbers = _numbers(nodes)

    def after(self, start: int) -> Followed | None:
        """The activation that follows the value of node ``start``, or ``None`` when it goes elsewhere first.

        A normalization between them is passed: what follows it is what the author initializes for.
        """
        root = start
        while True:
            region = self._region(root)
            leaving = [i for i in region if self._leaves(i, region)]
            curved = [i for i in leaving if self._bends(i, root, region)]
            if curved:
                return self._describe(root, self._unscaled(curved[0], root, region), region)
            onward = [i for i in self._consumers[root] if self._passes(self._nodes[i])]
            if len(onward) != 1 or len(self._consumers[root]) != 1:
                return None
            root = onward[0]

    @staticmethod
    def _passes(node: Node) -> bool:
        return node.name in _PASS or (node.role is Role.NORM and node.name in ops.NORMS)

    def _region(self, root: int) -> list[int]:
        """Nodes of elementwise calls that depend on ``root`` and on constants alone, in execution order."""
        inside = {root}
        region: list[int] = []
        frontier = list(self._consumers[root])
        while frontier and len(region) < _MAX_REGION:
            i = min(frontier)
            frontier.remove(i)
            node = self._nodes[i]
            if (
                i in inside
                or i in self._excluded
                or not self._is_elementwise(node)
                or node.shape != self._nodes[root].shape
            ):
                continue
            if all(j in inside or self._is_plain(j) for j in node.inputs):
                inside.add(i)
                region.append(i)
                frontier.extend(self._consumers[i])
        return region

    def _is_elementwise(self, node: Node) -> bool:
        cast_mask = node.name in _CASTS and any(self._nodes[i].name in ops.COMPARISONS for i in node.inputs)
        part = node.name in ops.ELEMENTWISE or node.name == "detach" or cast_mask
        return node.call is not None and part and "dropout" not in node.name

    def _is_plain(self, i: int) -> bool:
        """A constant that can stand in a replay: learned slopes, or a single number made inside the model."""
        node = self._nodes[i]
        return node.is_number or (node.name == "parameter" and sum(n > 1 for n in node.shape) <= 1)

    def _unscaled(self, end: int, root: int, region: list[int]) -> int:
        """``end``, or what a zero or a learned factor behind the function multiplies, which may start at zero."""
        while self._nodes[end].name in ops.MULS:
            factors = self._nodes[end].inputs
            bent = [i for i in factors if i in region and self._bends(i, root, region)]
            learned = any(self._nodes[i].parameters and not self._nodes[i].live for i in factors)
            if len(bent) != 1 or not (learned or self._closes(self._nodes[end])):
                break
            end = bent[0]
        return end

    def _closes(self, product: Node) -> bool:
        """Whether one factor is the number zero."""
        numbers = [a for a in product.arguments[0] if isinstance(a, (int, float))]
        return 0.0 in (*numbers, *(self._numbers.get(id(t)) for t in tensors_in(product.arguments)))

    def _leaves(self, i: int, region: list[int]) -> bool:
        return self._nodes[i].output or not self._consumers[i] or any(c not in region for c in self._consumers[i])

    def _bends(self, i: int, root: int, region: list[int]) -> bool:
        """Whether an ACTIVATION, or a product of two functions of the root, stands between ``root`` and ``i``."""
        todo, seen = [i], set()
        while todo:
            node = self._nodes[todo.pop()]
            if node.id in seen or node.id == root or node.id not in region:
                continue
            seen.add(node.id)
            if node.role in (Role.ACTIVATION, Role.GATE) or node.name in ops.COMPARISONS or node.name in ("max", "min"):
                return True
            if node.name in ops.MULS and [type(a) for a in node.arguments[0]] == [Slot, Slot] and len(node.inputs) == 1:
                return True  # x * x
            todo.extend(node.inputs)
        return False

    def _describe(self, root: int, end: int, region: list[int]) -> Followed | None:
        steps = [i for i in region if i <= end]
        key = tuple((self._nodes[i].call, self._signature(self._nodes[i].arguments, root)) for i in steps)
        if key not in _DESCRIBED:
            while len(_DESCRIBED) >= _MOST:
                del _DESCRIBED[next(iter(_DESCRIBED))]
            try:
                _DESCRIBED[key] = describe(self._replay(root, end, steps))
            except UnknownActivationError:
                _DESCRIBED[key] = None
        activation = _DESCRIBED[key]
        return Followed(end, activation) if activation is not None else None

    def _signature(self, template: Any, root: int) -> Any:
        """Arguments in a form that is equal for equal calls, with slots counted from the root."""
        if isinstance(template, Slot):
            return ("slot", template.id - root)
        if isinstance(template, Tensor) and id(template) in self._numbers:
            return ("number", self._numbers[id(template)])
        if isinstance(template, tuple):
            return tuple(self._signature(v, root) for v in template)
        if isinstance(template, dict):
            return tuple((k, self._signature(v, root)) for k, v in template.items())
        if isinstance(template, (bool, int, float, complex, Tensor)) or not isinstance(template, Hashable):
            return repr(template)
        return template  # and not its repr: an address may be given to another object later

    def _replay(self, root: int, end: int, steps: list[int]) -> Callable[[Tensor], Tensor]:
        nodes = self._nodes

        def function(z: Tensor) -> Tensor:
            values: dict[int, Tensor] = {root: z.clone()}

            def fill(template: Any) -> Any:
                if isinstance(template, Slot):
                    return values[template.id].clone()
                if isinstance(template, Tensor) and id(template) in self._numbers:
                    learned = isinstance(template, torch.nn.Parameter)  # a slope: one number for all units
                    number = self._numbers[id(template)]
                    return torch.tensor(number, dtype=z.dtype if learned else template.dtype, device=z.device)
                if isinstance(template, tuple):
                    return tuple(fill(v) for v in template)
                if isinstance(template, dict):
                    return {k: fill(v) for k, v in template.items()}
                return template

            for i in steps:
                if any(j not in values and nodes[j].live for j in nodes[i].inputs):
                    continue
                call = nodes[i].call
                assert call is not None
                args, kwargs = nodes[i].arguments
                args, kwargs = fill(args), fill(kwargs)
                if nodes[i].name == "prelu":
                    values[i] = torch.where(args[0] >= 0, args[0], args[0] * args[1])
                elif nodes[i].name == "rrelu":  # its mean slope: the random one has no gain of its own
                    limits = {k: v for k, v in kwargs.items() if k in ("lower", "upper")}
                    values[i] = torch.nn.functional.rrelu(*args[:3], **limits)
                else:
                    values[i] = call(*args, **{k: v for k, v in kwargs.items() if k != "out"})
            return values[end]

        return function


def _numbers(nodes: list[Node]) -> dict[int, float]:
    """The mean of each learned slope and the value of each number in arguments of calls, by ``id``: read together."""
    held = {id(t): t for node in nodes if node.arguments for t in tensors_in(node.arguments)}
    real = {i: t.detach() for i, t in held.items() if not t.is_meta and not t.is_complex() and t.numel()}
    found: dict[int, float] = {}
    for device in {t.device for t in real.values()}:
        mine = {i: t.float().mean() for i, t in real.items() if t.device == device}
        found.update(zip(mine, torch.stack(list(mine.values())).tolist(), strict=True))
    return found
