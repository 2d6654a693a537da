"""Parameters whose memory was never written: ``torch.empty`` and no initializer after it.

Such memory is often zero by luck, and something else on the next machine, so looking at the values proves nothing.
Building the model while torch fills fresh memory with NaN does: what is NaN afterwards was not written.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from initaudit.probe import devices
from initaudit.probe.shards import is_shard

_FRESH = frozenset(f"aten.{name}" for name in "empty empty_strided empty_like new_empty new_empty_strided".split())


def build_and_mark(build: Callable[[], nn.Module]) -> tuple[nn.Module, frozenset[str]]:
    """The model that ``build`` makes, and the names of its parameters that were never written.

    ``build`` must make the same model each time (seed it): where NaN is found it runs again without the filling,
    so that the model returned is what a user gets, and a NaN that an initializer really wrote is told from unwritten
    memory.
    """
    with _filled_memory():
        marked = build()
    tensors = dict(marked.named_buffers()) | dict(marked.named_parameters())
    suspects = _with_nan(tensors.items())
    if not suspects:
        return marked, frozenset()
    # A large model is not there twice; but NaN must not be freed, or it is what the next build finds in its memory.
    kept = [tensors[name] for name in suspects]
    del marked, tensors
    model = build()
    _cleared(kept, model)
    if left := _with_nan(model.named_parameters()) & suspects:
        # Old memory may hold NaN by chance; what an initializer wrote is there again in memory of zeros.
        del model, kept
        with _Zeros():  # type: ignore[no-untyped-call]
            model = build()
        left &= _with_nan(model.named_parameters())
    return model, frozenset(suspects & {name for name, _ in model.named_parameters()} - left)


class _Zeros(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, fresh memory is zero."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and str(func.overloadpacket) in _FRESH:
            result.zero_()
        return result


@torch.no_grad()
def _cleared(kept: list[Tensor], model: nn.Module) -> None:
    """Leave no NaN in memory that is about to be freed, unless the factory gives the same tensors again."""
    plain = (t for t in (*model.parameters(), *model.buffers()) if not is_lazy(t) and not is_shard(t))
    living = {t.untyped_storage().data_ptr() for t in plain if t.layout is torch.strided}
    for tensor in kept:
        if tensor.layout is torch.strided and tensor.untyped_storage().data_ptr() not in living:
            tensor.nan_to_num_()


def _with_nan(named: Iterable[tuple[str, Tensor]]) -> set[str]:
    here = ((name, t) for name, t in named if not is_shard(t))  # processes with other parts would see another thing
    held = {name: t.detach() for name, t in here if not is_lazy(t) and not t.is_meta}
    floating = {name: t for name, t in held.items() if t.is_floating_point()}
    found = devices.any_nonzero([t.isnan().any() for t in floating.values()])
    return {name for name, has in zip(floating, found, strict=True) if has}


@contextmanager
def _filled_memory() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deterministic")  # ours, not the user's: nothing trains here
        # The flag alone: torch.use_deterministic_algorithms would import inductor, which takes a second.
        torch._C._set_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch._C._set_deterministic_algorithms(before[0], warn_only=before[1])
            torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
