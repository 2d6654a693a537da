"""Statistics against numpy: exact on small tensors, sampled without bias on large ones."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from initaudit.probe.sampling import MAX_SAMPLES, SAMPLE
from initaudit.probe.statistics import Statistics
from initaudit.records import Stats
from initaudit.report.merge import merge
from tests.probe.probing import randn


def stats_of(tensor: Tensor, unit_dim: int = -1, bounds: tuple[float, float] | None = None, seed: int = 0) -> Stats:
    statistics = Statistics(seed)
    measurement = statistics.measure(tensor, unit_dim, bounds)
    statistics.collect()
    found = statistics.stats(measurement)
    assert found is not None
    return found


@given(
    st.tuples(st.integers(2, 6), st.integers(1, 5), st.integers(1, 7)),
    st.floats(0.01, 100),
    st.floats(-10, 10),
    st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_small_tensors_are_measured_exactly(shape: tuple[int, ...], scale: float, shift: float, seed: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale + shift
    x[x.abs() < 0.3 * scale] = 0
    found, v = stats_of(x), x.double().numpy()
    assert (found.count, found.sampled, found.samples, found.units) == (v.size, v.size, shape[0], shape[-1])
    assert found.mean == pytest.approx(v.mean(), rel=1e-6, abs=1e-6 * scale)
    assert found.rms == pytest.approx(np.sqrt((v**2).mean()), rel=1e-6)
    assert found.std == pytest.approx(v.std(), rel=1e-4, abs=1e-6 * (scale + abs(shift)))
    assert (found.min, found.max) == (v.min(), v.max())
    assert found.zero_fraction == pytest.approx((v == 0).mean())
    assert found.sample_std == pytest.approx(np.sqrt(v.var(axis=0, ddof=1).mean()), rel=1e-5, abs=1e-9)
    assert found.dead_units == pytest.approx((v == 0).all(axis=(0, 1)).mean())
    if v.any():
        assert found.kappa == pytest.approx((v**4).mean() / (v**2).mean() ** 2 - 1, rel=1e-5, abs=1e-9)
    rows = v.reshape(len(v), -1)
    if rows.any(axis=1).all():
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        gram = unit @ unit.T
        assert found.cosine == pytest.approx(gram[~np.eye(len(v), dtype=bool)].mean(), abs=1e-6)


@given(st.floats(-30, 30), st.floats(0, 4), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_what_is_reduced_in_float32_agrees_with_float64(exponent: float, shift: float, seed: int) -> None:
    """Of 20,480 elements all are looked at, and reduced in half of the precision, whatever their scale."""
    x = (torch.randn(16, 20, 64, generator=torch.Generator().manual_seed(seed)) + shift).relu() * 2.0**exponent
    found, v = stats_of(x), x.double().numpy()
    size = np.sqrt((v**2).mean())
    assert found.sampled == found.count == v.size
    assert found.mean == pytest.approx(v.mean(), abs=1e-6 * size)
    assert (found.rms, found.std) == pytest.approx((size, v.std()), rel=1e-5)
    assert (found.min, found.max) == (v.min(), v.max())
    assert found.kappa == pytest.approx((v**4).mean() / (v**2).mean() ** 2 - 1, rel=1e-4)
    assert found.sample_std == pytest.approx(np.sqrt(v.var(axis=0, ddof=1).mean()), rel=1e-5)
    assert found.zero_fraction == pytest.approx((v == 0).mean())
    assert sum(found.histogram.counts) <= v.size
    unit = v.reshape(16, -1) / np.linalg.norm(v.reshape(16, -1), axis=1, keepdims=True)
    gram = unit @ unit.T
    assert found.cosine == pytest.approx(gram[~np.eye(16, dtype=bool)].mean(), abs=1e-5)


@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-6])
def test_samples_that_are_nearly_one_are_told_apart(distance: float) -> None:
    x = randn(1, 2, 256) + distance * randn(32, 2, 256).double()
    found = stats_of(x.float())
    exact = x.float().double().var(0).mean().sqrt().item()
    assert found.sample_std == pytest.approx(exact, rel=1e-3)


def activations(depth: int, width: int, batch: int) -> list[Tensor]:
    torch.manual_seed(0)
    x, found = torch.randn(batch, width), []
    for _ in range(depth):
        layer = nn.Linear(width, width, bias=False)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        x = torch.relu(layer(x).detach())
        found.append(x)
    return found


@pytest.mark.parametrize("index", [0, 3])
def test_rms_of_real_activations_is_that_of_all_elements(index: int) -> None:
    x = activations(4, 4096, 64)[index]
    exact = x.double().square().mean().sqrt().item()
    found = [stats_of(x, seed=seed) for seed in range(5)]
    assert found[0].sampled <= SAMPLE < found[0].count
    assert [f.rms for f in found] == pytest.approx([exact] * 5, rel=1e-5)
    for f in found:
        assert f.mean**2 + f.std**2 == pytest.approx(f.rms**2, rel=1e-5)


@pytest.mark.parametrize("compare", [True, False], ids=["activation", "gradient"])
def test_what_is_known_of_all_elements_does_not_depend_on_the_sample(compare: bool) -> None:
    x = activations(4, 4096, 64)[3]
    rms = x.double().square().mean().sqrt()
    for seed in range(3):
        statistics = Statistics(seed)
        measurement = statistics.measure(x, search=False, compare=compare)
        statistics.collect()
        found = statistics.stats(measurement)
        assert found is not None
        assert found.rms == pytest.approx(rms.item(), rel=1e-5)
        if not compare:
            assert (found.sample_std, found.cosine) == (None, None)


def test_a_mean_that_hides_the_std() -> None:
    x = randn(64, 4096) * 1e-3 + 10.0
    found = stats_of(x)
    assert found.mean == pytest.approx(10.0, rel=1e-6)
    assert found.std == pytest.approx(1e-3, rel=0.02)


LAYOUTS = {
    "contiguous": lambda x: x,
    "length that no chunk divides": lambda x: x[..., :-1].contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(1, 3),
    "every other": lambda x: x[:, ::2],
    "expanded": lambda x: x[:, :1].expand(-1, 16, -1, -1),
    "offset into a larger one": lambda x: x[1:, 3:],
    "bfloat16": lambda x: x.bfloat16(),
    "float64": lambda x: x.double(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("unit_dim", [1, -1])
def test_a_layout_in_memory_changes_nothing(layout: str, unit_dim: int) -> None:
    x = LAYOUTS[layout](randn(8, 16, 40, 36) * torch.linspace(0.1, 3, 16)[:, None, None])
    found = stats_of(x, unit_dim)
    assert found.rms == pytest.approx(x.double().square().mean().sqrt().item(), rel=1e-5)
    other = stats_of(x.clone(memory_format=torch.contiguous_format), unit_dim)
    rounded = ("mean", "std", "rms", "sample_std")  # sums over all elements are taken in the order of memory
    assert [getattr(found, n) for n in rounded] == pytest.approx([getattr(other, n) for n in rounded], rel=1e-6)
    assert replace(found, **{n: getattr(other, n) for n in rounded}) == other


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_squares_that_leave_float32(scale: float) -> None:
    found = stats_of(randn(64, 4096) * scale)
    assert found.rms == pytest.approx(scale, rel=0.02)
    assert found.nonfinite == 0


@pytest.mark.parametrize("scale", [1.0, 1e25])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_value_outside_the_sample(scale: float, value: float) -> None:
    x = randn(64, 8192) * scale
    places = [(i, j) for i in range(20) for j in range(0, 8192, 1000)]
    for place in places[:5]:
        spoiled = x.clone()
        spoiled[place] = value
        assert stats_of(spoiled).nonfinite >= 1


def test_what_is_not_zero_in_the_sample_is_not_needed_for_the_rms() -> None:
    x = torch.zeros(64, 100_000)
    x[:, ::1000] = 1.0
    found = stats_of(x)
    assert found.rms == pytest.approx(1e-3**0.5, rel=1e-5)
    assert found.std**2 + found.mean**2 == pytest.approx(found.rms**2)


def test_tensors_measured_together_are_measured_as_if_alone() -> None:
    tensors = [randn(16, 300, seed=i) * (i + 1) for i in range(30)] + [randn(64, 4096, seed=i) for i in range(30)]
    tensors += [randn(3, seed=1), torch.tensor(2.0), randn(16, 300).half(), randn(16, 300).relu()]
    tensors[7][2, 3], tensors[40][5] = float("nan"), float("inf")
    statistics = Statistics(0)
    together = [statistics.measure(t) for t in tensors]
    statistics.collect()
    # repr, for what is not a number is no equal of itself
    assert [repr(statistics.stats(m)) for m in together] == [repr(stats_of(t)) for t in tensors]


def test_a_tensor_is_neither_kept_nor_read_after_it_was_measured() -> None:
    statistics, x, large = Statistics(0), randn(16, 300), randn(64, 4096)
    before = stats_of(x), stats_of(large)
    measured = statistics.measure(x), statistics.measure(large)
    kept = weakref.ref(large)
    x.zero_()
    large.zero_()
    del x, large
    assert kept() is None
    statistics.collect()
    assert tuple(map(statistics.stats, measured)) == before


def test_every_channel_is_kept_for_unit_statistics() -> None:
    x = randn(64, 100, 40, 40).abs() + 0.1
    x[:, ::4] = 0
    found = stats_of(x, 1)
    assert found.count == x.numel() > found.sampled
    assert found.units == 100
    assert found.dead_units == 0.25


def test_a_unit_alive_on_one_sample_looked_at_is_not_dead() -> None:
    x = torch.zeros(MAX_SAMPLES, 2048)
    x[5] = 1.0
    assert stats_of(x).dead_units == 0


def test_units_lie_where_they_are_said_to() -> None:
    x = randn(8, 6, 5).abs() + 0.1
    x[:, 2] = 0
    assert stats_of(x, unit_dim=1).dead_units == pytest.approx(1 / 6)
    assert stats_of(x, unit_dim=-1).dead_units == 0


def test_saturation_counts_elements_and_units() -> None:
    x = torch.zeros(40, 10)
    x[:, :3] = 1.0
    x[:20, 3] = -1.0
    found = stats_of(x, bounds=(-0.97, 0.97))
    assert found.saturated == pytest.approx((3 * 40 + 20) / 400)
    assert found.saturated_units == pytest.approx(0.3)
    assert stats_of(x).saturated is None


def test_not_finite_entries_are_counted_and_left_out_of_the_rest() -> None:
    x = randn(16, 16)
    x[0, 0], x[1, 1], x[2, 2] = float("nan"), float("inf"), float("-inf")
    found = stats_of(x)
    assert found.nonfinite == 3
    assert found.max < 10
    rest = x[x.isfinite()].double()
    assert found.rms == pytest.approx(rest.square().mean().sqrt().item(), rel=1e-6)
    assert found.mean == pytest.approx(rest.mean().item(), abs=1e-6)
    assert found.sample_std == pytest.approx(x[:, 3:].var(0).mean().sqrt().item(), rel=1e-5)
    assert found.zero_fraction == 0


def test_a_tensor_without_one_finite_entry_has_no_moments_and_no_dead_units() -> None:
    found = stats_of(torch.full((4, 4), float("nan")))
    assert found.nonfinite == 16
    assert np.isnan([found.mean, found.rms]).all()
    assert (found.zero_fraction, found.dead_units, found.sample_std) == (0, 0, None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_one_bad_value_in_a_large_half_precision_tensor(dtype: torch.dtype) -> None:
    x = torch.full((64, 70_000), 60_000.0, dtype=dtype)  # whose sum is beyond float16
    assert stats_of(x).nonfinite == 0
    x[63, 69_999] = float("nan")
    assert stats_of(x).nonfinite >= 1


def test_same_shape_and_seed_look_at_the_same_elements() -> None:
    x = randn(64, 4096)
    assert stats_of(x) == stats_of(x.clone())
    assert stats_of(x, seed=1) != stats_of(x)


@pytest.mark.parametrize(
    "tensor",
    [torch.empty(0, 3), torch.arange(6), torch.eye(3).to_sparse(), torch.empty(3, device="meta"), torch.tensor([True])],
    ids=["empty", "integer", "sparse", "meta", "bool"],
)
def test_what_has_no_statistics(tensor: Tensor) -> None:
    statistics = Statistics(0)
    assert statistics.measure(tensor) is None
    statistics.collect()
    assert statistics.stats(None) is None


def test_a_complex_tensor_is_measured_by_its_parts() -> None:
    z = torch.complex(randn(16, 8), randn(16, 8, seed=1))
    found = stats_of(z)
    assert found.rms == pytest.approx((z.abs().square().mean() / 2).sqrt().item(), rel=1e-5)
    assert found.units == 8


@given(st.lists(st.integers(2, 40), min_size=2, max_size=5), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_merged_statistics_are_those_of_all_elements(sizes: list[int], seed: int) -> None:
    parts = [
        torch.randn(n, 6, generator=torch.Generator().manual_seed(seed + i)) * (i + 1) for i, n in enumerate(sizes)
    ]
    merged = merge([stats_of(p) for p in parts])
    assert merged is not None
    whole = torch.cat(parts).double()
    assert merged.count == whole.numel()
    assert merged.mean == pytest.approx(whole.mean().item(), abs=1e-6)
    assert merged.rms == pytest.approx(whole.square().mean().sqrt().item(), rel=1e-6)
    assert merged.std == pytest.approx(whole.std(correction=0).item(), rel=1e-6)
    assert (merged.min, merged.max) == (whole.min().item(), whole.max().item())
    assert merged.histogram is not None
    assert sum(merged.histogram.counts) == whole.numel()


def test_histogram_is_over_a_power_of_two_and_counts_what_lies_there() -> None:
    found = stats_of(torch.tensor([[-3.0, -1.0, 0.5, 3.9]])).histogram
    assert found is not None
    assert found.limit == 4
    bins = len(found.counts)
    filled = [i for i, n in enumerate(found.counts) if n]
    assert filled == [int((v / 4 + 1) * bins / 2) for v in (-3.0, -1.0, 0.5, 3.9)]
