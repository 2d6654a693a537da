"""Reading a number from a device waits until it has done all that it was given to do, and so does writing one there.

An audit that did either at each layer would make an accelerator wait for Python. So what is measured stays on its
device until the end of the run; only the memory of the host is read at once, where that saves work.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

FEW = 1 << 20  # elements up to which waking a second thread gains little or nothing


def answers_at_once(device: torch.device) -> bool:
    """Whether numbers on ``device`` can be read without waiting."""
    return device.type == "cpu"


def sent(values: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    """``values`` as int64 on ``device``, without waiting until they are there."""
    held = values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.int64, device="cpu")
    return held.to(device, non_blocking=True)


def any_nonzero(flags: Sequence[Tensor]) -> list[bool]:
    """Of scalars on any devices, which are not zero: one transfer per device."""
    found = [False] * len(flags)
    for device in {flag.device for flag in flags}:
        mine = [i for i, flag in enumerate(flags) if flag.device == device]
        for i, value in zip(mine, torch.stack([flags[i] != 0 for i in mine]).tolist(), strict=True):
            found[i] = value
    return found


class one_thread_for:  # noqa: N801  # used as a function, and entered too often for a generator
    """Leave a few elements in the processor's memory to the thread that asks: waking others takes 40 µs, reading 10."""

    __slots__ = ("_before",)

    def __init__(self, elements: int, device: torch.device) -> None:
        alone = elements <= FEW and device.type == "cpu" and _threads_can_change()
        self._before = torch.get_num_threads() if alone else 1

    def __enter__(self) -> None:
        if self._before != 1:
            torch.set_num_threads(1)

    def __exit__(self, *failure: object) -> None:
        if self._before != 1:
            torch.set_num_threads(self._before)


@cache
def _threads_can_change() -> bool:
    """Whether torch takes another number of threads once it has started some: only with OpenMP."""
    return "parallel backend: OpenMP" in torch.__config__.parallel_info()
