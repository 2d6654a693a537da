"""Merging against the statistics that numpy takes of the concatenated values."""

import math
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from initaudit.records import Histogram, Stats
from initaudit.report.merge import merge, merge_histograms

BINS = 16
VALUES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40)


def measure(values: list[float], *, units: int = 4, dead: float = 0.0) -> Stats:
    x = np.asarray(values, dtype=np.float64)
    second = float(np.mean(x**2))
    return Stats(
        count=x.size,
        sampled=x.size,
        mean=float(x.mean()),
        std=float(x.std()),
        rms=math.sqrt(second),
        min=float(x.min()),
        max=float(x.max()),
        zero_fraction=float(np.mean(x == 0)),
        kappa=float(np.mean(x**4)) / second**2 - 1 if second > 1e-60 else None,
        units=units,
        dead_units=dead,
        histogram=histogram(x),
    )


def histogram(x: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", limit: float | None = None) -> Histogram:
    peak = float(np.abs(x).max())
    limit = limit or (2.0 ** math.floor(math.log2(peak) + 1) if peak > 0 else 2.0**-20)
    return Histogram(limit, tuple(int(n) for n in np.histogram(x, bins=BINS, range=(-limit, limit))[0]))


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_merged_is_what_the_concatenation_has(parts: list[list[float]]) -> None:
    merged = merge(measure(part) for part in parts)
    whole = measure([value for part in parts for value in part])
    assert merged is not None
    assert (merged.count, merged.min, merged.max) == (whole.count, whole.min, whole.max)
    scale = max(abs(whole.min), abs(whole.max))
    assert merged.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-9 * scale)
    assert merged.std == pytest.approx(whole.std, rel=1e-6, abs=1e-6 * scale)
    assert merged.rms == pytest.approx(whole.rms, rel=1e-9)
    assert merged.zero_fraction == pytest.approx(whole.zero_fraction)
    if merged.kappa is not None:
        assert merged.kappa == pytest.approx(whole.kappa, rel=1e-6, abs=1e-9)


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_merged_histogram_counts_the_concatenation_exactly(parts: list[list[float]]) -> None:
    histograms = [histogram(np.asarray(part, dtype=np.float64)) for part in parts]
    merged = merge_histograms(histograms)
    assert merged is not None
    whole = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
    assert merged == histogram(whole, max(h.limit for h in histograms))


def test_bins_join_from_the_middle_outward() -> None:
    merged = merge_histograms([Histogram(1.0, (1, 2, 3, 4)), Histogram(4.0, (0, 0, 10, 0))])
    assert merged == Histogram(4.0, (0, 3, 17, 0))


def test_limits_that_are_far_apart() -> None:
    merged = merge_histograms([Histogram(2.0**-1000, (1, 0, 0, 2)), Histogram(2.0**1000, (5, 0, 0, 7))])
    assert merged == Histogram(2.0**1000, (5, 1, 2, 7))


@pytest.mark.parametrize("counts", [((1, 2), (1, 2, 3, 4)), ((1, 2, 3), (1, 2, 3))])
def test_bins_that_do_not_nest_are_refused(counts: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="do not merge; expected one even number of bins"):
        merge_histograms([Histogram(1.0, part) for part in counts])


def test_none_is_skipped_and_one_is_itself(make: ModuleType) -> None:
    stats = make.stats(1.0)
    assert merge([]) is None
    assert merge([None, None]) is None
    assert merge([None, stats]) is stats


def test_unit_fractions_are_weighted_by_units() -> None:
    merged = merge([measure([1.0], units=30, dead=0.5), measure([1.0], units=10, dead=0.1)])
    assert merged is not None
    assert merged.dead_units == pytest.approx((30 * 0.5 + 10 * 0.1) / 40)


def test_a_fraction_that_no_part_has_stays_unknown(make: ModuleType) -> None:
    merged = merge([make.stats(1.0, saturated=None), make.stats(1.0, saturated=0.25)])
    assert merged.saturated == 0.25
    assert merged.saturated_units is None


def test_exploded_parts_stay_exploded(make: ModuleType) -> None:
    infinite = make.stats(1.0, rms=math.inf, max=math.inf, nonfinite=3)
    merged = merge([make.stats(1.0), infinite])
    assert (merged.rms, merged.max, merged.nonfinite) == (math.inf, math.inf, 3)
    assert math.isnan(merge([infinite, make.stats(1.0, rms=math.nan, min=math.nan)]).rms)


def test_squares_do_not_overflow(make: ModuleType) -> None:
    assert merge([make.stats(1e200), make.stats(1e200)]).rms == pytest.approx(1e200)
    assert merge([make.stats(1e-200), make.stats(1e-200)]).rms == pytest.approx(1e-200)
