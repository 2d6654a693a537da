"""Which argument of a call is the weight, which the bias, which the data, and what the fans of that use are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from initaudit.probe import ops
from initaudit.theory.fans import fans_of_op


@dataclass(frozen=True, slots=True)
class WeightUse:
    """One weight in one call: the tensor while the call is being recorded, and its effective fans."""

    tensor: Tensor
    fan_in: float
    fan_out: float


@dataclass(frozen=True, slots=True)
class Operands:
    """What a layer call was given. ``data`` is the input that the weights multiply, ``bias`` what is added."""

    weights: tuple[WeightUse, ...]
    data: Tensor | None
    bias: Tensor | None = None


_POSITIONS = {"linear": (0, 1, 2), "addmm": (1, 2, 0), "baddbmm": (1, 2, 0), "addbmm": (1, 2, 0), "bilinear": (0, 2, 3)}
_CONV = (0, 1, 2)


def split(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Operands | None:
    """The operands of a call named ``name`` that always has a weight, or of a product; ``None`` for any other call.

    For a product of two tensors the caller decides which of them is the weight: see :func:`product`.
    """
    if name in ops.EMBEDDINGS:
        weight, data = _argument(args, kwargs, 1, "weight"), _argument(args, kwargs, 0, "input")
        fan_in = _rows_in_a_bag(args, kwargs) if name == "embedding_bag" else 1.0
        if data is not None and data.is_floating_point():  # the operator itself has them the other way round
            weight, data = data, weight
        return Operands((WeightUse(weight, fan_in, float(weight.shape[-1])),), data)
    if name in ops.RECURRENT:
        return _recurrent(name, args)
    if name.startswith("conv"):
        data, weight, bias = (
            _argument(args, kwargs, i, key) for i, key in zip(_CONV, ("input", "weight", "bias"), strict=True)
        )
        general = name == "convolution"  # the one operator that all others become
        groups = _argument(args, kwargs, 8 if general else 6, "groups")
        stride = _argument(args, kwargs, 3, "stride")
        if general and _argument(args, kwargs, 6, "transposed"):
            name = "conv_transpose"
        groups = groups if isinstance(groups, int) and groups > 0 else 1
        fans = fans_of_op(name, tuple(weight.shape), groups=groups, stride=stride if stride is not None else 1)
        return Operands((WeightUse(weight, fans[0], fans[1]),), data, bias)
    if name in _POSITIONS:
        where = _POSITIONS[name]
        keys = {"linear": ("input", "weight", "bias"), "bilinear": ("input1", "weight", "bias")}.get(
            name, ("mat1", "mat2", "input")
        )
        data, weight, bias = (_argument(args, kwargs, i, key) for i, key in zip(where, keys, strict=True))
        if not isinstance(weight, Tensor) or not isinstance(data, Tensor):
            return None
        fans = fans_of_op(name, tuple(weight.shape))
        return Operands((WeightUse(weight, fans[0], fans[1]),), data, bias if isinstance(bias, Tensor) else None)
    return None


def product(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], weight_at: int) -> Operands | None:
    """The operands of ``matmul``-like call ``name`` whose tensor number ``weight_at`` is the weight."""
    tensors = factors(name, args, kwargs)
    weight, data = tensors[weight_at], tensors[1 - weight_at]
    fans: tuple[float, float] | None
    if name == "einsum":
        fans = _einsum_fans(args[0], weight, weight_at) if isinstance(args[0], str) else None
    elif name == "tensordot":
        fans = _tensordot_fans(_argument(args, kwargs, 2, "dims"), weight, weight_at)
    elif weight.dim() < 1:
        return None
    else:
        right = (weight_at == 1) != (name == "__rmatmul__")
        rows, columns = (weight.shape[-2], weight.shape[-1]) if weight.dim() > 1 else (weight.shape[0], 1)
        fans = (rows, columns) if right or weight.dim() == 1 else (columns, rows)
    if fans is None:
        return None
    added = args[0] if name == "baddbmm" and args else None
    return Operands((WeightUse(weight, float(fans[0]), float(fans[1])),), data, added)


def factors(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that the product ``name`` multiplies; what ``baddbmm`` adds is none of them."""
    given = [*args, *(value for key, value in kwargs.items() if key != "out")]
    flat = [t for value in given for t in (value if isinstance(value, (list, tuple)) else (value,))]
    tensors = [t for t in flat if isinstance(t, Tensor)]
    return tensors[1:] if name == "baddbmm" else tensors


def _tensordot_fans(dims: Any, weight: Tensor, weight_at: int) -> tuple[float, float] | None:
    """Fan-in is the product of the weight's dimensions that are summed over, fan-out that of the others."""
    if isinstance(dims, int):
        mine: Sequence[int] = range(dims) if weight_at else range(weight.dim() - dims, weight.dim())
    elif isinstance(dims, (tuple, list)) and len(dims) == 2 and isinstance(dims[weight_at], (tuple, list)):
        mine = dims[weight_at]
    else:
        return None
    fan_in = math.prod(weight.shape[d] for d in mine)
    return float(fan_in), weight.numel() / max(fan_in, 1)


def _einsum_fans(equation: str, weight: Tensor, weight_at: int) -> tuple[float, float] | None:
    """Fan-in is what is summed over, fan-out what only the weight brings; letters in all three are copies (experts)."""
    sides = equation.replace(" ", "").replace("...", "").split("->")
    terms = sides[0].split(",")
    if len(terms) != 2:
        return None
    letters = "".join(terms)
    implied = "".join(letter for letter in letters if letters.count(letter) == 1)
    mine, other, out = terms[weight_at], terms[1 - weight_at], sides[1] if len(sides) == 2 else implied
    sizes = dict(zip(reversed(mine), reversed(weight.shape), strict=False))
    fan_in = math.prod(n for letter, n in sizes.items() if letter not in out)
    fan_out = math.prod(n for letter, n in sizes.items() if letter in out and letter not in other)
    return float(fan_in), float(fan_out)


def _rows_in_a_bag(args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    """The fan-in of ``embedding_bag``: a sum of L rows has L times their variance, a mean 1/L, a maximum about that."""
    tokens, offsets = _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 2, "offsets")
    bags = tokens.shape[0] if tokens.dim() > 1 else offsets.numel() if isinstance(offsets, Tensor) else 1
    rows = tokens.numel() / bags if bags and tokens.numel() else 1.0
    mode = _argument(args, kwargs, 6, "mode") or "mean"
    return float(rows if mode == "sum" else 1 / rows if mode == "mean" else 1.0)


def _recurrent(name: str, args: Sequence[Any]) -> Operands | None:
    if name.endswith("_cell"):
        weights = [a for a in args[2:4] if isinstance(a, Tensor)]
    else:
        groups = [
            a for a in args if isinstance(a, (list, tuple)) and len(a) >= 2 and all(isinstance(t, Tensor) for t in a)
        ]
        weights = [w for w in groups[-1] if w.dim() == 2] if groups else []
    uses = [WeightUse(w, float(w.shape[1]), float(w.shape[0])) for w in weights]
    return Operands(tuple(uses), args[0]) if uses and isinstance(args[0], Tensor) else None


def _argument(args: Sequence[Any], kwargs: Mapping[str, Any], position: int, key: str) -> Any:
    return args[position] if len(args) > position else kwargs.get(key)
