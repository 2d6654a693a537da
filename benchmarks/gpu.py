"""What does an audit cost on a GPU beside the model's own forward and backward pass?

    python benchmarks/gpu.py [--quick] [--models resnet50 gpt2 mlp] [--repeats 7]

Milliseconds between two CUDA events, around a plain forward and backward pass and around `audit(model, inputs)`:
medians of pairs that take turns. Then how often each waits for the device, as torch counts it, and the peak of its
memory. Where there is no GPU it says so; with `--quick` it then runs once on the processor.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from _common import environment, parser, quiet, show  # first: it sets the environment of torch

# isort: split
import torch
from overhead import MODELS, make, plain_pass
from torch import Tensor, nn

from initaudit import audit


def milliseconds(action: Callable[[], object], device: str) -> float:
    """Of ``action``, on the device's own clock where that is a GPU."""
    if device != "cuda":
        started = time.perf_counter()
        action()
        return 1e3 * (time.perf_counter() - started)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    action()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end))


def waits(action: Callable[[], object], device: str) -> int:
    """How often ``action`` waits for the GPU."""
    if device != "cuda":
        return 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            action()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(w.message) for w in caught)


def peak(action: Callable[[], object], device: str) -> float:
    """MiB that tensors hold at most during ``action``."""
    if device != "cuda":
        return float("nan")
    torch.cuda.reset_peak_memory_stats()
    action()
    return torch.cuda.max_memory_allocated() / 2**20


def moved(made: tuple[nn.Module, Any], device: str) -> tuple[nn.Module, Any]:
    model, inputs = made
    there = {name: t.to(device) for name, t in inputs.items()} if not isinstance(inputs, Tensor) else inputs.to(device)
    return model.to(device), there


def row(name: str, device: str, repeats: int) -> tuple[list[object], float]:
    """Of the table, and the ratio."""
    model, inputs = moved(make(name), device)
    actions = (lambda: plain_pass(model, inputs), lambda: audit(model, inputs))
    for action in actions:
        action()
    pairs = [[milliseconds(action, device) for action in actions] for _ in range(repeats)]
    plain, audited = (median(times) for times in zip(*pairs, strict=True))
    counts = [waits(action, device) for action in actions]
    memory = [peak(action, device) for action in actions]
    figures = [f"{plain:.1f}", f"{audited:.1f}", f"{audited / plain:.2f}"]
    return [name, *figures, *counts, *(f"{m:.0f}" for m in memory)], audited / plain


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--models", nargs="+", choices=MODELS, default=["resnet50", "gpt2", "mlp"])
    options.add_argument("--repeats", type=int, default=7)
    given = options.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "none"
    print(environment(GPU=name))
    if device == "cpu" and not given.quick:
        print("gpu: there is no GPU here that torch can use, so nothing was measured")
        return
    names, repeats = (["tiny"], 1) if given.quick else (given.models, given.repeats)
    with quiet():
        rows = [row(name, device, repeats) for name in names]
    headers = ("model", "plain ms", "audit ms", "ratio", "plain waits", "audit waits", "plain MiB", "audit MiB")
    show(headers, [cells for cells, _ in rows])
    told = ", ".join(f"{name} {ratio:.2f}" for name, (_, ratio) in zip(names, rows, strict=True))
    print(f"gpu: {told} times a plain forward and backward pass on {device}")


if __name__ == "__main__":
    main()
