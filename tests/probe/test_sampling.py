"""The error of what is sampled, on activations of real networks, and units of which none is left out."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from initaudit.probe.sampling import MAX_SAMPLES, MAX_UNITS, SAMPLE
from initaudit.probe.statistics import Statistics
from initaudit.records import Stats
from tests.probe.probing import randn

SEEDS = 12


def stats_of(
    tensor: Tensor, unit_dim: int, bounds: tuple[float, float] | None = None, *, seed: int = 0, compare: bool = True
) -> Stats:
    statistics = Statistics(seed)
    measurement = statistics.measure(tensor, unit_dim, bounds, compare=compare)
    statistics.collect()
    found = statistics.stats(measurement)
    assert found is not None
    return found


def _he(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer


def deep_relu() -> Iterator[tuple[Tensor, int]]:
    """Thirty layers in, where samples have become alike and a third of the units is dead."""
    x = torch.randn(256, 512)
    for depth in range(30):
        x = torch.relu(_he(nn.Linear(512, 512))(x))
        if depth in (0, 29):
            yield x, -1


def transformer_block() -> Iterator[tuple[Tensor, int]]:
    """Attention and feed-forward of a GPT-2 block: 12 heads, 768 and 3,072 features."""
    x = torch.randn(2, 128, 768)
    qkv, up = nn.Linear(768, 2304), nn.Linear(768, 3072)
    for layer in (qkv, up):
        nn.init.normal_(layer.weight, std=0.02)
    q, k, v = qkv(F.layer_norm(x, (768,))).view(2, 128, 3, 12, 64).permute(2, 0, 3, 1, 4)
    yield torch.softmax(q @ k.transpose(-1, -2) / 8, -1), -1
    yield F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 128, 768), -1
    yield F.gelu(up(x)), -1


def convolutions() -> Iterator[tuple[Tensor, int]]:
    x = torch.randn(8, 3, 40, 40)
    for before, after in ((3, 64), (64, 128), (128, 128)):
        x = _he(nn.Conv2d(before, after, 3, padding=1))(x)
        yield x, 1
        x = F.max_pool2d(torch.relu(x), 2)


NETWORKS = [deep_relu, transformer_block, convolutions]


@pytest.fixture(params=NETWORKS, ids=lambda network: network.__name__)
def real(request: pytest.FixtureRequest) -> list[tuple[Tensor, int]]:
    network: Callable[[], Iterator[tuple[Tensor, int]]] = request.param
    torch.manual_seed(0)
    with torch.no_grad():
        found = list(network())
    assert all(x.numel() > SAMPLE for x, _ in found)
    return found


def _figures(x: Tensor) -> tuple[float, float, float]:
    x = x.double()
    return x.mean().item(), x.std(correction=0).item(), x.square().mean().sqrt().item()


def large_convolution() -> Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return torch.relu(_he(nn.Conv2d(3, 64, 3, padding=1))(torch.randn(8, 3, 60, 60)))


@pytest.mark.parametrize("compare", [True, False], ids=["activation", "gradient"])
def test_rms_is_that_of_all_elements(real: list[tuple[Tensor, int]], compare: bool) -> None:
    for x, unit_dim in (*real, (large_convolution(), 1)):
        rms = _figures(x)[2]
        for seed in range(3):
            found = stats_of(x, unit_dim, seed=seed, compare=compare)
            assert found.sampled < found.count
            assert found.rms == pytest.approx(rms, rel=1e-5)


@pytest.mark.parametrize(("compare", "error"), [(True, 0.016), (False, 0.035)], ids=["activation", "gradient"])
def test_mean_and_std_are_within_their_error(real: list[tuple[Tensor, int]], compare: bool, error: float) -> None:
    """They come from 8,192 elements or more, and of a gradient from some 2,000."""
    for x, unit_dim in (*real, (large_convolution(), 1)):
        mean, std, rms = _figures(x)
        found = [stats_of(x, unit_dim, seed=seed, compare=compare) for seed in range(SEEDS)]
        for value, exact in (([f.mean for f in found], mean), ([f.std for f in found], std)):
            errors = np.array(value) - exact
            assert 0 < _root_mean_square(errors) < error * rms
            assert abs(errors.mean()) < 4 * errors.std(ddof=1) / SEEDS**0.5 + 1e-5 * rms


def test_what_lies_between_samples_is_unbiased_and_within_its_error(real: list[tuple[Tensor, int]]) -> None:
    """A standard error of ``sample_std`` is at most 1.3% of the rms here; four of the mean say that it is unbiased."""
    for x, unit_dim in real:
        exact = x.movedim(unit_dim, -1).double().var(0).mean().sqrt().item()
        rms = _figures(x)[2]
        errors = np.array([(stats_of(x, unit_dim, seed=seed).sample_std or 0.0) - exact for seed in range(SEEDS)]) / rms
        assert 0 < _root_mean_square(errors) < 0.016
        assert abs(errors.mean()) < 4 * errors.std(ddof=1) / SEEDS**0.5


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


SHAPES = [((64, 4096), -1), ((2, 100, 3072), -1), ((8, 2048, 7, 7), 1), ((2, 40, 50_257), -1), ((3, 5, 7, 1500), -1)]


@pytest.mark.parametrize(("shape", "unit_dim"), SHAPES, ids=str)
def test_one_dead_unit_of_thousands_is_seen(shape: tuple[int, ...], unit_dim: int) -> None:
    units = shape[unit_dim]
    assert units > MAX_UNITS
    x = randn(*shape).abs().add_(0.1)
    assert stats_of(x, unit_dim).dead_units == 0
    for dead in (0, units // 2 + 1, units - 1):
        silent = x.clone()
        silent.movedim(unit_dim, 0)[dead] = 0
        found = stats_of(silent, unit_dim)
        assert found.units == units
        assert found.dead_units == pytest.approx(1 / units)


def test_one_saturated_unit_of_thousands_is_seen() -> None:
    x = randn(64, 4096).clamp_(-0.9, 0.9)
    x[:, 77] = -1.0
    found = stats_of(x, -1, (-0.97, 0.97))
    assert found.saturated_units == found.saturated == pytest.approx(1 / 4096)


@pytest.mark.parametrize("value", [float("nan"), -1.0, 1e-30])
def test_a_unit_is_alive_where_one_of_its_elements_is(value: float) -> None:
    x = torch.zeros(MAX_SAMPLES, 2048)
    x[5] = value
    assert stats_of(x, -1).dead_units == 0


def test_a_long_vector_is_sampled_all_over() -> None:
    x = torch.zeros(100_000)
    x[50_000:] = randn(50_000)
    found = stats_of(x, -1)
    assert found.zero_fraction == pytest.approx(0.5, abs=0.02)
    assert found.rms == pytest.approx(x.double().square().mean().sqrt().item(), rel=1e-5)
