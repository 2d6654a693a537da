"""The part of a tensor that is looked at: whole units at the same random positions of the same random samples.

So unit-level and across-sample statistics mean what they say. The choice depends on the shape and the seed only: two
networks that compute the same numbers are looked at in the same places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from initaudit.probe import devices
from initaudit.probe.devices import sent
from initaudit.probe.workspace import Units

Numbers = npt.NDArray[np.int64]

SAMPLE = 32_768  # elements up to which an activation is looked at as a whole
BUDGET = 8_192  # elements looked at in a larger one
GRADIENT_SAMPLE = 8_192  # elements up to which a gradient is looked at as a whole
GRADIENT_BUDGET = 2_048  # elements looked at in a larger one, of which rules ask for orders of magnitude
MAX_SAMPLES = 32  # of the batch
MAX_UNITS = 1_024  # whose every statistic is taken; whether they are dead or saturated is asked of all
UNIT_ROWS = 32  # elements of each unit that are asked
_DRAWN = BUDGET  # random numbers, as many as the most that are picked


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to look in tensors of one shape and order in memory.

    ``shape`` ``(samples, positions, units)`` is that of the sample, and ``whole`` says that it is the whole tensor.
    ``places`` are indices into rows of ``width`` elements of its memory, ``reach`` of them in all, or ``None`` where
    the tensor itself has to be asked, by ``index`` and ``chosen`` units. Where the sample leaves
    units out, ``every`` tells at which samples and positions all of them are looked at, and ``seen`` at how many units
    and elements of each.
    """

    shape: torch.Size
    whole: bool
    index: tuple[Tensor, ...] = ()
    chosen: Tensor | None = None
    places: Tensor | None = None
    width: int = 1
    reach: int = 0
    every: tuple[slice, slice] | None = None
    seen: tuple[int, int] = (0, 0)


class Sampler:
    """Makes the plan for each shape once."""

    def __init__(self, seed: int) -> None:
        # For samples, positions and units; the same for all shapes, for to draw takes longer than to look.
        self._luck = np.random.default_rng(seed % 2**64).random((3, _DRAWN))

    def plan(self, tensor: Tensor, unit_dim: int, *, gradient: bool) -> Plan:
        """How to look at ``tensor``; of ``gradient`` fewer elements, and not at each of its units."""
        ordered = in_order(tensor, unit_dim)
        shape = ordered.shape
        if tensor.numel() <= (GRADIENT_SAMPLE if gradient else SAMPLE):
            return Plan(torch.Size([shape[0], math.prod(shape[1:-1]), shape[-1]]), True)
        samples, middle, units = self._choose(shape, gradient)
        all_units = len(units) == shape[-1]
        taken = torch.Size([len(samples), len(middle[0]) if middle else 1, len(units)])
        index = (samples[:, None], *(m[None, :] for m in middle))
        every, looked = (None, 0) if all_units or gradient else self._every(shape[0], math.prod(shape[1:-1]))
        seen = (shape[-1], looked) if every else (0, 0)
        if not _plain(tensor):
            there = tuple(_sent(i, tensor.device) for i in index)
            chosen = None if all_units else _sent(units, tensor.device)
            return Plan(taken, False, there, chosen, every=every, seen=seen)
        places, width, reach = _places(ordered, index, units)
        return Plan(taken, False, places=_sent(places, tensor.device), width=width, reach=reach, every=every, seen=seen)

    def _choose(self, shape: torch.Size, gradient: bool) -> tuple[Numbers, list[Numbers], Numbers]:
        """Numbers of samples, of positions in each dimension between, and of units, each in order."""
        budget = GRADIENT_BUDGET if gradient else BUDGET
        of_samples, of_positions, of_units = self._luck
        units = _pick(shape[-1], MAX_UNITS, of_units)
        samples = _pick(shape[0], min(MAX_SAMPLES, budget // len(units)) if gradient else MAX_SAMPLES, of_samples)
        positions = _pick(math.prod(shape[1:-1]), max(1, budget // (len(units) * len(samples))), of_positions)
        return samples, list(np.unravel_index(positions, shape[1:-1])) if shape[1:-1] else [], units

    def _every(self, samples: int, positions: int) -> tuple[tuple[slice, slice], int]:
        """Evenly spaced samples and positions from a random start, which need no copy, and how many pairs these are."""
        several = min(samples, MAX_SAMPLES)
        slices, looked = [], 1
        wanted = (several, max(1, UNIT_ROWS // several))
        for size, most, luck in zip((samples, positions), wanted, self._luck, strict=False):
            step = max(1, size // most)
            start = int(luck[-1] * step)
            slices.append(slice(start, start + step * most, step))
            looked *= len(range(size)[slices[-1]])
        return (slices[0], slices[1]), looked


def _plain(tensor: Tensor) -> bool:
    """Whether its strides tell where its elements lie."""
    return type(tensor) is Tensor and not tensor.is_neg()


def in_order(tensor: Tensor, unit_dim: int) -> Tensor:
    """The tensor with its samples in front and its units behind; a vector is one sample of one unit."""
    return tensor.movedim(unit_dim, -1) if tensor.dim() > 1 else tensor.reshape(1, -1, 1)


def look_at_units(tensor: Tensor, unit_dim: int, plan: Plan, bounds: tuple[float, float] | None) -> Units:
    """What all units are, of which the sample leaves some out."""
    ordered = in_order(tensor, unit_dim)
    rows = ordered.reshape(len(ordered), -1, ordered.shape[-1])[plan.every]
    if devices.answers_at_once(tensor.device) and _plain(tensor) and tensor.dtype in (torch.float32, torch.float64):
        alive = torch.from_numpy(rows.numpy().any((0, 1)))
    else:
        alive = rows.amax((0, 1)).ne_(0).logical_or_(rows.amin((0, 1))).bool()  # many times as fast as any of torch
    outside = None if bounds is None else (rows <= bounds[0]) | (rows >= bounds[1])
    return Units(alive, None if outside is None else outside.sum((0, 1), dtype=torch.uint8), plan.seen[1])


def take(tensor: Tensor, unit_dim: int, plan: Plan, out: Tensor) -> None:
    """Copy what ``plan`` says into the rows of ``out``, ``(rows, width)``."""
    if plan.places is not None:
        rows = tensor.as_strided((plan.reach, plan.width), (plan.width, 1))
        torch.index_select(rows, 0, plan.places, out=out)
        return
    ordered = in_order(tensor, unit_dim)
    if not plan.whole:
        ordered = ordered[plan.index]
        ordered = ordered if plan.chosen is None else ordered[..., plan.chosen]
    out.copy_(ordered.reshape(out.shape))


def _places(ordered: Tensor, index: tuple[Numbers, ...], units: Numbers) -> tuple[Numbers, int, int]:
    """Where the elements lie in memory, counted in rows: whole rows of units where these lie side by side."""
    width, (*strides, step) = ordered.shape[-1], ordered.stride()
    first, *rest = (i * n for i, n in zip(index, strides, strict=True))
    at = sum(rest, start=first)
    reach = 1 + sum((size - 1) * n for size, n in zip(ordered.shape, ordered.stride(), strict=True))
    if len(units) == width and step == 1 and all(n % width == 0 for n in strides):
        return at.ravel() // width, width, reach // width
    return (at[..., None] + units * step).ravel(), 1, reach


def _pick(n: int, most: int, luck: npt.NDArray[np.float64]) -> Numbers:
    """Up to ``most`` of ``n`` numbers, in order: one from each of as many equal parts, by ``luck`` of at least that
    many numbers in [0, 1), so that all have the same chance, as near as parts can be equal."""
    if n <= most:
        return np.arange(n)
    edges = np.arange(most + 1) * n // most
    return edges[:-1] + (luck[:most] * np.diff(edges)).astype(np.int64)


def _sent(numbers: Numbers, device: torch.device) -> Tensor:
    return sent(torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.int64)), device)
