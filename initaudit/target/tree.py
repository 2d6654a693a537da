"""Walking nested inputs: lists, tuples, mappings and dataclasses that hold tensors."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

_SHOWN = 3  # items of a nested container that a summary spells out


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A copy of ``value`` with ``function`` applied to every tensor; containers keep their types."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, PackedSequence):
        # batch_sizes must stay on the CPU, so only the data and the two permutations move.
        order = (None if t is None else function(t) for t in (value.sorted_indices, value.unsorted_indices))
        return PackedSequence(function(value.data), value.batch_sizes.clone(), *order)
    if isinstance(value, Mapping):
        return _map_mapping(value, function)
    if isinstance(value, torch.Size):
        return value
    if isinstance(value, tuple):
        items = [map_tensors(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, list):
        return type(value)(map_tensors(item, function) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        clone = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(clone, field.name, map_tensors(getattr(value, field.name), function))
        return clone
    return value


def _map_mapping(value: Mapping[Any, Any], function: Callable[[Tensor], Tensor]) -> Mapping[Any, Any]:
    mapped = {key: map_tensors(item, function) for key, item in value.items()}
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
