"""Building a model without the memory for it, and then one parameter at a time.

A model is built with its large tensors on the meta device, while every operation on them is written down. A parameter
is then made by doing again, on the cpu, what was done to its memory: what its module drew at first, and what the
model's own code wrote over it later. (The idea of torchdistx's deferred initialization.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

LARGE = 1 << 16  # entries from which a tensor is deferred; smaller ones are worth no trouble
_EMPTY = ("aten::empty", "aten::new_empty")  # and empty_like, empty_strided ...
_CPU = torch.device("cpu")
_META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation; ``made`` is the position of the storage among its outputs where it made one."""

    function: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    made: int | None


class Deferred(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down what is done to large tensors while it is active.

    ``seed`` is that of every draw, and ``fresh`` what memory holds that nobody has written. A draw depends on its place
    in the order of the operations alone, so that the same parameter is the same each time it is made, though not the
    numbers that a build on the cpu draws.
    """

    def __init__(self, seed: int, *, fresh: float = math.nan, large: int = LARGE) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed = seed
        self._fresh = fresh
        self._large = large
        self._steps: list[_Step] = []
        self._of: dict[int, list[int]] = {}  # storage: its steps
        self._kept: list[Tensor] = []  # so that no storage is freed and its number used again

    def build(self, build: Callable[[], nn.Module]) -> nn.Module:
        """The model that ``build`` makes; its large parameters are on the meta device, which its code cannot see."""
        with _AsOnCpu(), self:
            return build()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():  # here it is asked where a tensor really is
            return self._do(func, args, kwargs or {})

    def _do(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = _tensors((args, kwargs))
        deferred = [t for t in given if t.is_meta]
        written = [t for value in _written(func, args, kwargs) for t in _tensors(value)]
        if not deferred:
            return self._small(func, args, kwargs, made_from=given)
        if written and func._schema.name.startswith("aten::_foreach") and len(args[0]) > 1:
            return self._one_by_one(func, args, kwargs)
        if len({t.is_meta for t in written}) > 1:
            raise NotImplementedError(f"{func} writes to a large tensor and to a small one at once")
        if func is torch.ops.aten._local_scalar_dense.default or not all(t.is_meta for t in written):
            made = tree_map(lambda v: self.make(v) if isinstance(v, Tensor) and v.is_meta else v, (args, kwargs))
            return func(*made[0], **made[1])  # its outcome is needed now
        return self._later(func, args, kwargs, {_storage(t) for t in deferred}, written)

    def _one_by_one(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Write to the tensors of a list one after the other, for some may be there and others put off."""
        count = len(args[0])
        for i in range(count):
            at = (v[i : i + 1] if isinstance(v, (list, tuple)) and len(v) == count else v for v in args)
            self._do(func, tuple(at), kwargs)

    def _small(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, made_from: list[Tensor]) -> Any:
        """Do an operation on tensors that are there, or put it off when it makes a large one from nothing."""
        names = {argument.name for argument in func._schema.arguments}
        place = torch.device(kwargs.get("device") or _CPU).type
        if not made_from and "device" in names and place in ("cpu", "meta"):
            shape = func(*args, **(kwargs | {"device": "meta"}))
            # On the meta device torch itself makes the 0.0 of `t[i] = 0.0`, beside a tensor that was put off.
            if isinstance(shape, Tensor) and (place == "meta" or shape.numel() >= self._large):
                return self._later(func, args, kwargs | {"device": _CPU}, set(), [])
        result = func(*args, **kwargs)
        if _is_empty(func) and result.is_floating_point():
            result.fill_(self._fresh)
        return result

    def _later(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: set[int], written: list[Tensor]
    ) -> Any:
        if not known <= self._of.keys():
            raise NotImplementedError(f"{func} reads a tensor that was made out of sight")
        args_, kwargs_ = tree_map(_to_meta, (args, kwargs))
        names = {argument.name for argument in func._schema.arguments}
        if "device" in names and not known:
            kwargs_ = kwargs_ | {"device": _META}
        result = func(*args_, **kwargs_)
        if "dtype" in names and not known and isinstance(result, Tensor):
            kwargs = kwargs | {"dtype": result.dtype}  # the default one may be another when this is done again
        args, kwargs = tree_map(self._as_it_is, (args, kwargs))
        for tensor in written:
            self._note(tensor, _Step(func, args, kwargs, None))
        for position, tensor in enumerate(_tensors(result)):
            if tensor.is_meta and _storage(tensor) not in known:
                self._note(tensor, _Step(func, args, kwargs, position))
        return result

    def _as_it_is(self, value: Any) -> Any:
        """An argument that stays what it is, though ``p.data = ...`` gives a tensor other memory and code fills it."""
        if not isinstance(value, Tensor):
            return _CPU if value == _META and isinstance(value, torch.device) else value
        return value.detach() if value.is_meta or value.numel() >= self._large else value.detach().clone()

    def _note(self, tensor: Tensor, step: _Step) -> None:
        self._of.setdefault(_storage(tensor), []).append(len(self._steps))
        self._steps.append(step)
        self._kept.append(tensor.detach())

    def knows(self, tensor: Tensor) -> bool:
        """Whether a tensor on the meta device was made while this was active, so that its values can be."""
        return _storage(tensor) in self._of

    def make(self, tensor: Tensor) -> Tensor:
        """What ``tensor`` holds, on the cpu, or itself where it was not put off."""
        if not tensor.is_meta:
            return tensor
        with torch.no_grad(), _generator_kept():
            return _view(self._memory(_storage(tensor), len(self._steps)), tensor)

    def _memory(self, storage: int, end: int) -> Tensor:
        """The storage as one long tensor, after the steps before number ``end``."""
        memory = torch.empty(0)

        def real(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.is_meta:
                return value
            other = memory if _storage(value) == storage else self._memory(_storage(value), number)
            return _view(other, value)

        for number in self._of[storage]:
            if number >= end:
                break
            step = self._steps[number]
            args, kwargs = tree_map(real, (step.args, step.kwargs))
            torch.manual_seed(self._seed + number)
            result = step.function(*args, **kwargs)
            if step.made is not None:
                made = _tensors(result)[step.made]
                memory = made.as_strided((made.untyped_storage().nbytes() // made.element_size(),), (1,), 0)
                if _is_empty(step.function) and made.is_floating_point():
                    memory.fill_(self._fresh)
        return memory


class _AsOnCpu(TorchFunctionMode):
    """Tells code that asks where a tensor is that all are on the cpu: much of it fills nothing on the meta device."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name, owner = getattr(func, "__name__", ""), getattr(func, "__self__", None)
        if name == "__get__" and owner is Tensor.is_meta:
            return False
        return _CPU if name == "__get__" and owner is Tensor.device and result.type == "meta" else result


@contextmanager
def _generator_kept() -> Iterator[None]:
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
    """The arguments that an operation writes to."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield args[position] if position < len(args) else kwargs.get(argument.name)


def _to_meta(value: Any) -> Any:
    if isinstance(value, Tensor) and not value.is_meta:
        return value.to("meta")
    return _META if value == _CPU and isinstance(value, torch.device) else value


def _is_empty(function: Any) -> bool:
    return bool(function._schema.name.startswith(_EMPTY))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _view(memory: Tensor, like: Tensor) -> Tensor:
    if memory.dtype is not like.dtype:  # as of the real numbers that a complex one is
        memory = memory.view(like.dtype)
    return memory.as_strided(like.size(), like.stride(), like.storage_offset())


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
