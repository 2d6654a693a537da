"""Names of trainable tensors that torch does not know to be a model's: in plain lists, dicts and hidden modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

_REGISTRIES = frozenset({"_parameters", "_buffers", "_modules"})
_DEPTH = 4  # of nesting that is looked into


def names_of(model: nn.Module, tensors: Iterable[Tensor]) -> tuple[str, ...]:
    """``"blocks[0].weight"`` for each of ``tensors``; one that no attribute leads to is named by its shape."""
    wanted = {id(tensor): tensor for tensor in tensors}
    if not wanted:
        return ()
    found: dict[int, str] = {}
    for fqn, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute not in _REGISTRIES:
                path = f"{fqn}.{attribute}" if fqn else attribute
                for name, tensor in _inside(value, path, _DEPTH):
                    found.setdefault(id(tensor), name)
    return tuple(found.get(key) or f"a tensor of shape {list(tensor.shape)}" for key, tensor in wanted.items())


def _inside(value: Any, path: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, nn.Module):
        yield from ((f"{path}.{name}", parameter) for name, parameter in value.named_parameters())
    elif depth and isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, held in items:
            yield from _inside(held, f"{path}[{key!r}]", depth - 1)
