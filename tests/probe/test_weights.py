"""The record of a parameter: numbers against float64 numpy, hazards of dtype and layout, and no trace left."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from initaudit.probe.weights import look, parameter_record
from initaudit.records import Parameter


def record(tensor: torch.Tensor) -> Parameter:
    return parameter_record("layer.weight", tensor, fans=None, torch_fans=None)


def assert_moments(found: Parameter, values: np.ndarray, rel: float = 1e-5) -> None:
    exact = values.astype(np.float64)
    assert found.mean == pytest.approx(exact.mean(), rel=rel, abs=rel * exact.std())
    assert found.std == pytest.approx(exact.std(), rel=rel)
    assert found.rms == pytest.approx(math.sqrt((exact**2).mean()), rel=rel)
    assert (found.min, found.max) == (exact.min(), exact.max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3,), (64, 65), (4096,), (3, 5, 7, 11)])
def test_moments(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = (torch.randn(shape) * 0.3 + 0.1).to(dtype)
    found = record(values)
    assert_moments(found, values.double().numpy())
    assert (found.shape, found.dtype) == (shape, str(dtype).removeprefix("torch."))


def test_large_tensor_has_exact_moments_and_a_sampled_kurtosis() -> None:
    values = torch.empty(700, 1000).normal_(1.0, 0.02, generator=torch.Generator().manual_seed(1))
    values[0, 0], values[-1, -1] = 5.0, -5.0
    found = record(values)
    assert_moments(found, values.numpy())
    assert found.kurtosis == pytest.approx(3.0, abs=0.2)


def test_float32_sums_do_not_lose_digits() -> None:
    values = torch.full((3_000_000,), 0.1)
    values[::2] = 0.3
    assert_moments(record(values), values.numpy(), rel=1e-5)


def test_a_mean_far_above_the_std() -> None:
    values = torch.randn(200, 200, dtype=torch.float64) * 1e-6 + 100
    assert_moments(record(values), values.numpy(), rel=1e-5)


def test_half_precision_does_not_overflow() -> None:
    values = torch.full((64, 64), 6e4, dtype=torch.float16)
    values[0] = -6e4
    assert record(values).rms == pytest.approx(6e4, rel=1e-3)


def test_huge_values_do_not_count_as_nonfinite() -> None:
    found = record(torch.tensor([[1e30, -2e30], [3e30, 1.0]]))
    assert found.nonfinite == 0
    assert found.rms == pytest.approx(math.sqrt(14 / 4) * 1e30)


def test_nonfinite_entries_are_counted_and_left_out() -> None:
    values = torch.tensor([1.0, float("nan"), float("inf"), -1.0, float("-inf")])
    found = record(values)
    assert (found.nonfinite, found.mean, found.rms, found.max) == (3, 0.0, 1.0, 1.0)
    assert record(torch.full((4,), float("nan"))).nonfinite == 4


def test_zero_fraction_and_constants() -> None:
    assert record(torch.tensor([0.0, 0.0, 0.0, 2.0])).zero_fraction == 0.75
    zeros, half = record(torch.zeros(4, 4)), record(torch.full((4, 4), 0.5))
    assert (zeros.constant, zeros.zero_fraction, zeros.std_uncertainty, zeros.init) == (True, 1.0, 0.0, "zeros")
    assert (half.constant, half.std, half.mean, half.init) == (True, 0.0, 0.5, "constant(0.5)")


def test_identical_rows() -> None:
    row = torch.randn(1, 6)
    assert record(row.repeat(4, 1)).identical_rows
    assert record(torch.ones(4, 6)).identical_rows
    assert not record(row).identical_rows  # one row is no symmetry
    assert not record(torch.cat([row, row, row + 1])).identical_rows


@pytest.mark.parametrize(("uniform", "kurtosis"), [(False, 3.0), (True, 1.8)])
def test_std_uncertainty_is_the_spread_over_draws(uniform: bool, kurtosis: float) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(400, 40, 40, generator=generator) if uniform else torch.randn(400, 40, 40, generator=generator)
    found = [record(draw) for draw in draws]
    stds = np.array([f.std for f in found])
    assert np.mean([f.std_uncertainty for f in found]) == pytest.approx(math.sqrt((kurtosis - 1) / 6400), rel=0.02)
    assert stds.std() / stds.mean() == pytest.approx(found[0].std_uncertainty, rel=0.15)


@pytest.mark.parametrize(
    ("tensor", "init"),
    [
        (torch.empty(3, 4, device="meta"), "meta"),
        (torch.empty(0, 4), "empty"),
        (torch.ones(3, dtype=torch.complex64), "not judged (complex64)"),
        (torch.ones(3, dtype=torch.int8), "not judged (int8)"),
        (torch.eye(3).to_sparse(), "not judged (float32)"),
        (nn.parameter.UninitializedParameter(), "uninitialized (lazy)"),
    ],
)
def test_what_holds_no_real_numbers(tensor: torch.Tensor, init: str) -> None:
    found = record(tensor)
    assert found.init == init
    assert math.isnan(found.std)
    assert not found.constant


def test_float8_is_read() -> None:
    assert record(torch.randn(64, 64).to(torch.float8_e4m3fn)).std == pytest.approx(1.0, rel=0.05)


def test_views_and_transposes() -> None:
    base = torch.randn(40, 60)
    assert_moments(record(base.T), base.T.numpy())
    assert_moments(record(base[:, ::2]), base[:, ::2].numpy())


def test_leaves_no_trace() -> None:
    weight = nn.Parameter(torch.randn(600, 600))
    before, version, state = weight.detach().clone(), weight._version, torch.get_rng_state()
    parameter_record("w", weight, fans=(600, 600), torch_fans=(600, 600))
    assert torch.equal(weight, before)
    assert weight._version == version
    assert weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_carries_what_it_was_told() -> None:
    found = parameter_record(
        "head.weight", torch.ones(2, 2), fans=None, torch_fans=None, aliases=("emb.weight",), requires_grad=False
    )
    assert (found.fqn, found.aliases, found.requires_grad) == ("head.weight", ("emb.weight",), False)


@settings(max_examples=40, deadline=None)
@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 2**31))
def test_scale_law(scale: float, seed: int) -> None:
    values = torch.randn(30, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    one, other = record(values), record(values * scale)
    for name in ("mean", "std", "rms", "min", "max"):
        assert getattr(other, name) == pytest.approx(scale * getattr(one, name), rel=1e-9, abs=1e-12 * scale)
    assert other.kurtosis == pytest.approx(one.kurtosis, rel=1e-9)


def test_tensors_looked_at_together_are_seen_as_if_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(16, 8, generator=generator) * (i + 1) for i in range(5)]
    tensors += [torch.randn(400, 400, generator=generator) for _ in range(3)]
    tensors += [torch.zeros(128), torch.ones(16, 8), torch.eye(16), torch.empty(0, 4), torch.ones(3, dtype=torch.int8)]
    tensors += [torch.randn(1, 8, generator=generator).repeat(16, 1), torch.tensor(3.0), tensors[0].half()]
    tensors += [nn.init.orthogonal_(torch.empty(16, 8)), 1e-6 * tensors[1] + 100, nn.parameter.UninitializedParameter()]
    tensors[2][3, 4], tensors[6][0, 0] = float("nan"), float("inf")
    # repr, for what is not a number is no equal of itself
    assert [repr(seen) for seen in look(tensors)] == [repr(look([t])[0]) for t in tensors]


def test_rows_that_may_be_orthogonal_are_told_from_those_that_are_not() -> None:
    draw, turned = torch.randn(64, 48), nn.init.orthogonal_(torch.empty(64, 48))
    tall, wide, doubled = (pytest.approx(gain, rel=1e-5) for gain in (1.0, 1.0, 2.0))
    seen = look([draw, turned, turned.T, 2 * turned, draw.flatten()])
    assert [s.orthogonal for s in seen] == [None, tall, wide, doubled, None]


def test_what_is_expanded_or_strided_is_read_as_it_is() -> None:
    values = torch.randn(700, 1).expand(700, 700)
    assert_moments(record(values), values.numpy())
    strided = torch.randn(1 << 19, generator=torch.Generator().manual_seed(0))
    strided[1::2] = 0
    assert record(strided[::2]).zero_fraction == 0
    assert record(torch.ones(1).expand(1000, 1000)).init == "ones"


def test_numbers_whose_squares_are_beyond_float64() -> None:
    found = record(torch.randn(64, 64, dtype=torch.float64) * 1e200)
    assert found.std == pytest.approx(1e200, rel=0.05)
    assert found.rms == pytest.approx(found.std, rel=1e-3)
    assert (found.nonfinite, found.init) == (0, "unknown")
