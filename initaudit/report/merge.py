"""Statistics of several tensors as those of all their elements together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from initaudit.records import Histogram, Stats

Average = Callable[[Sequence[float], Sequence[int]], float]


def merge(parts: Iterable[Stats | None]) -> Stats | None:
    """The statistics of the union of ``parts``, weighted by their elements; ``None`` when there is none.

    Counts, mean, std, rms, range, ``kappa`` and the histogram are those of the union exactly. ``sample_std`` is
    the root of the mean square and ``cosine`` the mean over the parts. Fractions of units count the units of each
    part apart: a unit that is dead in one of two calls is half a dead unit.
    """
    stats = [part for part in parts if part is not None]
    if len(stats) <= 1:
        return stats[0] if stats else None
    counts = [part.count for part in stats]
    units = [part.units for part in stats]
    mean = _mean([part.mean for part in stats], counts)
    deviations = [math.hypot(part.std, part.mean - mean) for part in stats]
    return Stats(
        count=sum(counts),
        sampled=sum(part.sampled for part in stats),
        mean=mean,
        std=_root_mean_square(deviations, counts),
        rms=_root_mean_square([part.rms for part in stats], counts),
        min=_extreme([part.min for part in stats], min),
        max=_extreme([part.max for part in stats], max),
        nonfinite=sum(part.nonfinite for part in stats),
        zero_fraction=_mean([part.zero_fraction for part in stats], counts),
        kappa=_kappa(stats),
        samples=max(part.samples for part in stats),
        units=max(units),
        sample_std=_known(_root_mean_square, [part.sample_std for part in stats], counts),
        cosine=_known(_mean, [part.cosine for part in stats], counts),
        dead_units=_known(_mean, [part.dead_units for part in stats], units),
        saturated=_known(_mean, [part.saturated for part in stats], counts),
        saturated_units=_known(_mean, [part.saturated_units for part in stats], units),
        histogram=merge_histograms([part.histogram for part in stats if part.histogram]),
    )


def merge_histograms(parts: Sequence[Histogram]) -> Histogram | None:
    """One histogram over the widest of the limits, with the bins of the others joined: exact, as limits nest.

    Raises:
        ValueError: the histograms have different numbers of bins, or an odd one.
    """
    if not parts:
        return None
    sizes = {len(part.counts) for part in parts}
    size = max(sizes)
    if len(sizes) > 1 or size % 2:
        raise ValueError(f"histograms of {sorted(sizes)} bins do not merge; expected one even number of bins")
    limit = max(part.limit for part in parts)
    counts = [0] * size
    half = size // 2
    for part in parts:
        # Limits are powers of two, so 2**shift neighbouring bins, counted from the middle, make one wider bin.
        shift = math.frexp(limit)[1] - math.frexp(part.limit)[1]
        for index, count in enumerate(part.counts):
            counts[((index - half) >> shift) + half] += count
    return Histogram(limit, tuple(counts))


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    total = sum(weights)
    return sum(v * (w / total) for v, w in zip(values, weights, strict=True) if w) if total else 0.0


def _root_mean_square(values: Sequence[float], weights: Sequence[int]) -> float:
    """Scaled by the largest value, so that squares neither overflow nor vanish."""
    scale = max(values)
    if not math.isfinite(sum(values)):
        return math.nan if any(map(math.isnan, values)) else math.inf
    return scale * math.sqrt(_mean([(v / scale) * (v / scale) for v in values], weights)) if scale else 0.0


def _known(average: Average, values: Sequence[float | None], weights: Sequence[int]) -> float | None:
    """The average over the parts that have a value; ``None`` when none has."""
    known = [(v, w) for v, w in zip(values, weights, strict=True) if v is not None]
    return average([v for v, _ in known], [w for _, w in known]) if known else None


def _extreme(values: Sequence[float], pick: Callable[[Sequence[float]], float]) -> float:
    return math.nan if any(map(math.isnan, values)) else pick(values)


def _kappa(stats: Sequence[Stats]) -> float | None:
    """``E[x^4]/E[x^2]^2 - 1`` of the union, from the moments relative to the largest rms."""
    scale = max(part.rms for part in stats)
    known = [(part.kappa, part.rms / scale, part.count) for part in stats if part.kappa is not None] if scale else []
    if len(known) < len(stats):
        return None
    counts = [count for *_, count in known]
    second = _mean([rms * rms for _, rms, _ in known], counts)
    return _mean([(kappa + 1) * rms * rms * rms * rms for kappa, rms, _ in known], counts) / (second * second) - 1
