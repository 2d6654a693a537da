"""Python expressions of modules and parameters below a model, as a person would write them."""

from __future__ import annotations

from collections.abc import Mapping
from keyword import iskeyword

from torch import nn

_LISTS = (nn.Sequential, nn.ModuleList, nn.ParameterList)
_DICTS = (nn.ModuleDict, nn.ParameterDict)


def module_access(modules: Mapping[str, nn.Module], fqn: str) -> str:
    """The Python expression of module ``fqn`` below a model named ``m``: ``m.body[0].attn``."""
    expression, path = "m", ""
    for part in fqn.split(".") if fqn else ():
        parent = modules.get(path)
        path = f"{path}.{part}" if path else part
        expression += _entry(parent, part) or f".get_submodule({part!r})"
    return expression


def parameter_access(modules: Mapping[str, nn.Module], owner: str, leaf: str) -> str:
    """The Python expression of a parameter of module ``owner``; ``leaf`` may be a path, into its parametrizations."""
    expression, (*inner, last) = module_access(modules, owner), leaf.split(".")
    for part in inner:
        expression += _entry(None, part) or f".get_submodule({part!r})"
    return expression + member(modules.get(".".join(filter(None, (owner, *inner)))), last)


def member(module: nn.Module | None, leaf: str) -> str:
    """What stands behind the expression of ``module`` to reach its own parameter ``leaf``."""
    return _entry(module, leaf) or f".get_parameter({leaf!r})"


def _entry(parent: nn.Module | None, part: str) -> str:
    """``.part``, or the index or the key of an entry; empty where the name can be written as neither."""
    if isinstance(parent, _DICTS):
        return f"[{part!r}]"
    if isinstance(parent, _LISTS) and part.isdecimal() and _place(parent, part) == int(part):
        return f"[{part}]"
    return f".{part}" if part.isidentifier() and not iskeyword(part) else ""


def _place(parent: nn.Module, part: str) -> int:
    """Where an entry of a list stands, which is another number than its name once an entry before it was deleted."""
    entries = [*parent._modules, *parent._parameters]
    return entries.index(part) if part in entries else int(part)
