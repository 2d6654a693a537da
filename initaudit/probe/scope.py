"""Which module is running: forward hooks that only keep the tape's stack of scopes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from initaudit.probe.tape import Tape


@contextmanager
def scopes(model: nn.Module, tape: Tape) -> Iterator[set[str]]:
    """Hook every module of ``model`` while inside; yields the set that fills with the fqn of each module called."""
    called: set[str] = set()
    handles = []

    def enter(fqn: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            called.add(fqn)
            tape.scopes.append((fqn, (args, kwargs)))

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if len(tape.scopes) > 1:
            tape.scopes.pop()

    try:
        for fqn, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes no hooks, and runs out of sight
                continue
            handles.append(module.register_forward_pre_hook(enter(fqn), with_kwargs=True))
            handles.append(module.register_forward_hook(leave, always_call=True))
        yield called
    finally:
        for handle in handles:
            handle.remove()
        del tape.scopes[1:]
