"""The backward pass: what drives it, and how parameter gradients are reduced as soon as they are complete."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from initaudit.probe.clock import Clock
from initaudit.probe.whole import Ends, norm_and_check, stacked
from initaudit.target.tree import tensors_within

_BLOCK = 1_000_003  # a prime: the tiled noise never falls into step with a tensor's dimensions


def output_tensors(output: Any) -> list[Tensor]:
    """Every tensor that the model returned, once each, in the order of the containers that hold them.

    An object's attributes count where there is nothing else: what stands beside other outputs is a cache.
    """
    found = list(tensors_within(output, objects=False)) or list(tensors_within(output))
    return [part for tensor in {id(t): t for t in found}.values() for part in _strided(tensor)]


def _strided(tensor: Tensor) -> Sequence[Tensor]:
    """The tensor, or the plain ones of which a nested tensor is made."""
    if not tensor.is_nested:
        return (tensor,)
    parts: Sequence[Tensor] = (tensor.values(),) if tensor.layout is torch.jagged else tensor.unbind()
    return parts


def differentiable(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors that drive the backward pass: those with a gradient, and losses only when there is nothing else."""
    with_grad = [t for t in tensors if t.requires_grad and (t.is_floating_point() or t.is_complex())]
    return [t for t in with_grad if t.numel() > 1] or with_grad


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """That a tensor is the ``index``-th of ``of`` equal parts of a whole one along ``dim``."""

    dim: int
    index: int
    of: int


def cotangents(tensors: list[Tensor], seed: int, parts: Sequence[Sequence[Part]] = ()) -> list[Tensor]:
    """Seeded N(0, 1) noise for each tensor; where ``parts`` say what a tensor is part of, its part of that noise.

    Never ones: the gradient of a sum grows by itself in a ReLU net and is exactly zero behind a softmax or a
    normalization. Never the square of the output: where the output has vanished the gradient would vanish with it.
    """
    alone = len(tensors) == 1 and not (parts and parts[0])
    # Of one tensor no more is drawn than it takes: torch draws 16 at a time, and so the same ones whatever follows.
    size = min(_BLOCK, -(-tensors[0].numel() // 16) * 16 + 16) if alone else _BLOCK
    noise = torch.randn(size, generator=torch.Generator().manual_seed(seed), device="cpu")
    drawn: list[Tensor] = []
    for number, tensor in enumerate(tensors):
        shape, start, cuts = list(tensor.shape), 0, parts[number] if parts else ()
        for part in cuts:
            shape[part.dim] *= part.of
        for part in cuts:
            if part.dim == 0:  # lies side by side in memory: the rest need not be drawn
                shape[0] //= part.of
                start = part.index * math.prod(shape)
        flat = noise.roll(number - start)
        count = math.prod(shape)
        flat = (flat.repeat(-(-count // _BLOCK)) if count > _BLOCK else flat)[:count].reshape(shape)
        for part in cuts:
            if part.dim != 0:
                flat = flat.narrow(part.dim, part.index * tensor.shape[part.dim], tensor.shape[part.dim])
        drawn.append(flat.to(device=tensor.device, dtype=tensor.dtype, non_blocking=True))
    return drawn


def projection(tensors: list[Tensor], seed: int, parts: Sequence[Sequence[Part]] = ()) -> Tensor:
    """The scalar whose gradient with respect to each tensor is its cotangent; ``parts`` as of :func:`cotangents`."""
    pairs = zip(tensors, cotangents(tensors, seed, parts), strict=True)
    return torch.stack([_dot(t.flatten(), c.flatten()).to(tensors[0].device, torch.float32) for t, c in pairs]).sum()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    if a.is_complex():
        return torch.vdot(b, a).real
    return torch.dot(a, b) if a.dtype in (torch.float32, torch.float64) else (a * b).sum()  # no dot in every half


@contextmanager
def parameter_gradients(model: nn.Module, passes: Clock | None = None) -> Iterator[dict[str, tuple[float, int]]]:
    """Yields a dict that holds ``(rms, number of non-finite)`` by parameter name once the context is left.

    Each gradient is reduced and freed when it is complete, so the gradients never exist side by side. What is left of
    them comes to the host in one transfer per device; of values that are not finite only that there are some. What that
    takes is no part of ``passes``.
    """
    passes = passes or Clock()
    reduced: dict[str, tuple[float, int]] = {}
    seen: dict[torch.device, list[tuple[str, int, Ends]]] = {}
    handles = []

    def reducer(name: str) -> Any:
        def hook(parameter: Tensor) -> None:
            grad = parameter.grad
            if grad is None:
                return
            with passes.paused():
                values = (grad.coalesce().values() if grad.is_sparse else grad).detach()
                values = values.abs() if values.is_complex() else values
                seen.setdefault(values.device, []).append((name, max(1, parameter.numel()), norm_and_check(values)))
                parameter.grad = None

        return hook

    try:
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.is_leaf:
                handle = parameter.register_post_accumulate_grad_hook(reducer(name))  # type: ignore[no-untyped-call]
                handles.append(handle)
        yield reduced
    finally:
        for handle in handles:
            handle.remove()
    for found in seen.values():
        pairs = stacked([ends for _, _, ends in found]).tolist()
        for (name, count, _), (norm, check) in zip(found, pairs, strict=True):
            rms, bad = reduced.get(name, (0.0, 0))
            reduced[name] = math.hypot(rms, norm / math.sqrt(count)), bad + (not math.isfinite(check))
