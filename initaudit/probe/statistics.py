"""Statistics of tensors, measured where they live and read once at the end.

:meth:`Statistics.measure` reduces a tensor to one small float64 vector on the tensor's own device and keeps nothing
else of it; :meth:`Statistics.collect` brings all vectors over in a single transfer. A tensor of more than ``SAMPLE``
elements is sampled: whole units (channels, features) at the same random positions of the same random samples, so that
unit-level and across-sample statistics mean what they say. The subset depends on the shape and the seed only, so two
networks that compute the same numbers report the same numbers. Non-finite values are found exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from initaudit.records import Histogram, Stats

SAMPLE = 32_768
GRADIENT_SAMPLE = 8_192  # their rules look at orders of magnitude
MAX_SAMPLES = 32  # of the batch
MAX_UNITS = 1_024
BINS = 64
_SATURATED_MOSTLY = 0.95
_FIELDS = (
    "mean", "std", "rms", "min", "max", "bad", "zeros", "kappa",
    "sample_std", "cosine", "dead_units", "saturated", "saturated_units", "limit",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measurement:
    """What :meth:`Statistics.collect` turns into a :class:`Stats`: the row of a vector, and host-side facts."""

    row: int
    device: torch.device
    count: int
    sampled: int
    samples: int
    units: int
    exact: bool


class Statistics:
    """Measures tensors and hands out :class:`Stats` at the end. One per probe run."""

    def __init__(self, seed: int) -> None:
        self.seconds = 0.0  # spent on measuring, so that a report can tell its own cost from the model's
        self._seed = seed
        self._rows: dict[torch.device, list[Tensor]] = {}
        self._subsets: dict[tuple[torch.Size, torch.device, int], tuple[Tensor, ...] | None] = {}
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
            vector = _reduce(subset, tensor if search and not exact else None, bounds, compare)
        rows = self._rows.setdefault(tensor.device, [])
        rows.append(vector)
        shape = tensor.shape
        self.seconds += time.perf_counter() - started
        return Measurement(
            row=len(rows) - 1,
            device=tensor.device,
            count=tensor.numel(),
            sampled=subset.numel(),
            samples=shape[0] if tensor.dim() > 1 else 1,
            units=shape[unit_dim] if tensor.dim() else 1,
            exact=exact,
        )

    def _subset(self, tensor: Tensor, unit_dim: int, budget: int) -> tuple[Tensor, bool]:
        """The elements to look at, as ``(samples, positions, units)``, and whether these are all there are."""
        if tensor.dim() < 2:
            return tensor.reshape(1, -1, 1)[:, :SAMPLE], tensor.numel() <= SAMPLE
        ordered = tensor.movedim(unit_dim, -1)
        if tensor.numel() <= SAMPLE:
            return ordered.reshape(ordered.shape[0], -1, ordered.shape[-1]), True
        key = (ordered.shape, tensor.device, budget)
        if key not in self._subsets:
            self._subsets[key] = self._choose(ordered.shape, tensor.device, budget)
        return ordered[self._subsets[key]], False

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
        if len(shape) == 2:
            return samples[:, None, None].to(device), units[None, None, :].to(device)
        return (*(i.to(device) for i in index), units[None, None, :].to(device))

    def collect(self) -> None:
        """Bring every vector to the host: one transfer per device."""
        self._collected = {device: torch.stack(rows).cpu().tolist() for device, rows in self._rows.items()}

    def stats(self, measurement: Measurement | None) -> Stats | None:
        """The :class:`Stats` of a measurement, after :meth:`collect`."""
        if measurement is None:
            return None
        key = (measurement.device, measurement.row)
        if key not in self._made:
            self._made[key] = self._make(measurement)
        return self._made[key]

    def _make(self, measurement: Measurement) -> Stats:
        row = self._collected[measurement.device][measurement.row]
        value = dict(zip(_FIELDS, row, strict=False))
        bad = int(value["bad"])
        if not measurement.exact and 0 < bad < measurement.count:
            bad = max(1, round(bad / measurement.sampled * measurement.count)) if bad > 0 else 0
        return Stats(
            count=measurement.count,
            sampled=measurement.sampled,
            mean=value["mean"],
            std=value["std"],
            rms=value["rms"],
            min=value["min"],
            max=value["max"],
            nonfinite=bad,
            zero_fraction=value["zeros"],
            kappa=_known(value["kappa"]),
            samples=measurement.samples,
            units=measurement.units,
            sample_std=_known(value["sample_std"]),
            cosine=_known(value["cosine"]),
            dead_units=value["dead_units"],
            saturated=_known(value["saturated"]),
            saturated_units=_known(value["saturated_units"]),
            histogram=Histogram(value["limit"], tuple(int(n) for n in row[len(_FIELDS) :])),
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


def _reduce(subset: Tensor, whole: Tensor | None, bounds: tuple[float, float] | None, compare: bool) -> Tensor:
    """All statistics of ``subset`` ``(samples, positions, units)`` as one float64 vector on its device.

    ``whole`` is the tensor that the subset was taken from: one sum over it tells whether anything in it is not finite.
    """
    x = subset.to(torch.float64) if subset.device.type != "mps" else subset.float()
    finite = torch.isfinite(x)
    bad = (~finite).sum()
    x = torch.where(finite, x, 0.0)
    if whole is not None:
        total = whole.sum(dtype=torch.float32 if whole.dtype in (torch.float16, torch.bfloat16) else None)
        overflow = ~torch.isfinite(total) & (x.abs().amax() < 1e30)  # not merely a sum of huge but finite numbers
        bad = torch.maximum(bad, overflow.to(bad.dtype))
    square = x * x
    seen = finite.sum()  # the moments are those of the finite elements
    mean, m2, m4 = x.sum() / seen, square.sum() / seen, (square * square).sum() / seen
    low, high = torch.aminmax(x)
    nan = torch.full_like(mean, math.nan)
    zero = (x == 0) & finite
    if x.shape[0] > 1 and compare:
        apart = x[1:] - x[:1]  # from the first sample: no digits are lost where samples are nearly one
        n = x.shape[0]
        variance = (apart.square().sum(0) - apart.sum(0).square() / n) / (n - 1)
        whole_columns = finite.all(0)
        sample_std = ((variance * whole_columns).sum() / whole_columns.sum()).clamp_min(0).sqrt()
        cosine = _mean_cosine(x.flatten(1))
    else:
        sample_std = cosine = nan
    saturated = saturated_units = nan
    if bounds is not None:
        flat = ((x <= bounds[0]) | (x >= bounds[1])).to(x.dtype)
        saturated, saturated_units = flat.mean(), (flat.mean(dim=(0, 1)) > _SATURATED_MOSTLY).to(x.dtype).mean()
    limit, counts = _histogram(x)
    scalars: Sequence[Tensor] = (
        mean, (m2 - mean * mean).clamp_min(0).sqrt(), m2.sqrt(), low, high, bad, zero.to(x.dtype).mean(),
        m4 / (m2 * m2) - 1, sample_std, cosine, zero.flatten(0, 1).all(0).to(x.dtype).mean(),
        saturated, saturated_units, limit,
    )  # fmt: skip
    return torch.cat([torch.stack([s.to(x.dtype) for s in scalars]), counts])


def _mean_cosine(rows: Tensor) -> Tensor:
    """Mean cosine between the pairs of ``rows`` ``(samples, features)``; rows of zeros count as parallel."""
    n = rows.shape[0]
    norms = rows.norm(dim=1, keepdim=True)
    unit = rows / norms.clamp_min(torch.finfo(rows.dtype).tiny)
    alive = (norms > 0).sum()
    dead_pairs = n * n - n - alive * (alive - 1)
    mean: Tensor = (unit.sum(0).square().sum() - alive + dead_pairs) / (n * n - n)
    return mean


def _histogram(x: Tensor) -> tuple[Tensor, Tensor]:
    """Counts in ``BINS`` bins over ``[-limit, limit]`` with ``limit`` the power of two at or above ``max|x|``."""
    flat = x.flatten()
    flat = flat[:: max(1, flat.numel() // 8192)]
    limit = torch.exp2(torch.ceil(torch.log2(flat.abs().amax().clamp_min(2.0**-120))))
    index = ((flat / limit + 1) * (BINS / 2)).long().clamp_(0, BINS - 1)
    return limit, torch.zeros(BINS, dtype=x.dtype, device=x.device).scatter_add_(0, index, torch.ones_like(flat))
