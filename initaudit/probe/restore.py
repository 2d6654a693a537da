"""Leave no trace: whatever the probe or the model's own forward changes is put back, on success and on failure."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from itertools import compress
from operator import eq, is_
from typing import Any, get_args

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
    Modules in lists and attributes of others, which torch does not know, belong to it, and so do those of ``also``.
    """

    def __init__(self, model: nn.Module, also: Iterable[nn.Module] = ()) -> None:
        held = _Held()
        for root in (model, *also):
            held.add(root)
        self._modules = [(m, attributes) for m, attributes in held.modules.values()]
        self._containers = held.containers
        parameters: dict[int, Tensor] = {id(p): p for root in held.roots for p in root.parameters()}
        self._parameters = [(p, p.requires_grad, p.grad, [dict(h) for h in _hooks(p)]) for p in parameters.values()]
        self._memory = [(b, b.data) for b in {id(b): b for b in held.state()}.values()]
        self._written = [(data, data.clone()) for _, data in self._memory]
        self._unwritten: list[Tensor] = []
        for p, *_ in self._parameters:
            part = None if is_lazy(p) else local(p)
            if part is not None and part.layout is torch.strided:
                data = part.data
                if not is_shard(p):  # whose memory is that of the tensor it is made of
                    self._memory.append((p, data))
                self._unwritten.append(data)
            p.grad = None
        for p in held.scripted:
            self.before_write(p)  # scripted code writes out of sight
        self._foreign: list[tuple[Tensor, Tensor | None]] = []
        self._arrays = [(array, array.copy()) for array in held.arrays]
        self._generators = [(generator, _state(generator)) for generator in held.generators]

    def before_backward(self) -> None:
        """Call before a backward pass, during which writes are not seen: hooks of the user's may write, or train."""
        self._hooked = any(any(hooks) for *_, hooks in self._parameters) or any(
            module._backward_hooks or module._backward_pre_hooks for module, _ in self._modules
        )
        if self._hooked:
            for parameter, *_ in self._parameters:
                self.before_write(parameter)

    def after_backward(self) -> None:
        """Put back what hooks wrote, before the weights are judged."""
        if self._hooked:
            with torch.no_grad():
                for data, copy in self._overwritten():
                    data.copy_(copy)

    def hold_gradient(self, tensor: Tensor) -> None:
        """Call for a leaf that is no parameter of the model, before a backward pass reaches it."""
        self._foreign.append((tensor, tensor.grad))
        tensor.grad = None

    def before_write(self, tensor: Tensor) -> None:
        """Call before ``tensor`` is written in place: if it is a parameter, or shares memory with one, keep a copy."""
        held = local(tensor)
        if held is None or held.layout is not torch.strided:
            return
        for data in self._storages.pop(held.untyped_storage().data_ptr(), ()):
            self._written.append((data, data.clone()))

    @cached_property
    def _storages(self) -> dict[int, list[Tensor]]:
        """The parameters of which there is no copy yet, by their memory; many a model writes nothing in place."""
        found: dict[int, list[Tensor]] = {}
        for data in self._unwritten:
            found.setdefault(data.untyped_storage().data_ptr(), []).append(data)
        return found

    def restore(self) -> None:
        with torch.no_grad():
            for value, content in self._containers:
                if value or content:  # most are empty, and were
                    refill(value, content)
            for module, attributes in self._modules:
                refill(module.__dict__, attributes)
            for data, copy in self._overwritten():
                data.copy_(copy)
            for tensor, data in self._memory:
                if (tensor.data_ptr(), tensor.dtype, tensor.shape) != (data.data_ptr(), data.dtype, data.shape):
                    tensor.data = data
            for tensor, gradient in self._foreign:
                tensor.grad = gradient
            for array, content in self._arrays:
                if array.flags.writeable:
                    array[...] = content
            for parameter, requires_grad, grad, hooks in self._parameters:
                if is_lazy(parameter):  # its module never came to make it
                    continue
                parameter.requires_grad_(requires_grad)
                parameter.grad = grad
                for now, before in zip(_hooks(parameter), hooks, strict=True):
                    refill(now, before)
        for generator, state in self._generators:
            _set_state(generator, state)

    def _overwritten(self) -> list[tuple[Tensor, Tensor]]:
        """Memory that was written since its copy was taken, with that copy; all on one device are compared at once."""
        near = [pair for pair in self._written if devices.answers_at_once(pair[0].device)]
        far = [pair for pair in self._written if not devices.answers_at_once(pair[0].device)]
        differ = devices.any_nonzero([(data != copy).any() for data, copy in far])
        return [pair for pair in near if not torch.equal(*pair)] + list(compress(far, differ))


def _hooks(parameter: Tensor) -> tuple[dict[int, Any], ...]:
    """The dicts of its gradient hooks: of those that wait for the gradient, and of those that follow it."""
    return parameter._backward_hooks or {}, getattr(parameter, "_post_accumulate_grad_hooks", None) or {}


class _Held:
    """What modules hold: ``containers``, each dict, list and set with a copy of what is in it, tensors, generators.

    ``modules`` are the modules themselves by their id, each with a copy of its attributes, ``roots`` those that belong
    to no other, and ``scripted`` the parameters of compiled code.
    """

    def __init__(self) -> None:
        self.roots: list[nn.Module] = []
        self.modules: dict[int, tuple[nn.Module, dict[str, Any]]] = {}
        self.containers: list[tuple[Any, Any]] = []
        self.tensors: list[Tensor] = []
        self.scripted: list[Tensor] = []
        self.arrays: list[np.ndarray[Any, Any]] = []
        self.generators: list[_Generator] = []

    def add(self, root: nn.Module) -> None:
        """A module, its parts, and what they hold."""
        self.roots.append(root)
        new = [m for m in root.modules() if id(m) not in self.modules]
        self.modules.update((id(m), (m, m.__dict__.copy())) for m in new)
        for module in new:
            if isinstance(module, torch.jit.ScriptModule):  # which has them elsewhere than in its attributes
                self.tensors.extend(module.buffers(recurse=False))
                self.scripted.extend(module.parameters(recurse=False))
            self.enter(module.__dict__.values(), 5)

    def enter(self, values: Iterable[Any], depth: int) -> None:
        for value in values:
            kind = _kind(type(value))  # type: ignore[arg-type]  # a class is hashable
            if kind is None:
                continue
            if kind is Tensor:
                self.tensors.append(value)
            elif kind is nn.Module:
                if id(value) not in self.modules:
                    self.add(value)
            elif kind is np.ndarray:
                self.arrays.append(value)
            elif kind in _GENERATORS:
                self.generators.append(value)
            else:
                if kind is not tuple:
                    self.containers.append((value, value.copy() if value else ()))
                if value and depth and kind is not set:
                    self.enter(value.values() if kind is dict else value, depth - 1)

    def state(self) -> Iterator[Tensor]:
        """Buffers, and every plain tensor that a module holds as an attribute or in a container of its own."""
        for value in self.tensors:
            held = None if isinstance(value, nn.Parameter) or is_lazy(value) else local(value)
            if held is not None and held.layout is torch.strided:
                yield held


_Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
_GENERATORS = get_args(_Generator)
_KINDS = (dict, list, set, tuple, deque, Tensor, nn.Module, np.ndarray, *_GENERATORS)


@lru_cache(maxsize=4096)
def _kind(held: type) -> type | None:
    """Which of these a class is, if what it holds can change; of modules each keeps its own."""
    found = next((kind for kind in _KINDS if issubclass(held, kind)), None)
    return found if found not in (dict, list, set) or hasattr(held, "copy") else None


def _state(generator: _Generator) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.bit_generator.state if isinstance(generator, np.random.Generator) else generator.get_state()


def _set_state(generator: _Generator, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def _same(value: Any, content: Any) -> bool:
    """Whether a container holds, in the same order, the very things that are in ``content``."""
    if len(value) != len(content):
        return False
    if not isinstance(value, dict):
        return all(map(is_, value, content))
    return all(map(is_, value.values(), content.values())) and all(map(eq, value, content))


def refill(value: Any, content: Any) -> None:
    """Let a container hold what is in ``content``, in that order, again."""
    if isinstance(value, list):
        if not _same(value, content):
            value[:] = content
    elif isinstance(value, deque):
        if not _same(value, content):
            value.clear()
            value.extend(content)
    elif isinstance(value, dict):
        if not _same(value, content):
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
    if _has_accelerator():
        torch.manual_seed(seed)
    else:  # torch.manual_seed notes where it was called from, for devices that may be found later
        torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _has_accelerator() -> bool:
    """Whether there is another device than the processor, as far as this torch (2.6 and newer) can tell."""
    known = getattr(torch, "accelerator", None)
    return known is None or bool(known.is_available())


@contextmanager
def unchanged(model: nn.Module, seed: int, also: Iterable[nn.Module] = ()) -> Iterator[Snapshot]:
    """Inside, gradients are on and the generators seeded; afterwards model and process are as they were.

    So are the modules of ``also``, which take part though they are none of the model's.
    """
    default_dtype = torch.get_default_dtype()
    with torch.inference_mode(False), torch.enable_grad(), random_state(seed):
        snapshot = Snapshot(model, also)
        try:
            yield snapshot
        finally:
            snapshot.restore()
            torch.set_default_dtype(default_dtype)
