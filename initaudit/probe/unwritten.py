"""Parameters whose memory was never written: ``torch.empty`` and no initializer after it.

Such memory is often zero by luck, and something else on the next machine, so looking at the values proves nothing.
Building the model while torch fills fresh memory with NaN does: what is NaN afterwards was not written.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


def build_and_mark(build: Callable[[], nn.Module]) -> tuple[nn.Module, frozenset[str]]:
    """The model that ``build`` makes, and the names of its parameters that were never written.

    ``build`` must make the same model each time (seed it): where NaN is found it runs once more without the filling,
    so that the model returned is what a user gets, and a NaN that an initializer really wrote is told from unwritten
    memory.
    """
    with _filled_memory():
        marked = build()
    suspects = {name for name, p in marked.named_parameters() if _has_nan(p)}
    if not suspects and not any(_has_nan(b) for b in marked.buffers()):
        return marked, frozenset()
    model = build()
    written = {name for name, p in model.named_parameters() if _has_nan(p)}
    return model, frozenset(suspects - written)


def _has_nan(tensor: torch.Tensor) -> bool:
    if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)) or tensor.is_meta:
        return False
    return tensor.is_floating_point() and bool(tensor.detach().isnan().any())


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
