"""The activations known by name, and their recognition from values alone. Imports torch.

``FORMS`` maps a name to ``form(x, *numbers)``, with torch's own defaults for the numbers; every form is used both to
resolve a name that a user typed and to recognise a function that a model wrote out by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from initaudit.theory.spelling import ALIASES, plain

Function = Callable[[Tensor], Tensor]


def _swish(x: Tensor, beta: float = 1.0) -> Tensor:
    return x * torch.sigmoid(beta * x)


def _quick_gelu(x: Tensor, beta: float = 1.702) -> Tensor:
    return _swish(x, beta)


def _silu(x: Tensor, beta: float = 1.0) -> Tensor:
    return F.silu(x) if beta == 1 else _swish(x, beta)


def _celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0) / alpha))


def _prelu(x: Tensor, weight: float = 0.25) -> Tensor:
    return F.leaky_relu(x, weight)


def _threshold(x: Tensor, threshold: float = 0.0, value: float = 0.0) -> Tensor:
    return F.threshold(x, threshold, value)


def _sin(x: Tensor, frequency: float = 1.0) -> Tensor:
    return torch.sin(frequency * x)


def _hardtanh(x: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    return F.hardtanh(x, low, high)


FORMS: dict[str, Callable[..., Tensor]] = {
    "identity": lambda x: x.clone(),
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "prelu": _prelu,
    "elu": F.elu,
    "celu": _celu,
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu(tanh)": partial(F.gelu, approximate="tanh"),
    "quick_gelu": _quick_gelu,
    "silu": _silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "tanh": torch.tanh,
    "hardtanh": _hardtanh,
    "erf": torch.erf,
    "sin": _sin,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "logsigmoid": F.logsigmoid,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "threshold": _threshold,
    "relu2": lambda x: F.relu(x) ** 2,
    "square": torch.square,
    "abs": torch.abs,
}

GATES: dict[str, str] = {"glu": "sigmoid", "geglu": "gelu", "swiglu": "silu", "reglu": "relu", "bilinear": "identity"}
"""``a * phi(b)`` over the two halves of the input (Shazeer 2020, arXiv:2002.05202), by the name of phi."""

KNOWN: tuple[str, ...] = (*FORMS, *GATES)
"""Every activation known by name, gates last: the rows of the table of all gains."""

# The words torch.nn.init.calculate_gain accepts, by our name.
TORCH_NAMES = {
    "identity": "linear",
    "relu": "relu",
    "leaky_relu": "leaky_relu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "selu": "selu",
}


_BY_PLAIN_NAME = {plain(name): name for name in KNOWN} | ALIASES


def canonical_name(name: str) -> str | None:
    """The library's spelling of ``name`` (``"LogSigmoid"``, ``"relu^2"``, ``"swish"`` ...), or ``None``."""
    return _BY_PLAIN_NAME.get(plain(name))


@dataclass(frozen=True, slots=True)
class Match:
    """What a function was recognised as; ``negative_slope`` belongs to the leaky family."""

    name: str
    torch_name: str | None = None
    negative_slope: float | None = None


@dataclass(frozen=True, slots=True)
class _Candidate:
    match: Match
    function: Function


def recognise(fn: Function, x: Tensor, *, tolerance: float) -> Match | None:
    """Name ``fn`` by its values at ``x`` of shape (n,); ``None`` when it is no known activation.

    ``tolerance`` is relative to ``1 + |x|``, and to the largest value of a function that stays below 1. A known
    activation times a constant is named with the constant.
    """
    y = fn(x)
    allowed = tolerance * (1 + x.abs())
    largest = float(y.abs().max().clamp(max=1))

    def agrees(other: Tensor, scale: float = largest) -> bool:
        return bool(((y - other).abs() <= allowed * max(scale, 1e-30)).all())

    if not bool(torch.isfinite(y).all()):
        return None
    if match := _affine(x, y, tolerance):
        return match
    reference = x.double()
    for candidate in _candidates(lambda at: fn(x.new_tensor(at)).tolist()):
        if agrees(candidate.function(reference).to(y.dtype)):
            return candidate.match
    for name in FORMS:
        basis = FORMS[name](reference).to(y.dtype)
        scale = float((y * basis).sum() / (basis * basis).sum().clamp(min=1e-300))
        if scale != 0 and math.isfinite(scale) and agrees(scale * basis, abs(scale)):
            return Match(f"{scale:.4g}*{name}")
    return None


def _affine(x: Tensor, y: Tensor, tolerance: float) -> Match | None:
    slope = float((y[-1] - y[0]) / (x[-1] - x[0]))
    offset = float(y[0] - slope * x[0])
    size = max(abs(slope), abs(offset))
    if size == 0 and not bool(y.any()):
        return Match("zero")
    if not bool(((y - (slope * x + offset)).abs() <= tolerance * size * (1 + x.abs())).all()):
        return None
    plain = abs(slope - 1) < tolerance and abs(offset) < tolerance
    return Match("linear", torch_name="linear" if plain else None)


def _candidates(at: Callable[[list[float]], list[float]]) -> Iterator[_Candidate]:
    """Every known form, then the families with their numbers read off from a few values of the function."""
    for name, form in FORMS.items():
        if name not in ("leaky_relu", "prelu"):  # one family, which is told by its slope below
            yield _Candidate(Match(name, TORCH_NAMES.get(name)), form)
    minus_far, minus_one, origin, tiny, one, far = at([-30.0, -1.0, 0.0, 1e-3, 1.0, 30.0])
    slope = -minus_one
    yield _Candidate(Match("leaky_relu", "leaky_relu", slope), partial(F.leaky_relu, negative_slope=slope))
    if minus_far < 0:
        yield _numbered("elu", -minus_far)
        yield _numbered("celu", -minus_far)
    if minus_far < far:
        yield _numbered("hardtanh", minus_far, far)
    if abs(one) < abs(far) and abs((rate := math.atanh(one / far)) - 1) > 1e-6:
        yield _Candidate(Match(f"{far:.4g}*tanh({rate:.4g}*x)"), lambda x: far * torch.tanh(rate * x))
    if origin > 0:
        yield _numbered("softplus", math.log(2) / origin)
    yield _numbered("softshrink", max(30.0 - far, 0.0))
    if 0 < one < 1:
        beta = math.log(one / (1 - one))
        yield _Candidate(Match(f"swish({beta:.4g})"), partial(_swish, beta=beta))
    if 0 < abs(tiny) < 1:
        yield _numbered("sin", math.asin(tiny) / 1e-3)


def _numbered(name: str, *numbers: float) -> _Candidate:
    form = FORMS[name]
    return _Candidate(Match(f"{name}({', '.join(f'{n:.4g}' for n in numbers)})"), lambda x: form(x, *numbers))
