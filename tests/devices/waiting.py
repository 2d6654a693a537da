"""Counting how often an audit would wait for a device, where there is none: on the host, which is told to be one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from initaudit.probe import devices

_aten = torch.ops.aten
# They need the values before they can go on: a number, the truth of a tensor, how many there are of something.
_READS = {
    _aten._local_scalar_dense.default,
    _aten.equal.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.unique_dim.default,
    _aten._unique2.default,
    _aten.is_nonzero.default,
}


@dataclass(eq=False)
class Waits(TorchDispatchMode):
    """The names of calls that wait for values of the model, of its inputs, or of what was computed from them.

    ``reads`` bring values to the host. ``uploads`` index them with numbers that the host has, each counted once; what
    was sent ahead without waiting is none.
    """

    reads: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._there: set[int] = set()
        self._sent: set[int] = set()
        self._kept: list[Any] = []  # or the number of a storage would be given to another

    def place(self, *tensors: Tensor) -> None:
        """Take ``tensors`` as being on the device."""
        for tensor in tensors:
            self._kept.append(tensor.detach())
            self._there.add(tensor.untyped_storage()._cdata)

    def holds(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._there

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        there = any(map(self.holds, given))
        if there:
            self._look(func, args)
        out = func(*args, **kwargs)
        if there:
            written = [
                a for a, s in zip(args, func._schema.arguments, strict=False) if s.alias_info and s.alias_info.is_write
            ]
            self.place(*(t for t in tree_leaves((out, written, kwargs.get("out"))) if isinstance(t, Tensor)))
        return out

    def _look(self, func: Any, args: Any) -> None:
        if func in _READS:
            self.reads.append(str(func))
        if func in (_aten.index.Tensor, _aten.index_put_.default, _aten._index_put_impl_.default):
            for index in (i for i in args[1] if i is not None):
                if index.dtype in (torch.bool, torch.uint8):
                    self.reads.append(f"{func} by a mask")
                elif not self.holds(index) and index.untyped_storage()._cdata not in self._sent:
                    self._sent.add(index.untyped_storage()._cdata)
                    self._kept.append(index)
                    self.uploads.append(str(func))


@contextmanager
def waits(model: nn.Module, *inputs: Tensor) -> Iterator[Waits]:
    """What happens inside to the model and the inputs, as if these were on a device."""
    patch, seen = pytest.MonkeyPatch(), Waits()
    seen.place(*model.parameters(), *model.buffers(), *inputs)

    def watched(name: str) -> Any:
        method = getattr(Tensor, name)

        def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if seen.holds(tensor):
                seen.reads.append(name)
            return method(tensor, *args, **kwargs)

        return call

    to = Tensor.to

    def sent(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        there = to(tensor, *args, **kwargs)
        if kwargs.get("non_blocking"):
            seen.place(there)
        return there

    with patch.context() as p:
        p.setattr(devices, "answers_at_once", lambda device: False)
        for name in ("tolist", "numpy", "cpu"):  # on the host they pass by the dispatcher
            p.setattr(Tensor, name, watched(name))
        p.setattr(Tensor, "to", sent)
        with seen:
            yield seen
