"""Which module is running: forward hooks that only keep the tape's stack of scopes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from initaudit.probe.shards import is_spread_by_hooks
from initaudit.probe.tape import Tape, tensors_in


@contextmanager
def scopes(model: nn.Module, tape: Tape) -> Iterator[set[str]]:
    """Hook every module of ``model`` while inside; yields the set that fills with the fqn of each module called."""
    called: set[str] = set()
    handles = []
    hidden = _Hidden(tape)

    def enter(fqn: str, *, spread: bool) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if spread:
                hidden.end((args, kwargs))
                own = nn.Module.named_parameters(module)  # as registered: a wrapper for checkpoints tells other names
                tape.know((f"{fqn}.{name}" if fqn else name, p) for name, p in own)
            called.add(fqn)
            tape.scopes.append((fqn, (args, kwargs)))

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        hidden.end(output)
        if len(tape.scopes) > 1:
            tape.scopes.pop()

    try:
        for fqn, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes no hooks, and runs out of sight
                continue
            spread = is_spread_by_hooks(module)
            if spread:
                handles.append(module.register_forward_pre_hook(hidden.before, with_kwargs=True, prepend=True))
                handles.append(module.register_forward_hook(hidden.after, prepend=True))
            handles.append(module.register_forward_pre_hook(enter(fqn, spread=spread), with_kwargs=True))
            handles.append(module.register_forward_hook(leave, always_call=True))
        yield called
    finally:
        hidden.end(())
        for handle in handles:
            handle.remove()
        del tape.scopes[1:]


class _Hidden:
    """Keeps the tape from seeing what hooks of ``torch.distributed`` do: all that they make of a tensor is that tensor.

    They gather parameters, and cut inputs and outputs into parts or put them together, by functions of which the tape
    would see the inside and not the result.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._given: list[Tensor] = []
        self._guard: Any = None

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._begin((args, kwargs))

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        self._begin(output)

    def _begin(self, values: Any) -> None:
        self._given = tensors_in(values)
        self._guard = torch._C.DisableTorchFunction()
        self._guard.__enter__()

    def end(self, values: Any) -> None:
        if self._guard is None:
            return
        for tensor, made in zip(self._given, tensors_in(values), strict=False):
            self._tape.pass_on(tensor, made)  # it may measure, which is nothing for the tape to see either
        self._given = []
        self._guard.__exit__(None, None, None)
        self._guard = None
