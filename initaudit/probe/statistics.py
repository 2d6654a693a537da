"""Statistics of tensors, measured where they live and read once at the end.

:meth:`Statistics.measure` copies a sample of a tensor and keeps nothing else of it. Samples of one shape are reduced
together, a group at a time, to one small float64 vector each, on the device of the tensor; :meth:`Statistics.collect`
brings all vectors over in a single transfer. A tensor of up to ``SAMPLE`` elements is its own sample. Of a larger one
whole units (channels, features) are taken at the same random positions of the same random samples, so that unit-level
and across-sample statistics mean what they say. The subset depends on the shape and the seed only, so two
networks that compute the same numbers report the same numbers (to 1e-6, where one of them keeps a value in another
order of memory).

The rms is that of all elements, right to 1e-5, and non-finite values are found wherever they are. Mean, std and
``sample_std`` of a sample are scaled by what its rms is off, which keeps their ratios; their own error is 1 to 2% of
the rms in deep ReLU networks, less elsewhere. Left at the error of their sample, 2 to 3% of the rms, are gradients with
respect to what only passes on what is finite, since nothing needs them sharper.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from initaudit.records import Histogram, Stats

SAMPLE = 32_768
GRADIENT_SAMPLE = 8_192  # their rules look at orders of magnitude
MAX_SAMPLES = 32  # of the batch
MAX_UNITS = 1_024
BINS = 64
BINNED = 4_096  # elements of a sample that go into its histogram
CHUNK = 4_096  # squares summed in float32: right to 1e-5; a million together would be off by 1e-4
GROUP = 1 << 18  # elements reduced together: as float64 they fit a processor's cache
MEMBERS = 512  # tensors reduced together, however small
SLABS = 32  # groups that may wait at a time, of 1 MiB each
_SATURATED_MOSTLY = 0.95
_SMALLEST, _LARGEST = 1e-15, 1e30  # beyond these, squares and sums of finite numbers may leave float32
_FIELDS = (
    "mean", "std", "rms", "min", "max", "bad", "zeros", "kappa",
    "sample_std", "cosine", "dead_units", "saturated", "saturated_units", "limit",
)  # fmt: skip
_NAN = float("nan")
_WIDTH = len(_FIELDS) + BINS
ROWS = 1_024  # vectors for which room is made at a time


@dataclass(frozen=True, slots=True)
class Measurement:
    """What :meth:`Statistics.collect` turns into a :class:`Stats`: the row of a vector, and host-side facts."""

    device: torch.device
    row: int
    count: int
    sampled: int
    samples: int
    units: int
    exact: bool
    search: bool


@dataclass(slots=True)
class _Group:
    """Samples of one shape that wait to be reduced, and the rows that their statistics will fill.

    ``samples`` ``(k, samples, positions, units)`` has room for k of them, in the slab of that number.
    """

    slab: int
    samples: Tensor
    rows: list[int] = field(default_factory=list)


class _Workspace:
    """The memory of all measurements on one device, taken once.

    Small arrays of their own, made while a model runs, would lie scattered between its activations and keep the memory
    of those from being used again; and fresh memory takes longer than the arithmetic in it.
    """

    def __init__(self, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._slabs = torch.empty(SLABS, 4 * GROUP, dtype=torch.uint8, device=device)
        self._values = torch.empty(2, GROUP, dtype=dtype, device=device)
        self._places = torch.empty(GROUP, dtype=torch.int64, device=device)
        self._results: list[Tensor] = []  # rows of fields, bins, norm and check
        self._taken = 0
        self.free = list(range(SLABS))
        self.one = torch.ones(1, 1, dtype=dtype, device=device)

    def new_row(self) -> int:
        if self._taken == ROWS * len(self._results):
            self._results.append(self._values.new_full((ROWS, _WIDTH + 2), _NAN))
        self._taken += 1
        return self._taken - 1

    def keep_norm(self, row: int, norm: Tensor, check: Tensor) -> None:
        result = self._results[row // ROWS][row % ROWS]
        result[-2].copy_(norm)
        result[-1].copy_(check)

    def keep(self, rows: list[int], vectors: Tensor) -> None:
        for part in {row // ROWS for row in rows}:
            mine = [i for i, row in enumerate(rows) if row // ROWS == part]
            self._results[part][[rows[i] % ROWS for i in mine], :_WIDTH] = vectors[mine]

    def to_host(self) -> list[list[float]]:
        """All rows that were kept, in one transfer."""
        rows: list[list[float]] = torch.cat(self._results)[: self._taken].tolist()
        return rows

    def group(self, shape: torch.Size, dtype: torch.dtype) -> _Group:
        """A group of its own slab, of which one must be free."""
        slab, size = self.free.pop(), shape.numel() * dtype.itemsize
        members = min(MEMBERS, GROUP // shape.numel(), 4 * GROUP // size)
        return _Group(slab, self._slabs[slab, : members * size].view(dtype).view(members, *shape))

    def values(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """The samples as float64 (float32 where the device has no better), and room of the same shape."""
        x, room = (v[: samples.numel()].view(samples.shape) for v in self._values)
        return x.copy_(samples), room

    def places(self, shape: torch.Size) -> Tensor:
        return self._places[: shape.numel()].view(shape)


_Key = tuple[torch.Size, torch.dtype, torch.device, tuple[float, float] | None, bool]


class Statistics:
    """Measures tensors and hands out :class:`Stats` at the end. One per probe run."""

    def __init__(self, seed: int) -> None:
        self.seconds = 0.0  # spent on measuring, so that a report can tell its own cost from the model's
        self._seed = seed
        self._subsets: dict[tuple[object, ...], tuple[Tensor, ...]] = {}
        self._offsets: dict[tuple[object, ...], tuple[Tensor, int, tuple[int, ...]]] = {}
        self._groups: dict[_Key, _Group] = {}
        self._workspaces: dict[torch.device, _Workspace] = {}
        self._collected: dict[torch.device, list[list[float]]] = {}
        self._made: dict[tuple[torch.device, int], Stats] = {}

    def measure(
        self,
        tensor: Tensor,
        unit_dim: int = -1,
        bounds: tuple[float, float] | None = None,
        sample_dim: int = 0,
        *,
        search: bool = True,
        compare: bool = True,
    ) -> Measurement | None:
        """Measure ``tensor`` of shape ``(samples, ..., units, ...)``; ``unit_dim`` tells where the units are.

        ``sample_dim`` tells where the samples are, when not in front (sequence-first layouts). ``search`` looks for
        non-finite values in every element, not only in those that are sampled; ``compare`` takes the statistics between
        samples, which gradients do without.
        ``bounds`` are the outputs beyond which an activation counts as saturated. Returns ``None`` for a tensor
        that has no statistics: empty, not floating point, on the meta device, or not strided.
        """
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor.resolve_conj())
            unit_dim = -2
        if not _measurable(tensor):
            return None
        started = time.perf_counter()
        if 0 < sample_dim < tensor.dim() - 1 and unit_dim == -1:
            tensor = tensor.movedim(sample_dim, 0)
        with torch.no_grad():
            tensor = tensor.detach()
            subset, exact = self._subset(tensor, unit_dim, SAMPLE if compare else GRADIENT_SAMPLE)
            row = self._add(subset, tensor if not exact and (search or compare) else None, bounds, compare)
        self.seconds += time.perf_counter() - started
        return Measurement(
            device=tensor.device,
            row=row,
            count=tensor.numel(),
            sampled=subset.numel(),
            samples=tensor.shape[0] if tensor.dim() > 1 else 1,
            units=tensor.shape[unit_dim] if tensor.dim() else 1,
            exact=exact,
            search=search,
        )

    # -- samples ---------------------------------------------------------------------------------------------------

    def _subset(self, tensor: Tensor, unit_dim: int, budget: int) -> tuple[Tensor, bool]:
        """The elements to look at, as ``(samples, positions, units)``, and whether these are all."""
        if tensor.dim() < 2:
            return tensor.reshape(1, -1, 1)[:, :SAMPLE], tensor.numel() <= SAMPLE
        ordered = tensor.movedim(unit_dim, -1)
        if tensor.numel() <= SAMPLE:
            return ordered.reshape(ordered.shape[0], -1, ordered.shape[-1]), True
        key = (ordered.shape, tensor.device, budget)
        if key not in self._subsets:
            self._subsets[key] = self._choose(ordered.shape, tensor.device, budget)
        if type(tensor) is not Tensor or tensor.is_neg():
            return ordered[self._subsets[key]], False
        return self._gathered(ordered, key), False

    def _gathered(self, ordered: Tensor, key: tuple[object, ...]) -> Tensor:
        """``ordered[self._subsets[key]]`` by places in memory, which takes a quarter of the time."""
        place = (*key, ordered.stride())
        if place not in self._offsets:
            first, *rest = (i * n for i, n in zip(self._subsets[key], ordered.stride(), strict=True))
            places = sum(rest, start=first)
            span = 1 + sum((size - 1) * n for size, n in zip(ordered.shape, ordered.stride(), strict=True))
            self._offsets[place] = places.reshape(-1), span, tuple(places.shape)
        places, span, shape = self._offsets[place]
        return ordered.as_strided((span,), (1,)).index_select(0, places).view(shape)

    def _choose(self, shape: torch.Size, device: torch.device, budget: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(self._seed + 7919 * sum((i + 1) * n for i, n in enumerate(shape)))

        def pick(n: int, k: int) -> Tensor:
            return (
                torch.randperm(n, generator=generator, device="cpu")[:k].sort().values
                if k < n
                else torch.arange(n, device="cpu")
            )

        middle = math.prod(shape[1:-1])
        units = pick(shape[-1], MAX_UNITS)
        samples = pick(shape[0], MAX_SAMPLES)
        wanted = max(1, budget // (len(units) * len(samples)))
        positions = (
            pick(middle, wanted)
            if middle <= 1 << 20
            else torch.randint(middle, (wanted,), generator=generator, device="cpu")
        )
        index = [samples[:, None, None]]
        for n in reversed(shape[1:-1]):
            index.insert(1, (positions % n)[None, :, None])
            positions = positions // n
        return (*(i.to(device) for i in index), units[None, None, :].to(device))

    # -- groups ----------------------------------------------------------------------------------------------------

    def _add(self, subset: Tensor, whole: Tensor | None, bounds: tuple[float, float] | None, compare: bool) -> int:
        key = (subset.shape, subset.dtype, subset.device, bounds, compare)
        if subset.device not in self._workspaces:
            self._workspaces[subset.device] = _Workspace(subset.device)
        workspace = self._workspaces[subset.device]
        group = self._groups.get(key)
        if group is None:
            if not workspace.free:
                waiting = {k: len(g.rows) * k[0].numel() for k, g in self._groups.items() if k[2] == subset.device}
                self._flush(max(waiting, key=waiting.__getitem__))
            group = self._groups[key] = workspace.group(subset.shape, subset.dtype)
        row = workspace.new_row()
        group.samples[len(group.rows)].copy_(subset)
        group.rows.append(row)
        if whole is not None:
            workspace.keep_norm(row, *norm_and_check(whole))
        if len(group.rows) == len(group.samples):
            self._flush(key)
        return row

    def _flush(self, *keys: _Key) -> None:
        for key in keys:
            group, workspace = self._groups.pop(key), self._workspaces[key[2]]
            samples = group.samples[: len(group.rows)]
            workspace.keep(group.rows, _reduce(samples, workspace, bounds=key[3], compare=key[4]))
            workspace.free.append(group.slab)

    def collect(self) -> None:
        """Bring every vector to the host: one transfer per device."""
        with torch.no_grad():
            self._flush(*self._groups)
            self._collected = {device: workspace.to_host() for device, workspace in self._workspaces.items()}
        self._workspaces.clear()

    # -- records ---------------------------------------------------------------------------------------------------

    def stats(self, measurement: Measurement | None) -> Stats | None:
        """The :class:`Stats` of a measurement, after :meth:`collect`."""
        if measurement is None:
            return None
        key = (measurement.device, measurement.row)
        if key not in self._made:
            self._made[key] = _made(measurement, self._collected[measurement.device][measurement.row])
        return self._made[key]


def _made(measurement: Measurement, row: list[float]) -> Stats:
    value = dict(zip(_FIELDS, row, strict=False))
    *counts, norm, check = row[len(_FIELDS) :]
    bad = int(value["bad"])
    if not measurement.exact:
        overflow = max(-value["min"], value["max"]) >= _LARGEST  # merely a sum of huge but finite numbers
        if measurement.search and not math.isfinite(check) and not overflow:
            bad = max(bad, 1)
        if 0 < bad < measurement.count:
            bad = max(1, round(bad / measurement.sampled * measurement.count))
    rms, sample_std, cosine = value["rms"], _known(value["sample_std"]), _known(value["cosine"])
    scale = 1.0
    whole = norm / math.sqrt(measurement.count)
    if not bad and _SMALLEST < whole < math.inf:
        if rms > 0:
            scale = whole / rms
        else:  # none of the few that are not zero was sampled, so nothing is known of how they lie
            value["std"], sample_std, cosine = whole, None, None
        rms = whole
    return Stats(
        count=measurement.count,
        sampled=measurement.sampled,
        mean=value["mean"] * scale,
        std=value["std"] * scale,
        rms=rms,
        min=value["min"],
        max=value["max"],
        nonfinite=bad,
        zero_fraction=value["zeros"],
        kappa=_known(value["kappa"]),
        samples=measurement.samples,
        units=measurement.units,
        sample_std=None if sample_std is None else sample_std * scale,
        cosine=cosine,
        dead_units=value["dead_units"],
        saturated=_known(value["saturated"]),
        saturated_units=_known(value["saturated_units"]),
        histogram=Histogram(value["limit"], tuple(map(int, counts))),
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _measurable(tensor: Tensor) -> bool:
    return (
        tensor.is_floating_point()
        and tensor.layout is torch.strided
        and not tensor.is_meta
        and not tensor.is_nested
        and tensor.numel() > 0
    )


def norm_and_check(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The norm of ``tensor``, and a number that is finite where all its elements are (and their sum is).

    Both are scalars on its device. The norm is not finite where squares leave float32, so that a sum is taken as well;
    on the CPU only then, elsewhere always, for looking would wait for the device.
    """
    work = torch.promote_types(tensor.dtype, torch.float32)
    norm = _norm(tensor, work)
    if tensor.device.type == "cpu" and math.isfinite(norm.item()):
        return norm, norm
    return norm, tensor.sum(dtype=work).to(norm.dtype)


def _norm(tensor: Tensor, work: torch.dtype) -> Tensor:
    """Norms of chunks, and the norm of these in float64 where the device has it."""
    if not _dense(tensor):
        parts = torch.linalg.vector_norm(tensor, dim=-1, dtype=work)
    else:
        flat = tensor.as_strided((tensor.numel(),), (1,))
        rest = flat.numel() % CHUNK
        parts = torch.linalg.vector_norm(flat[: len(flat) - rest].view(-1, CHUNK), dim=1, dtype=work)
        if rest:
            parts = torch.cat([parts, torch.linalg.vector_norm(flat[-rest:], dtype=work)[None]])
    norm: Tensor = torch.linalg.vector_norm(parts, dtype=work if tensor.device.type == "mps" else torch.float64)
    return norm


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


def _reduce(samples: Tensor, workspace: _Workspace, bounds: tuple[float, float] | None, compare: bool) -> Tensor:
    """All statistics of each of ``samples`` ``(k, samples, positions, units)`` as float64 ``(k, fields + bins)``."""
    x, room = workspace.values(samples)
    flat = x.flatten(1)
    n, sums = flat.shape[1], flat.sum(1)
    finite, bad, seen = None, torch.zeros_like(sums), torch.full_like(sums, n)
    if x.device.type != "cpu" or not bool(torch.isfinite(sums).all()):
        finite = torch.isfinite(x)
        seen = finite.flatten(1).sum(1).to(x.dtype)  # the moments are those of the finite elements
        bad = n - seen
        x.nan_to_num_(0.0, 0.0, 0.0)
        sums = flat.sum(1)
    square = torch.mul(x, x, out=room)
    by_sample = square.flatten(2).sum(2)
    mean, m2 = sums / seen, by_sample.sum(1) / seen
    m4 = torch.linalg.vector_norm(square.flatten(1), dim=1).square() / seen
    between = _between_samples(x, by_sample, finite, room if compare else None)
    alive = torch.ne(x, 0, out=room)  # into floats: a comparison that makes booleans takes three times as long
    by_unit = (alive if finite is None else alive.logical_or_(~finite)).sum((1, 2))
    low, high = flat.amin(1), flat.amax(1)
    limit, counts = _histogram(flat, low, high, workspace)
    scalars: Sequence[Tensor] = (
        mean, (m2 - mean * mean).clamp_min(0).sqrt(), m2.sqrt(), low, high, bad, (n - by_unit.sum(1)) / n,
        m4 / (m2 * m2) - 1, *between, (by_unit == 0).to(x.dtype).mean(1), *_saturation(x, bounds), limit,
    )  # fmt: skip
    return torch.cat([torch.stack(list(scalars), 1), counts], 1)


def _between_samples(x: Tensor, by_sample: Tensor, finite: Tensor | None, room: Tensor | None) -> tuple[Tensor, Tensor]:
    """``sample_std``, over the columns that are finite in all samples, and the mean cosine between pairs of samples.

    ``by_sample`` are the sums of squares of each sample. NaN where there is but one, or no ``room`` to write to.
    """
    k, n = by_sample.shape
    if n < 2 or room is None:
        nan = torch.full_like(by_sample[:, 0], _NAN)
        return nan, nan
    apart = torch.sub(x, x[:, :1], out=room)  # from the first: no digits are lost where samples are nearly one
    columns: Tensor | int = x[0, 0].numel()
    if finite is not None:
        whole = finite.all(1, keepdim=True)
        apart.mul_(whole)
        columns = whole.sum((1, 2, 3))
    squares = torch.linalg.vector_norm(apart.flatten(1), dim=1).square()
    common = torch.linalg.vector_norm(apart.sum(1).flatten(1), dim=1).square()
    variance = (squares - common / n) / (n - 1) / columns
    norms = by_sample.sqrt()
    inverse = 1 / norms.clamp_min(torch.finfo(x.dtype).tiny)
    resultant = torch.bmm(inverse[:, None, :], x.flatten(2)).view(k, -1)
    alive = (norms > 0).sum(1)
    dead_pairs = n * n - n - alive * (alive - 1)  # rows of zeros count as parallel
    cosine = (torch.linalg.vector_norm(resultant, dim=1).square() - alive + dead_pairs) / (n * n - n)
    return variance.clamp_min(0).sqrt(), cosine


def _saturation(x: Tensor, bounds: tuple[float, float] | None) -> tuple[Tensor, Tensor]:
    """The fraction of elements at a flat end, and of the units that are there mostly."""
    if bounds is None:
        nan = torch.full_like(x[:, 0, 0, 0], _NAN)
        return nan, nan
    by_unit = ((x <= bounds[0]) | (x >= bounds[1])).to(x.dtype).mean((1, 2))
    return by_unit.mean(1), (by_unit > _SATURATED_MOSTLY).to(x.dtype).mean(1)


def _histogram(flat: Tensor, low: Tensor, high: Tensor, workspace: _Workspace) -> tuple[Tensor, Tensor]:
    """Counts in ``BINS`` bins over ``[-limit, limit]`` with ``limit`` the power of two at or above ``max|x|``."""
    limit = torch.exp2(torch.ceil(torch.log2(torch.maximum(-low, high).clamp_min(2.0**-120))))
    thinned = flat[:, :: max(1, flat.shape[1] // BINNED)]
    places = (thinned * (BINS / 2 / limit[:, None])).add_(BINS / 2)
    index = workspace.places(places.shape).copy_(places).clamp_(0, BINS - 1)
    counts = torch.zeros(len(flat), BINS, dtype=flat.dtype, device=flat.device)
    return limit, counts.scatter_add_(1, index, workspace.one.expand_as(index))
