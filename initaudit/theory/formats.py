"""Half-precision formats, and the share of Gaussian values that each of them loses.

Formats are those of IEEE 754-2019, table 3.5 (``float16``, also known as half or binary16), and of the brain floating
point format (``bfloat16``: the exponents of float32 with 8 significant bits).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """A binary floating-point format, spelled as torch spells it.

    ``largest`` is the largest finite value, ``smallest_normal`` the smallest with all its digits, ``smallest`` the
    smallest subnormal, ``digits`` the number of significant bits with the leading one (``eps`` is ``2**(1 - digits)``).
    """

    name: str
    largest: float
    smallest_normal: float
    smallest: float
    digits: int


FLOAT16 = Format("float16", 65504.0, 2.0**-14, 2.0**-24, 11)
BFLOAT16 = Format("bfloat16", 2.0**128 - 2.0**120, 2.0**-126, 2.0**-133, 8)
FORMATS = {f.name: f for f in (FLOAT16, BFLOAT16)}


def flushed_share(rms: float, precision: Format) -> float:
    """The share of ``N(0, rms**2)`` that rounds to zero: ``P(|x| < smallest / 2) = erf(smallest / (sqrt(8) rms))``.

    1 for an rms of 0, 0 for one that is not finite.
    """
    if not math.isfinite(rms):
        return 0.0
    return math.erf(precision.smallest / 2 / (rms * math.sqrt(2))) if rms > 0 else 1.0


def lost_addition_share(ratio: float, precision: Format) -> float:
    """The share of additions ``x + y`` that change nothing, for independent Gaussians with ``rms(y) / rms(x) = ratio``.

    ``x + y`` rounds to ``x`` where ``|y / x|`` is below half a unit in the last place of ``x``, relative to ``x``: that
    is between ``2**(-digits - 1)`` and ``2**-digits``, of which the geometric mean is taken. The quotient of two
    Gaussians follows a Cauchy distribution of scale ``ratio``, so the share is ``2 / pi * atan(half_unit / ratio)``.
    """
    half_unit = 2.0 ** (-precision.digits - 0.5)
    return 2 / math.pi * math.atan2(half_unit, ratio)


def expected_extreme(extreme: float, mean: float, sampled: int, count: int) -> float:
    """The extreme of ``count`` values, when ``sampled`` of them had ``extreme``.

    The largest deviation among ``n`` Gaussians grows as ``sqrt(2 ln n)`` (Gumbel 1958).
    """
    if sampled >= count or sampled < 2:
        return extreme
    return mean + (extreme - mean) * math.sqrt(math.log(count) / math.log(sampled))
