"""Walking nested inputs: lists, tuples, mappings, dataclasses and other objects that hold tensors."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

_SHOWN = 3  # items of a nested container that a summary spells out
_DEPTH = 6  # of nesting that is looked into


def tensors_within(value: Any, *, objects: bool = True) -> Iterator[Tensor]:
    """Every tensor in nested containers, as often as it stands there, and with ``objects`` in those of any class."""
    return _within(value, _DEPTH, set() if objects else None)


def _within(value: Any, depth: int, seen: set[int] | None) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    parts: Iterable[Any] = ()
    if isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, tuple | list):
        parts = value
    elif isinstance(value, torch.distributions.Distribution):
        parts = (getattr(value, name, None) for name in (*value.arg_constraints, "base_dist"))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = (getattr(value, field.name, None) for field in dataclasses.fields(value))
    elif seen is not None and id(value) not in seen and _holds_attributes(value):
        seen.add(id(value))  # objects may know each other
        parts = list(vars(value).values())
    for part in parts if depth else ():
        yield from _within(part, depth - 1, seen)


def _holds_attributes(value: Any) -> bool:
    """Whether it is an object of some class that keeps what it holds in attributes, as a batch of graphs does."""
    return hasattr(value, "__dict__") and not callable(value) and not isinstance(value, nn.Module | type | ModuleType)


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A copy of ``value`` with ``function`` applied to every tensor; containers and objects keep their types.

    numpy arrays are copied; objects in which there is no tensor are not.
    """
    return _mapped(value, function, {})


def _mapped(value: Any, function: Callable[[Tensor], Tensor], copies: dict[int, Any]) -> Any:
    """``copies`` are those of objects, by the id of the original."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, PackedSequence):
        # batch_sizes must stay on the CPU, so only the data and the two permutations move.
        order = (None if t is None else function(t) for t in (value.sorted_indices, value.unsorted_indices))
        return PackedSequence(function(value.data), value.batch_sizes.clone(), *order)
    if isinstance(value, Mapping):
        return _map_mapping(value, function, copies)
    if isinstance(value, torch.Size):
        return value
    if isinstance(value, tuple):
        items = [_mapped(item, function, copies) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, list):
        return type(value)(_mapped(item, function, copies) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        clone = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(clone, field.name, _mapped(getattr(value, field.name), function, copies))
        return clone
    if isinstance(value, np.ndarray):
        return value.copy()
    return _map_attributes(value, function, copies) if _holds_attributes(value) else value


def _map_attributes(value: Any, function: Callable[[Tensor], Tensor], copies: dict[int, Any]) -> Any:
    if id(value) not in copies:
        if next(tensors_within(value), None) is None:
            return value
        clone = copies[id(value)] = copy.copy(value)  # its class may copy more: what the copy holds is mapped
        for name, held in list(vars(clone).items()):
            vars(clone)[name] = _mapped(held, function, copies)
    return copies[id(value)]


def _map_mapping(
    value: Mapping[Any, Any], function: Callable[[Tensor], Tensor], copies: dict[int, Any]
) -> Mapping[Any, Any]:
    mapped = {key: _mapped(item, function, copies) for key, item in value.items()}
    if type(value) is dict:
        return mapped
    try:  # OrderedDict, transformers' BatchEncoding and others keep their type and extras
        clone: Any = copy.copy(value)
        for key, item in mapped.items():
            clone[key] = item
    except TypeError:  # a read-only mapping
        return mapped
    result: Mapping[Any, Any] = clone
    return result


def dtype_name(dtype: torch.dtype) -> str:
    """``"int64"`` for ``torch.int64``."""
    return str(dtype).removeprefix("torch.")


def summary(value: Any) -> str:
    """``"float32[32,64]"`` for a tensor; containers are summarised by their first items."""
    if isinstance(value, Tensor):
        return f"{dtype_name(value.dtype)}[{','.join(map(str, value.shape))}]"
    if isinstance(value, PackedSequence):
        return f"PackedSequence({summary(value.data)})"
    if isinstance(value, Mapping):
        return f"{{{_joined([f'{key}: {summary(item)}' for key, item in value.items()])}}}"
    if isinstance(value, tuple):
        return f"({_joined([summary(item) for item in value])})"
    if isinstance(value, list):
        return f"[{_joined([summary(item) for item in value])}]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [f"{f.name}={summary(getattr(value, f.name))}" for f in dataclasses.fields(value)]
        return f"{type(value).__name__}({_joined(items)})"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    return type(value).__name__


def _joined(items: list[str]) -> str:
    extra = [f"+{len(items) - _SHOWN} more"] if len(items) > _SHOWN + 1 else []
    return ", ".join((items[:_SHOWN] if extra else items) + extra)
