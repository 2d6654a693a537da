"""Where things are in a trace: what an operation leads to, and which module owns a parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from initaudit.records import Activation, Layer, Op, Parameter, Role, Trace

KEPT = (Role.VIEW, Role.SCALE, Role.POOL, Role.CONCAT, Role.OTHER)  # an activation is seen through them


def downstream(ops: Iterable[Op], starts: Iterable[int], passes: Callable[[Op], bool] | None = None) -> list[Op]:
    """The operations fed by ``starts`` (ids), directly or not, in execution order, without the starts themselves.

    An operation that ``passes`` refuses is reached, but nothing is reached through it.
    """
    open_ends = set(starts)
    reached = []
    for op in ops:
        if op.id not in open_ends and not open_ends.isdisjoint(op.inputs):
            reached.append(op)
            if passes is None or passes(op):
                open_ends.add(op.id)
    return reached


def upstream(ops: Iterable[Op], ends: Iterable[int]) -> set[int]:
    """The ids of the operations that lead to ``ends``, and the ends themselves."""
    leading = set(ends)
    for op in reversed(tuple(ops)):
        if op.id in leading:
            leading.update(op.inputs)
    return leading


def has_way_around(trace: Trace, op: int) -> bool:
    """Whether some of what leads to op ``op`` (an id) also leads past it, to what follows it: as beside a branch."""
    moving = [o for o in trace.ops if o.moving]
    before = upstream(moving, [op]) - {op}
    after = {o.id for o in downstream(moving, [op])}
    return any(o.id in after for o in downstream(moving, before, passes=lambda o: o.id != op) if o.id != op)


def behind(trace: Trace, op: int) -> set[str]:
    """The parameters that the value of op ``op`` (an id) is computed from, if it is computed from nothing else."""
    names: set[str] = set()
    waiting = [op]
    while waiting:
        found = trace.ops[waiting.pop()]
        if found.moving:
            return set()
        names.update(found.parameters)
        waiting.extend(found.inputs)
    return names


def owner(trace: Trace, parameter: Parameter | str) -> str:
    """The module that owns a parameter, as findings name it; a bare parameter is named by its own path."""
    return owners(trace, [parameter])[0]


def owners(trace: Trace, parameters: Iterable[Parameter | str]) -> tuple[str, ...]:
    """Their owners, each once, in order."""
    names = {p.fqn: layer.fqn for layer in reversed(trace.layers) for p in (layer.bias, layer.weight) if p is not None}
    fqns = (p if isinstance(p, str) else p.fqn for p in parameters)
    return tuple(dict.fromkeys(names[fqn] if fqn in names else _by_its_path(fqn) for fqn in fqns))


def _by_its_path(fqn: str) -> str:
    module, _, name = fqn.rpartition(".")
    return module if module and name.split("_")[0] in ("weight", "bias") else fqn


def is_depthwise(layer: Layer) -> bool:
    """Whether every output channel reads an input channel of its own, so that equal rows are no symmetry.

    Of a kernel alone nobody tells the groups: one that reads one channel counts as depthwise.
    """
    shape = layer.weight.shape
    if layer.kind == "kernel":
        return shape[1] == 1
    if not layer.kind.startswith("Conv") or len(shape) < 3 or shape[1] != 1:
        return False
    field = 1
    for size in shape[2:]:
        field *= size
    return shape[0] > 1 and layer.fan_out <= field


def is_last(trace: Trace, layer: Layer) -> bool:
    """Whether no other layer follows: what it gives is the model's output, or all but."""
    return not any(op.role is Role.LAYER for op in downstream(trace.ops, [call.op for call in layer.calls]))


def activation_before(trace: Trace, layer: Layer) -> Activation | None:
    """The activation that the input of the layer's first call has passed since the layer before."""
    call = layer.calls[0] if layer.calls else None
    op = trace.ops[call.input_op] if call is not None and call.input_op is not None else None
    while op is not None and op.activation is None:
        moving = (trace.ops[i] for i in op.inputs if trace.ops[i].moving)
        op = next(moving, None) if op.role in KEPT else None
    return op.activation if op is not None else None


def multiplies(trace: Trace, layer: Layer) -> bool:
    """Whether the layer ran and multiplies by a matrix or a kernel, which an embedding and a norm do not."""
    roles = {trace.ops[call.op].role for call in layer.calls}
    return Role.LAYER in roles and Role.EMBEDDING not in roles and len(layer.weight.shape) >= 2


def is_bias(parameter: Parameter) -> bool:
    """Whether the parameter's own name says that it is added."""
    leaf = parameter.fqn.rpartition(".")[2]
    return "bias" in leaf or leaf == "beta"


def is_zero(parameter: Parameter) -> bool:
    """Whether the parameter is zero throughout."""
    return parameter.constant and parameter.min == 0.0


def listing(names: Iterable[str], limit: int = 4) -> str:
    """``"a, b, c, d and 3 more"``."""
    every = list(names)
    more = len(every) - limit
    return ", ".join(every) if more <= 0 else f"{', '.join(every[:limit])} and {more} more"
