"""Sums over every element of a tensor, however large, where it lives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from initaudit.probe import devices

CHUNK = 4_096  # numbers summed in float32: right to 1e-5; a million together would be off by 1e-4
PIECE = 1 << 17  # numbers of which torch takes one norm in float32: right to 1e-6, and to 1e-4 where all are equal
BLOCK = 1 << 20  # elements in half precision that a processor widens at a time

Ends = tuple[float, float] | tuple[Tensor, Tensor]  # numbers of the host, or scalars on a device that is not waited for


def reader(like: Tensor) -> Callable[[Tensor], Ends]:
    """:func:`norm_and_check` for tensors of the shape, strides, dtype and device of ``like``."""
    count = _in_line(like)
    return norm_and_check if count is None else partial(_of_line, count)


def norm_and_check(tensor: Tensor) -> Ends:
    """The norm of ``tensor``, and a number that is finite where all its elements are (and their sum is).

    The norm is not finite where squares leave float32, so that a sum is taken as well; on the CPU only then, elsewhere
    always, for looking would wait for the device.
    """
    count = _in_line(tensor)
    if count is not None:
        return _of_line(count, tensor)
    work, wide = _precisions(tensor)
    norm = _norm(chunks(tensor), work, wide)
    if devices.answers_at_once(tensor.device):
        read = norm.item()
        return read, read if math.isfinite(read) else tensor.sum(dtype=work).item()
    return norm, tensor.sum(dtype=work).to(norm.dtype)


def norm_and_total(tensor: Tensor) -> Ends:
    """The norm and the sum of ``tensor``; the sum is finite where all its elements are."""
    count = _in_line(tensor)
    if count is not None:
        return _of_line(count, tensor)[0], tensor.sum().item()
    work, wide = _precisions(tensor)
    norms, totals = [], []
    for part in widened(chunks(tensor), work):
        norms.append(torch.linalg.vector_norm(part, dim=-1, dtype=work))
        totals.append(part.sum(-1, dtype=work).sum(dtype=wide))
    whole, total = _together(norms, wide), totals[0] if len(totals) == 1 else torch.stack(totals).sum()
    return (whole.item(), total.item()) if devices.answers_at_once(tensor.device) else (whole, total)


def stacked(ends: Sequence[Ends]) -> Tensor:
    """Those of k tensors on one device, ``(k, 2)`` there."""
    first = ends[0][0]
    if isinstance(first, Tensor):
        return torch.stack([end for pair in ends for end in pair]).view(-1, 2)  # type: ignore[misc]
    return torch.tensor(ends, dtype=torch.float64, device="cpu")


def _in_line(tensor: Tensor) -> int | None:
    """How many elements a tensor of moderate size on the host has, where they lie side by side in memory."""
    count = tensor.numel()
    if count > devices.FEW or tensor.dtype not in (torch.float32, torch.float64):
        return None
    return count if devices.answers_at_once(tensor.device) and _dense(tensor) else None


def _of_line(count: int, tensor: Tensor) -> tuple[float, float]:
    """The norm of a vector is the one reduction that torch does not spread over threads, however many there are.

    To wake them takes longer than to read so few elements, and setting their number takes time at each layer.
    """
    flat = tensor.as_strided((count,), (1,))
    if count <= PIECE:
        norm = torch.linalg.vector_norm(flat).item()
    else:
        norm = math.hypot(*(torch.linalg.vector_norm(piece).item() for piece in torch.split(flat, PIECE)))
    return norm, norm if math.isfinite(norm) else flat.sum().item()


def _precisions(tensor: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Of sums over a chunk, and of sums over chunks: float64 where the device has it."""
    work = torch.promote_types(tensor.dtype, torch.float32)
    return work, work if tensor.device.type == "mps" else torch.float64


def _norm(parts: list[Tensor], work: torch.dtype, wide: torch.dtype) -> Tensor:
    return _together([torch.linalg.vector_norm(part, dim=-1, dtype=work) for part in widened(parts, work)], wide)


def _together(norms: list[Tensor], wide: torch.dtype) -> Tensor:
    joined = norms[0] if len(norms) == 1 else torch.cat(norms)
    norm: Tensor = torch.linalg.vector_norm(joined, dtype=None if joined.numel() <= CHUNK else wide)
    return norm


def chunks(tensor: Tensor) -> list[Tensor]:
    """All elements, in one or two matrices of short rows where they lie side by side in memory, else as they are."""
    if not _dense(tensor):
        return [tensor if tensor.dim() > 1 else tensor[None]]
    count = tensor.numel()
    rest = count % CHUNK
    if not rest:
        return [tensor.as_strided((count // CHUNK, CHUNK), (CHUNK, 1))]
    last = tensor.as_strided((1, rest), (rest, 1), tensor.storage_offset() + count - rest)
    return [tensor.as_strided((count // CHUNK, CHUNK), (CHUNK, 1)), last] if count > rest else [last]


def widened(parts: list[Tensor], work: torch.dtype) -> Iterator[Tensor]:
    """The rows of ``parts``; on a processor those in half precision a block at a time, as ``work``.

    A processor widens by copying all it was given; in blocks that copy stays small, which takes a sixth of the time.
    All copies come in the same room, so that one is used before the next is asked for: new room for each would scatter
    what is made of them through the memory of a large model.
    """
    for part in parts:
        if part.device.type != "cpu" or part.numel() <= BLOCK or part.dtype.itemsize >= work.itemsize:
            yield part
            continue
        blocks = torch.split(part, max(1, BLOCK * len(part) // part.numel()))
        room = torch.empty(blocks[0].shape, dtype=work)
        for block in blocks:
            yield room[: len(block)].copy_(block)


def _dense(tensor: Tensor) -> bool:
    """Whether the elements lie side by side in memory, in whatever order."""
    if type(tensor) is not Tensor or tensor.is_neg():
        return False
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True
