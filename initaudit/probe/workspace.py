"""The memory that measurements use while a model runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from initaudit.probe import devices
from initaudit.probe.devices import sent
from initaudit.probe.whole import Ends, stacked

GROUP = 1 << 18  # elements reduced together: as float64 they fit a processor's cache
MEMBERS = 512  # tensors reduced together, however small
SLABS = 32  # groups that may wait at a time, of 1 MiB each
LUMP = 8  # of which that many are taken at a time
ROWS = 1_024  # vectors for which room is made at a time
_UNKNOWN = (float("nan"), float("nan"))


@dataclass(frozen=True, slots=True)
class Units:
    """Which of all units of a tensor are ``alive`` ``(units,)``; how many of ``looked`` elements of each saturated."""

    alive: Tensor
    saturated: Tensor | None
    looked: int


@dataclass(slots=True)
class Group:
    """Samples of one shape that wait to be reduced, and the rows that their statistics will fill.

    ``samples`` ``(k, samples, positions, units)`` has room for k of them, in the ``slab``; ``rooms`` are these k, in
    the rows in which they are copied. ``bounds`` are the outputs beyond which they count as saturated; ``compare`` asks
    for what lies between samples, where there are several. ``units`` is what was seen of all units, where the samples
    have not all of them.
    """

    workspace: Workspace
    slab: Tensor
    samples: Tensor
    rooms: tuple[Tensor, ...]
    bounds: tuple[float, float] | None
    compare: bool
    rows: list[int] = field(default_factory=list)
    units: list[Units] = field(default_factory=list)


class Workspace:
    """The memory of all measurements on one device, taken once.

    Small arrays of their own, made while a model runs, would lie scattered between its activations and keep the memory
    of those from being used again; and fresh memory takes longer than the arithmetic in it. ``width`` is the length of
    the vectors that are kept, one in a row.
    """

    def __init__(self, device: torch.device, width: int) -> None:
        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        self._rooms = torch.empty(2, GROUP, dtype=self.dtype, device=device)
        self._places = torch.empty(GROUP, dtype=torch.int64, device=device)
        # Rows of statistics, and of what is known of whole tensors; on the host as numbers, in a tenth of the time.
        self._results: list[Tensor] = []
        self._vectors: dict[int, list[float]] = {}
        self._ends: dict[int, tuple[float, float]] = {}
        self._on_host = devices.answers_at_once(device)
        self._width = width
        self._taken = 0
        # In lumps, for which an allocator has memory that was used before; the first pages are taken first.
        lumps = (torch.empty(LUMP, 4 * GROUP, dtype=torch.uint8, device=device) for _ in range(SLABS // LUMP))
        self.free = [slab for lump in lumps for slab in lump][::-1]
        self.one = torch.ones(1, 1, dtype=self.dtype, device=device)

    def new_row(self) -> int:
        if not self._on_host and self._taken == ROWS * len(self._results):
            self._results.append(self._rooms.new_full((ROWS, self._width), float("nan")))
        self._taken += 1
        return self._taken - 1

    def keep_ends(self, row: int, ends: Ends) -> None:
        """Keep the last numbers of a row."""
        if self._on_host:
            self._ends[row] = ends  # type: ignore[assignment]  # on the host these are numbers
        else:
            self._results[row // ROWS][row % ROWS, -2:].copy_(stacked([ends])[0])

    def ends(self, rows: list[int]) -> Tensor:
        """What is known of the whole tensors of ``rows``, NaN where nothing was kept: ``(k, 2)``."""
        if self._on_host:
            return torch.tensor([self._ends.get(row, _UNKNOWN) for row in rows], dtype=self.dtype, device="cpu")
        return torch.stack([self._results[row // ROWS][row % ROWS, -2:] for row in rows])

    def keep(self, rows: list[int], vectors: Tensor) -> None:
        """Keep the first numbers of ``rows``: ``vectors`` ``(k, n)``."""
        if self._on_host:
            self._vectors.update(zip(rows, vectors.tolist(), strict=True))
            return
        for part in {row // ROWS for row in rows}:
            mine = [i for i, row in enumerate(rows) if row // ROWS == part]
            places, theirs = (sent(numbers, vectors.device) for numbers in ([rows[i] % ROWS for i in mine], mine))
            self._results[part][places, : vectors.shape[1]] = vectors[theirs]

    def to_host(self) -> list[list[float]]:
        """All rows that were kept, in one transfer."""
        if self._on_host:
            kept = (self._vectors[row] for row in range(self._taken))
            return [v if len(v) == self._width else [*v, *self._ends.get(i, _UNKNOWN)] for i, v in enumerate(kept)]
        rows: list[list[float]] = torch.cat(self._results)[: self._taken].tolist()
        return rows

    def group(
        self, shape: torch.Size, dtype: torch.dtype, width: int, bounds: tuple[float, float] | None, compare: bool
    ) -> Group:
        """A group of its own slab, of which one must be free; samples come in rows of ``width``."""
        slab, size = self.free.pop(), shape.numel() * dtype.itemsize
        members = min(MEMBERS, GROUP // shape.numel(), 4 * GROUP // size)
        samples = slab[: members * size].view(dtype).view(members, *shape)
        return Group(self, slab, samples, samples.view(members, -1, width).unbind(), bounds, compare)

    def rooms(self, shape: torch.Size, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Room for two arrays of floats."""
        one, other = (room.view(dtype)[: shape.numel()].view(shape) for room in self._rooms)
        return one, other

    def places(self, shape: torch.Size) -> Tensor:
        """Room for whole numbers."""
        return self._places[: shape.numel()].view(shape)
