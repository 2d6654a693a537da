"""The formats are torch's, and the shares are what rounding in these formats does."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from initaudit.theory.formats import (
    BFLOAT16,
    FLOAT16,
    FORMATS,
    Format,
    expected_extreme,
    flushed_share,
    lost_addition_share,
)

BOTH = pytest.mark.parametrize("precision", FORMATS.values(), ids=list(FORMATS))


def normal(count: int = 200_000, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@BOTH
def test_formats_are_those_of_torch(precision: Format) -> None:
    info = torch.finfo(getattr(torch, precision.name))
    found = (precision.largest, precision.smallest_normal, precision.smallest, 2.0 ** (1 - precision.digits))
    assert found == (info.max, info.smallest_normal, info.smallest_normal * info.eps, info.eps)


@pytest.mark.parametrize("rms", [1e-9, 2e-8, 4.4e-8, 1e-7, 1e-5])
def test_flushed_share_is_what_float16_flushes(rms: float) -> None:
    zeros = ((normal() * rms).half() == 0).double().mean().item()
    assert flushed_share(rms, FLOAT16) == pytest.approx(zeros, abs=0.005)


def test_half_is_flushed_where_the_page_says() -> None:
    assert flushed_share(4.42e-8, FLOAT16) == pytest.approx(0.5, abs=0.001)
    assert FLOAT16.largest / 4.42e-8 == pytest.approx(1.5e12, rel=0.02)


def test_everything_is_flushed_at_zero_and_nothing_at_infinity() -> None:
    assert flushed_share(0.0, FLOAT16) == 1
    assert flushed_share(math.inf, FLOAT16) == flushed_share(math.nan, FLOAT16) == 0


@BOTH
@pytest.mark.parametrize("steps", [-3, -1, 0, 1, 3])
def test_lost_additions_are_those_of_the_format(precision: Format, steps: int) -> None:
    dtype = getattr(torch, precision.name)
    ratio = 2.0 ** (-precision.digits - 0.5 + steps)
    stream, branch = normal().to(dtype), (normal(seed=1) * ratio).to(dtype)
    lost = (stream + branch == stream).double().mean().item()
    assert lost_addition_share(ratio, precision) == pytest.approx(lost, abs=0.02)


@BOTH
@given(ratio=st.floats(1e-8, 1.0), more=st.floats(1.01, 100.0))
def test_a_larger_branch_loses_less(precision: Format, ratio: float, more: float) -> None:
    assert 0 < lost_addition_share(ratio * more, precision) < lost_addition_share(ratio, precision) < 1


def test_half_of_the_additions_are_lost_where_the_page_says() -> None:
    assert lost_addition_share(1 / 362, BFLOAT16) == pytest.approx(0.5, abs=0.001)
    assert lost_addition_share(1 / 2896, FLOAT16) == pytest.approx(0.5, abs=0.001)


@pytest.mark.parametrize("mean", [0.0, 50.0])
def test_the_extreme_of_a_sample_tells_that_of_the_whole(mean: float) -> None:
    found = [normal(200_000, seed) + mean for seed in range(20)]
    told = sum(expected_extreme(x[:2000].max().item(), mean, 2000, len(x)) for x in found) / len(found)
    real = sum(x.max().item() for x in found) / len(found)
    assert told - mean == pytest.approx(real - mean, rel=0.05)


def test_the_extreme_of_all_values_is_itself() -> None:
    assert expected_extreme(3.0, 1.0, 10, 10) == expected_extreme(3.0, 1.0, 1, 10) == 3.0
