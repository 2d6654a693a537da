"""Leave no trace: whatever the probe or the model's own forward changes is put back, on success and on failure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import compress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from initaudit.probe import devices
from initaudit.probe.shards import is_shard, local


class Snapshot:
    """The state of a model: parameters, buffers, gradients, flags, hooks and plain attributes of every module.

    Buffers and plain tensor attributes are copied at once, for they are small. Parameters are copied only when
    something is about to write to them (:meth:`before_write`), so that a large model costs no second copy. A second
    name of each tensor's memory is kept, by which it finds back where the forward pass gave it another (``m.half()``).
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [(m, dict(m.__dict__), _containers(m)) for m in model.modules()]
        self._parameters = [(p, p.requires_grad, p.grad, [dict(h) for h in _hooks(p)]) for p in model.parameters()]
        self._memory = [(b, b.data) for b in {id(b): b for b in _state_tensors(model)}.values()]
        self._written = [(data, data.clone()) for _, data in self._memory]
        self._storages: dict[int, list[Tensor]] = {}
        for p in model.parameters():
            held = None if is_lazy(p) else local(p)
            if held is not None and held.layout is torch.strided:
                if not is_shard(p):  # whose memory is that of the tensor it is made of
                    self._memory.append((p, p.data))
                self._storages.setdefault(held.untyped_storage().data_ptr(), []).append(held.data)
            p.grad = None
        self._generators = [
            (value, value.get_state())
            for _, attributes, _ in self._modules
            for value in attributes.values()
            if isinstance(value, torch.Generator)
        ]

    def before_write(self, tensor: Tensor) -> None:
        """Call before ``tensor`` is written in place: if it is a parameter, or shares memory with one, keep a copy."""
        held = local(tensor) if self._storages else None
        if held is None or held.layout is not torch.strided:
            return
        for data in self._storages.pop(held.untyped_storage().data_ptr(), ()):
            self._written.append((data, data.clone()))

    def restore(self) -> None:
        with torch.no_grad():
            for module, attributes, containers in self._modules:
                for value, content in containers:
                    _refill(value, content)
                _refill(module.__dict__, attributes)
            for data, copy in self._overwritten():
                data.copy_(copy)
            for tensor, data in self._memory:
                if (tensor.data_ptr(), tensor.dtype, tensor.shape) != (data.data_ptr(), data.dtype, data.shape):
                    tensor.data = data
            for parameter, requires_grad, grad, hooks in self._parameters:
                if isinstance(parameter, nn.UninitializedParameter):  # its module never came to make it
                    continue
                parameter.requires_grad_(requires_grad)
                parameter.grad = grad
                for now, before in zip(_hooks(parameter), hooks, strict=True):
                    _refill(now, before)
        for generator, state in self._generators:
            generator.set_state(state)

    def _overwritten(self) -> list[tuple[Tensor, Tensor]]:
        """Memory that was written since its copy was taken, with that copy; all on one device are compared at once."""
        near = [pair for pair in self._written if devices.answers_at_once(pair[0].device)]
        far = [pair for pair in self._written if not devices.answers_at_once(pair[0].device)]
        differ = devices.any_nonzero([(data != copy).any() for data, copy in far])
        return [pair for pair in near if not torch.equal(*pair)] + list(compress(far, differ))


def _hooks(parameter: Tensor) -> tuple[dict[int, Any], ...]:
    """The dicts of its gradient hooks: of those that wait for the gradient, and of those that follow it."""
    return tuple(getattr(parameter, name, None) or {} for name in ("_backward_hooks", "_post_accumulate_grad_hooks"))


def _state_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Buffers, and every plain tensor that a module holds as an attribute or in a container of its own."""
    for module in model.modules():
        for value in _held(module.__dict__):
            plain = isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and not is_lazy(value)
            held = local(value) if plain else None
            if held is not None and held.layout is torch.strided:
                yield held


def _containers(module: nn.Module) -> list[tuple[Any, Any]]:
    """The dicts, lists and sets that a module holds, nested ones too, each with a copy of what was in it."""
    return [
        (value, value.copy())
        for value in _held(module.__dict__)
        if isinstance(value, (dict, list, set)) and hasattr(value, "copy")
    ]


def _held(container: Any, depth: int = 5) -> Iterator[Any]:
    """What is in ``container``, and in the dicts, lists and tuples in it."""
    for value in container.values() if isinstance(container, dict) else container:
        yield value
        if depth and isinstance(value, (dict, list, tuple)):
            yield from _held(value, depth - 1)


def _refill(value: Any, content: Any) -> None:
    if isinstance(value, list):
        if len(value) != len(content) or any(a is not b for a, b in zip(value, content, strict=True)):
            value[:] = content
    elif isinstance(value, dict):
        if list(value) != list(content) or any(value[k] is not content[k] for k in content):
            value.clear()
            value.update(content)
    elif value != content:
        value.clear()
        value.update(content)


@contextmanager
def random_state(seed: int) -> Iterator[None]:
    """Seed every global generator inside, and set each back to where it was afterwards."""
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state())
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        seed_all(seed)
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)
        if mps is not None:
            torch.mps.set_rng_state(mps)


def seed_all(seed: int) -> None:
    """Seed the generators that models draw from: torch's (all devices), Python's and numpy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def unchanged(model: nn.Module, seed: int) -> Iterator[Snapshot]:
    """Inside, gradients are on and the generators seeded; afterwards model and process are as they were."""
    default_dtype = torch.get_default_dtype()
    with torch.inference_mode(False), torch.enable_grad(), random_state(seed):
        snapshot = Snapshot(model)
        try:
            yield snapshot
        finally:
            snapshot.restore()
            torch.set_default_dtype(default_dtype)
