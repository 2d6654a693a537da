"""What tensors come to, in two steps: sums over their samples, and the statistics that these sums give.

Sums of parts of a batch add up to those of the whole batch; statistics do not. So what several processes saw of one
tensor is put together between the two steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from initaudit.probe import devices
from initaudit.probe.workspace import Group, Workspace

BINS = 64
BINNED = 2_048  # elements of a sample that go into its histogram
SMALL = 1_024  # elements up to which float64 costs nothing
CENTRED = 1e-3  # share of the variance in the mean square below which float32 has lost its digits
_SATURATED_MOSTLY = 0.95
FIELDS = (
    "mean", "std", "rms", "min", "max", "bad", "zeros", "kappa",
    "sample_std", "cosine", "dead_units", "saturated", "saturated_units", "limit",
)  # fmt: skip
_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Between:
    """What tells the samples of a tensor from each other; a column is one position of one unit in all ``samples``.

    ``columns`` ``(k, columns)`` are sums over the samples, NaN where one of them is not finite, and ``within`` ``(k,)``
    is the sum of squared deviations from the columns' means. ``resultant`` ``(k, columns)`` is the sum of the samples,
    each scaled to norm one, and ``directions`` ``(k,)`` counts those that are not all zeros and so have a direction.
    ``products`` ``(k, samples * samples)``, where asked for, are the inner products of all pairs of samples.
    """

    samples: int
    columns: Tensor
    within: Tensor
    resultant: Tensor
    directions: Tensor
    products: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over the elements looked at of each of k tensors, in float64 on their device (float32 on mps).

    ``count`` ``(k,)`` elements are finite and ``bad`` are not, which stand for 0 in ``total``, ``squares``, ``fourth``
    (of x, x^2, x^4), ``low`` and ``high``. Each of the units has ``looked`` elements: ``alive`` ``(k, units)`` counts
    those that are not zero, ``saturated`` those at a flat end. ``bins`` ``(k, BINS)`` count elements between ``-limit``
    and ``limit``, a power of two. All but ``low``, ``high`` and ``limit`` add up over parts of a batch.
    """

    count: Tensor
    bad: Tensor
    total: Tensor
    squares: Tensor
    fourth: Tensor
    low: Tensor
    high: Tensor
    zeros: Tensor
    looked: int
    alive: Tensor
    saturated: Tensor | None
    limit: Tensor
    bins: Tensor
    between: Between | None


def sums_of(group: Group, workspace: Workspace, products: bool = False) -> Sums:
    """The sums of each of a group's samples ``(k, samples, positions, units)``.

    ``products`` takes the inner products of its samples too.
    """
    raw = group.samples[: len(group.rows)]
    if devices.answers_at_once(raw.device) and raw[0].numel() > SMALL and raw.dtype is not torch.float64:
        sums = _sums(group, workspace, torch.float32, products)  # in a third of the time
        mean, m2 = sums.total / sums.count, sums.squares / sums.count
        lost = m2 - mean * mean < CENTRED * m2
        if sums.between is not None and sums.between.samples > 1:
            lost |= sums.between.within < CENTRED * sums.squares
        if not bool(lost.any()):  # else differences have lost their digits
            return sums
    return _sums(group, workspace, workspace.dtype, products)


def _sums(group: Group, workspace: Workspace, work: torch.dtype, products: bool) -> Sums:
    """The same, reduced in ``work``. Large and small ones are scaled by a power of two first, so that no fourth power
    leaves it."""
    raw = group.samples[: len(group.rows)]
    n, finite, wide = raw[0].numel(), None, workspace.dtype
    low, high = raw.flatten(1).amin(1).to(wide), raw.flatten(1).amax(1).to(wide)
    if not devices.answers_at_once(raw.device) or not bool(torch.isfinite(high - low).all()):
        finite = torch.isfinite(raw)  # the moments are those of the finite elements
        raw = raw.nan_to_num(0.0, 0.0, 0.0)
        low, high = raw.flatten(1).amin(1).to(wide), raw.flatten(1).amax(1).to(wide)
    limit = torch.exp2(torch.ceil(torch.log2(torch.maximum(-low, high).clamp_min(2.0**-120))))
    x, room = workspace.rooms(raw.shape, work)
    if raw.dtype is work and devices.answers_at_once(raw.device) and _are_moderate(limit):
        x, scale = raw, torch.ones_like(limit)
    else:
        scale = limit.clamp_max(2.0**126)
        torch.mul(raw, (1 / scale).to(work)[:, None, None, None], out=x)
    flat = x.flatten(1)
    square = torch.mul(x, x, out=room)
    by_sample = square.flatten(2).sum(2)
    fourth = torch.linalg.vector_norm(square.flatten(1), dim=1).to(wide).square()
    between = _between(x, by_sample, finite, room, scale, products) if group.compare else None
    alive = torch.ne(raw, 0, out=room)  # into floats: a comparison that makes booleans takes three times as long
    by_unit = (alive if finite is None else alive.logical_or_(~finite)).sum((1, 2)).to(wide)
    zeros = n - by_unit.sum(1)
    saturated, looked = _saturated(raw, group.bounds), raw.shape[1] * raw.shape[2]
    if group.units:  # all of them, of which the samples have not all
        by_unit = torch.stack([units.alive for units in group.units]).to(wide)
        counts = [units.saturated for units in group.units if units.saturated is not None]
        saturated, looked = torch.stack(counts) if counts else None, group.units[0].looked
    count = torch.full_like(zeros, n) if finite is None else finite.flatten(1).sum(1).to(wide)
    return Sums(
        count=count,
        bad=n - count,
        total=flat.sum(1).to(wide) * scale,
        squares=by_sample.sum(1).to(wide) * scale**2,
        fourth=fourth * scale**4,
        low=low,
        high=high,
        zeros=zeros,
        looked=looked,
        alive=by_unit,
        saturated=None if saturated is None else saturated.to(wide),
        limit=limit,
        bins=_histogram(flat, (scale / limit).to(work), workspace),
        between=between,
    )


def statistics_of(sums: Sums) -> Tensor:
    """The statistics named in :data:`FIELDS`, and the bins: ``(k, fields + bins)``. NaN is what is not known."""
    mean, m2, m4 = sums.total / sums.count, sums.squares / sums.count, sums.fourth / sums.count
    dtype = mean.dtype
    nan = torch.full_like(mean, _NAN)
    saturated = saturated_units = sample_std = cosine = nan
    if sums.saturated is not None:
        shares = sums.saturated / sums.looked
        saturated, saturated_units = shares.mean(1), (shares > _SATURATED_MOSTLY).to(dtype).mean(1)
    if sums.between is not None and sums.between.samples > 1:
        sample_std, cosine = _between_samples(sums.between)
    scalars: Sequence[Tensor] = (
        mean, (m2 - mean * mean).clamp_min(0).sqrt(), m2.sqrt(), sums.low, sums.high, sums.bad,
        sums.zeros / (sums.count + sums.bad), m4 / (m2 * m2) - 1, sample_std, cosine,
        (sums.alive == 0).to(dtype).mean(1), saturated, saturated_units, sums.limit,
    )  # fmt: skip
    return torch.cat([torch.stack(list(scalars), 1), sums.bins], 1)


def _between(
    x: Tensor, by_sample: Tensor, finite: Tensor | None, room: Tensor, scale: Tensor, products: bool
) -> Between:
    """Of what ``x`` is times ``scale`` ``(k,)``; ``by_sample`` ``(k, samples)`` are the sums of squares of ``x``."""
    (k, n), wide = by_sample.shape, scale.dtype
    norms = by_sample.sqrt()
    inverse = 1 / norms.clamp_min(torch.finfo(x.dtype).tiny)
    pairs = torch.bmm(x.flatten(2), x.flatten(2).mT).flatten(1).to(wide) if products else None
    whole = None if finite is None else finite.all(1, keepdim=True)
    kept = x if whole is None else x * whole
    if x.dtype is wide:  # from the first sample: no digits are lost where samples are nearly one
        apart = torch.sub(kept, kept[:, :1], out=room)
        squares = torch.linalg.vector_norm(apart.flatten(1), dim=1).square()
        away = apart.sum(1).flatten(1)
        columns = torch.add(away, kept[:, 0].flatten(1), alpha=n)
    else:
        squares = (by_sample if whole is None else kept.square().flatten(2).sum(2)).sum(1).to(wide)
        away = columns = kept.sum(1).flatten(1).to(wide)
    return Between(
        samples=n,
        columns=(columns if whole is None else columns.masked_fill(~whole.flatten(1), _NAN)) * scale[:, None],
        within=(squares - torch.linalg.vector_norm(away, dim=1).square() / n) * scale**2,
        resultant=torch.bmm(inverse[:, None, :], x.flatten(2)).view(k, -1).to(wide),
        directions=(norms > 0).sum(1).to(wide),
        products=None if pairs is None else pairs * (scale**2)[:, None],
    )


def _are_moderate(limit: Tensor) -> bool:
    """Whether fourth powers of numbers up to each ``limit`` ``(k,)``, added up, stay within float32."""
    return bool(((limit > 2.0**-24) & (limit < 2.0**24)).all())


def _between_samples(between: Between) -> tuple[Tensor, Tensor]:
    """``sample_std``, over the columns that are finite in all samples, and the mean cosine between pairs of samples."""
    n, alive = between.samples, between.directions
    variance = between.within / (n - 1) / torch.isfinite(between.columns).sum(1)
    dead_pairs = n * n - n - alive * (alive - 1)  # rows of zeros count as parallel
    together = torch.linalg.vector_norm(between.resultant, dim=1).square()
    return variance.clamp_min(0).sqrt(), (together - alive + dead_pairs) / (n * n - n)


def _saturated(raw: Tensor, bounds: tuple[float, float] | None) -> Tensor | None:
    """How many elements of each unit are at a flat end, ``(k, units)``."""
    return None if bounds is None else ((raw <= bounds[0]) | (raw >= bounds[1])).sum((1, 2))


def _histogram(flat: Tensor, reach: Tensor, workspace: Workspace) -> Tensor:
    """Counts of ``flat`` ``(k, n)`` in ``BINS`` bins between plus and minus 1/``reach`` ``(k,)``."""
    thinned = flat[:, :: max(1, flat.shape[1] // BINNED)]
    places = (thinned * (BINS / 2 * reach)[:, None]).add_(BINS / 2)
    index = workspace.places(places.shape).copy_(places).clamp_(0, BINS - 1)
    counts = torch.zeros(len(flat), BINS, dtype=workspace.dtype, device=flat.device)
    return counts.scatter_add_(1, index, workspace.one.expand_as(index))
