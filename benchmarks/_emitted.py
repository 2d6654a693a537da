"""Whether code that carries out a plan does what the plan says: every parameter that it sets, and no other."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from initaudit.advice.apply import padding_row
from initaudit.advice.facts import facts_of
from initaudit.advice.settings import CENTRE, LENGTH, Setting, arguments_of
from initaudit.advice.snippet import init_function

SIGMAS = 6.0  # one of 500 million comparisons is off by more
ROUNDED = 1e-3  # the code has four digits of every number
KURTOSIS = {"uniform": 1.8, "orthogonal": 3.0}  # of the law; an orthogonal matrix has no scatter at all


def code_of(model: nn.Module, settings: Sequence[Setting]) -> str:
    """``init_weights`` for the settings, as `initaudit fix` writes it."""
    named = ((name, p.detach()) for name, p in model.named_parameters() if p.numel())
    constants = {name: float(p.flatten()[0]) for name, p in named if bool((p == p.flatten()[0]).all())}
    return init_function(settings, facts_of(model), constants, title="A plan for the whole model.")


def values_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters(remove_duplicate=False)}


def differences(model: nn.Module, before: dict[str, Tensor], settings: Sequence[Setting]) -> Iterator[str]:
    """What is not as the settings say in a model that has run their code; ``before`` is what it was."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    touched = {id(parameters[s.parameter]) for s in settings}
    for name, parameter in parameters.items():
        if id(parameter) not in touched and not _same(parameter.detach(), before[name]):
            yield f"{name} is not in the plan and was changed"
    rows = {s.parameter for s in settings if s.rows is not None}
    for setting in settings:
        tensor = parameters[setting.parameter].detach().double()
        if setting.scheme == CENTRE:
            weight = parameters[setting.of].detach().double()
            sums = weight.sum(*arguments_of(setting)[0]) if setting.arguments else weight.flatten(1).sum(1)
            if not torch.allclose(tensor, -setting.value * sums, atol=1e-4, rtol=1e-4):
                yield f"{setting.parameter} does not take off the mean"
        elif setting.scheme == LENGTH:
            norms = torch.norm_except_dim(parameters[setting.of].detach().double(), *arguments_of(setting)[0])
            if not torch.allclose(tensor, norms, rtol=1e-5):
                yield f"{setting.parameter} is not the length of what was drawn"
        elif setting.draws:
            yield from _drawn(setting, tensor, padding_row(model, setting.parameter))
        elif setting.rows is not None or setting.parameter not in rows:
            yield from _constant(setting, tensor)


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(nan=1.5), b.nan_to_num(nan=1.5))


def _constant(setting: Setting, tensor: Tensor) -> Iterator[str]:
    positional, _ = arguments_of(setting)
    value = positional[0] if positional else setting.value
    part = tensor if setting.rows is None else tensor[slice(*setting.rows)]
    if not torch.equal(part.float(), torch.full_like(part, value).float()):
        yield f"{setting.parameter} is not {value:g} throughout"


def _drawn(setting: Setting, tensor: Tensor, padding: int | None) -> Iterator[str]:
    if padding is not None:
        if bool(tensor[padding].any()):
            yield f"{setting.parameter} has a padding row that is not zero"
        tensor = torch.cat([tensor[:padding], tensor[padding + 1 :]])
    part = tensor if setting.rows is None else tensor[slice(*setting.rows)]
    for block in part.chunk(setting.blocks):
        n, rms = block.numel(), float(block.square().mean().sqrt())
        if setting.scheme == "orthogonal_":
            allowed = 5 * ROUNDED
            matrix = block.flatten(1) if block.shape[0] <= block[0].numel() else block.flatten(1).T
            gram = matrix @ matrix.T / matrix.shape[1] / rms**2
            if padding is None and not torch.allclose(gram, torch.eye(len(gram), dtype=gram.dtype), atol=1e-3):
                yield f"{setting.parameter} is not orthogonal"
        else:
            law = next((k for word, k in KURTOSIS.items() if word in setting.scheme), 3.0)
            allowed = ROUNDED + SIGMAS * math.sqrt((law - 1) / (4 * n))
        if not abs(rms / setting.value - 1) <= allowed:
            yield f"{setting.parameter} has rms {rms:.4g}, the plan says {setting.value:.4g} within {allowed:.1%}"
        if not abs(float(block.mean())) <= SIGMAS * setting.value / math.sqrt(n):
            yield f"{setting.parameter} has mean {float(block.mean()):.3g}"


def foreign_calls(code: str) -> list[str]:
    """Calls in the code of anything but ``nn.init`` and what it takes to find a tensor."""
    plain = ("nn.init.", "isinstance", "hasattr", "type", "torch.no_grad", "torch.norm_except_dim", "torch.empty_like")
    methods = {
        *("modules", "named_modules", "named_parameters", "endswith", "startswith", "numel", "chunk", "get_parameter"),
        *("get_submodule", "copy_", "flatten", "sum"),
    }
    calls = (node.func for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))
    names = [(ast.unparse(f), f.attr if isinstance(f, ast.Attribute) else "") for f in calls]
    return [name for name, method in names if not name.startswith(plain) and method not in methods]
