"""A histogram as a row of block characters, on an axis that all rows of a report share.

With one axis for all layers a distribution that narrows with depth looks narrower from row to row, which is the
figure of Glorot and Bengio (2010), "Understanding the difficulty of training deep feedforward neural networks".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from initaudit.records import Histogram

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = ".:-=+*#@"
REACH = 3.0  # the axis ends at this many rms, where a Gaussian has 0.3% of its mass
CLIP = 10.0  # an rms this many times the usual one does not widen the axis


def axis_limit(rms: Sequence[float | None]) -> float:
    """Half the width of an axis for distributions of these rms, given in the order the signal travels.

    That is 3 times the largest, so that vanishing shows as narrowing; but no rms above 10 times both the first and
    the median counts, so that one exploding layer does not turn all others into a needle. 1.0 when none is positive.
    """
    usable = [value for value in rms if value is not None and 0 < value < math.inf]
    if not usable:
        return 1.0
    return REACH * min(max(usable), CLIP * max(usable[0], median(usable)))


def sparkline(histogram: Histogram | None, limit: float, width: int, blocks: str = BLOCKS) -> str:
    """``width`` characters for the mass on ``[-limit, limit]``; what lies beyond is in the outermost two.

    Heights go with the square root of the mass (as in Tukey's rootogram), relative to the highest: so the tail stays
    visible beside the spike at zero that a ReLU makes. A character without mass is a space. ``width`` must be even.
    """
    if histogram is None or not sum(histogram.counts):
        return " " * width
    mass = _rebinned(histogram, limit, width)
    peak = max(mass)
    return "".join(blocks[_level(m / peak, len(blocks))] if m > 1e-9 * peak else " " for m in mass)


def _level(share: float, levels: int) -> int:
    return max(0, math.ceil(math.sqrt(share) * levels - 1e-9) - 1)


def _rebinned(histogram: Histogram, limit: float, width: int) -> list[float]:
    """The counts in ``width`` equal bins over ``[-limit, limit]``, each bin's mass spread evenly over it."""
    mass = [0.0] * width
    half = len(histogram.counts) // 2
    step = (histogram.limit / limit) * width / (2 * half)  # one bin of the histogram, in characters
    for index, count in enumerate(histogram.counts):
        # Positions are measured from the middle, where floats are dense enough for the narrowest distribution.
        start, stop = (index - half) * step, (index + 1 - half) * step
        first, last = _cell(start, width), _cell(math.nextafter(stop, start), width)
        if first == last:
            mass[first] += count
            continue
        for cell in range(first, last + 1):
            left = start if cell == first else cell - width // 2
            right = stop if cell == last else cell + 1 - width // 2
            mass[cell] += count * (right - left) / (stop - start)
    return mass


def _cell(position: float, width: int) -> int:
    return int(min(max(position // 1, -width // 2), width // 2 - 1)) + width // 2
