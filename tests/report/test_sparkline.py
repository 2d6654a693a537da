import math
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from initaudit.records import Histogram
from initaudit.report.sparkline import ASCII_BLOCKS, BLOCKS, axis_limit, sparkline


def test_a_gaussian_fills_an_axis_of_three_sigma(make: ModuleType) -> None:
    assert sparkline(make.gaussian_histogram(1.0), 3.0, 8) == "▂▄▇██▇▄▂"


def test_distributions_narrow_on_a_common_axis(make: ModuleType) -> None:
    rows = [sparkline(make.gaussian_histogram(std), 3.0, 16) for std in (1.0, 0.5, 0.25, 0.125)]
    widths = [len(row.strip()) for row in rows]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 4
    assert all(row == row[::-1] for row in rows)


def test_a_relu_shows_its_spike_and_its_tail(make: ModuleType) -> None:
    row = sparkline(make.rectified_histogram(1.0), 3.0, 8)
    assert row[:4].strip() == ""
    assert row[4] == "█"
    assert BLOCKS.index(row[5]) >= 2


def test_mass_beyond_the_axis_is_in_the_outermost_characters(make: ModuleType) -> None:
    row = sparkline(make.gaussian_histogram(100.0), 1.0, 8)
    assert row[0] == row[-1] == "█"
    assert set(row[1:-1]) <= {" ", "▁"}


def test_the_narrowest_distribution_is_two_characters_in_the_middle() -> None:
    assert sparkline(Histogram(1e-300, (5, 5)), 1.0, 8) == "   ██   "


def test_nothing_gives_blanks() -> None:
    assert sparkline(None, 1.0, 8) == " " * 8
    assert sparkline(Histogram(1.0, (0, 0, 0, 0)), 1.0, 8) == " " * 8


def test_ascii_blocks(make: ModuleType) -> None:
    row = sparkline(make.gaussian_histogram(1.0), 3.0, 8, ASCII_BLOCKS)
    assert row.isascii()
    assert row[3] == row[4] == "@"


@given(
    counts=st.lists(st.integers(0, 1000), min_size=1, max_size=32).map(lambda half: (*half, *half)),
    exponent=st.integers(-40, 40),
    limit=st.floats(1e-12, 1e12),
    width=st.integers(1, 12).map(lambda half: 2 * half),
)
def test_always_the_width_asked_for_and_never_empty_with_mass(
    counts: tuple[int, ...], exponent: int, limit: float, width: int
) -> None:
    row = sparkline(Histogram(2.0**exponent, counts), limit, width)
    assert len(row) == width
    assert set(row) <= set(BLOCKS + " ")
    assert ("█" in row) == (sum(counts) > 0)


def test_the_axis_follows_the_largest_rms_of_a_vanishing_signal() -> None:
    assert axis_limit([1.0, 0.1, 0.01, 1e-9]) == 3.0


def test_one_exploding_layer_does_not_widen_the_axis_for_all() -> None:
    assert axis_limit([1.0, 1.0, 1.0, 1e9]) == pytest.approx(30.0)


@pytest.mark.parametrize("rms", [[], [None], [0.0], [math.inf], [math.nan]])
def test_an_axis_without_usable_rms(rms: list[float | None]) -> None:
    assert axis_limit(rms) == 1.0
