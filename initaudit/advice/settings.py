"""What one parameter shall start with, and reading it off a line of advice."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from initaudit.advice.recommend import Call, torch_reads_fan_in
from initaudit.records import Advice, Layer

CENTRE = "centre"  # a bias that takes off what a mean input adds: -value * weight.sum(arguments), or all but dim 0
LENGTH = "length"  # the norms of the rows of a direction, which weight normalization keeps apart from it
OFF_MEAN = 5.0  # standard errors that the mean of a weight may be away from zero


@dataclass(frozen=True, slots=True)
class Setting:
    """One parameter and the call of ``nn.init`` that it shall start with.

    ``parameter`` is its first name in ``named_parameters()``. ``scheme`` is the name of the function, ``arguments`` its
    source text after the tensor, ``value`` the std that it draws with or the constant that it fills with. ``gain`` is
    set where that std is ``gain / sqrt(weight[0].numel())``. ``rows`` restricts it to a slice of the first dimension;
    ``blocks`` draws that many stacked blocks of rows one by one (the gates of a recurrence). ``of`` is the weight that
    a bias or a length is computed from.
    """

    parameter: str
    scheme: str
    arguments: str = ""
    value: float = 0.0
    gain: float | None = None
    rows: tuple[int, int] | None = None
    blocks: int = 1
    note: str = ""  # what the code says beside it
    of: str = ""

    @property
    def is_computed(self) -> bool:
        """Whether its values follow from another parameter, which must be set before."""
        return self.scheme in (CENTRE, LENGTH)

    @property
    def draws(self) -> bool:
        """Whether its values are random."""
        return self.scheme not in ("zeros_", "ones_", "constant_") and not self.is_computed


def drawn(layer: Layer, call: Call, gain: float | None = None) -> Setting:
    """The setting of a layer's weight; ``gain`` is kept where the std follows from it and the fan_in torch reads."""
    by_fan = gain if call.scheme == "normal_" and gain is not None and torch_reads_fan_in(layer) else None
    return Setting(layer.weight.fqn, call.scheme, call.arguments, call.std, by_fan)


def constant(parameter: str, value: float) -> Setting:
    """The parameter filled with ``value``, by torch's shortest name for that."""
    scheme = {0.0: "zeros_", 1.0: "ones_"}.get(value, "constant_")
    return Setting(parameter, scheme, "" if scheme != "constant_" else f"{value:.4g}", value)


def from_advice(advice: Advice, parameters: frozenset[str]) -> Setting | None:
    """The setting that a line of advice on a model ``m`` means; ``None`` where it names no known parameter.

    The line is read and never run: ``nn.init.<scheme>(<m's parameter>, ...)``, or ``<m's weight> = nn.init...`` where
    a parametrization takes the weight apart. What stands behind a semicolon follows from it.
    """
    try:
        statement = next(iter(ast.parse(advice.code).body), None)
    except SyntaxError:
        return None
    call = statement.value if isinstance(statement, (ast.Expr, ast.Assign)) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or not call.args:
        return None
    target, *rest = call.args
    if isinstance(statement, ast.Assign):
        target = statement.targets[0]
    rows = None
    if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Slice):
        ends = target.slice.lower, target.slice.upper
        rows = (int(_value(ends[0])) if ends[0] else 0, int(_value(ends[1])) if ends[1] else 0)
        target = target.value
    name = _path(target)
    if isinstance(statement, ast.Assign):
        owner, _, leaf = name.rpartition(".")
        name = f"{owner}.parametrizations.{leaf}.original1".lstrip(".")
    if name not in parameters:
        return None
    scheme = call.func.attr
    arguments = ", ".join(ast.unparse(part) for part in (*rest, *call.keywords))
    filled = float(_value(rest[0])) if scheme == "constant_" and rest else float(scheme == "ones_")
    return Setting(name, scheme, arguments, filled if advice.std is None else advice.std, rows=rows)


def arguments_of(setting: Setting) -> tuple[list[Any], dict[str, Any]]:
    """The arguments after the tensor, as values."""
    call = ast.parse(f"f({setting.arguments})", mode="eval").body
    assert isinstance(call, ast.Call)
    return [_value(part) for part in call.args], {part.arg or "": _value(part.value) for part in call.keywords}


def _value(node: ast.expr) -> Any:
    """A literal, or a power of two literals (``5**0.5``)."""
    match node:
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
            return ast.literal_eval(base) ** ast.literal_eval(exponent)
    return ast.literal_eval(node)


def _path(node: ast.expr) -> str:
    """The dotted name behind ``m.a[0].weight`` or ``m.get_parameter("a.0.weight")``; ``""`` for anything else."""
    match node:
        case ast.Name():
            return ""
        case ast.Call(
            func=ast.Attribute(value=inner, attr="get_parameter" | "get_submodule"),
            args=[ast.Constant(value=str(name))],
        ):
            return f"{_path(inner)}.{name}".lstrip(".")
        case ast.Attribute(value=inner, attr=leaf):
            return f"{_path(inner)}.{leaf}".lstrip(".")
        case ast.Call(func=ast.Name(id="getattr"), args=[inner, ast.Constant(value=str(leaf))]):
            return f"{_path(inner)}.{leaf}".lstrip(".")
        case ast.Subscript(value=inner, slice=ast.Constant(value=int() | str() as key)):
            return f"{_path(inner)}.{key}".lstrip(".")
    return ""
