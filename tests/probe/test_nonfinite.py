"""Values that are not finite are found exactly, in weights, values and gradients, where they are a fault."""

import pytest
import torch
from torch import Tensor, nn

from tests.probe.probing import Call, audit, by_fqn, codes, randn


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_weight(value: float) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    with torch.no_grad():
        model[0].weight[3, 5] = value
    report = audit(model, randn(8, 64))
    assert report.layers[0].weight.nonfinite == 1
    assert report.findings[0].fqn.startswith("0")
    assert report.verdict == "fail"
    report.to_json()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_activation_in_ten_million_is_found(value: float) -> None:
    def spoil(m: Call, x: Tensor) -> Tensor:
        h = m.a(x)
        bad = torch.zeros_like(h)
        bad[2, 1, 777, 1234] = value
        return m.b((h + bad).mean((2, 3)))

    model = Call(spoil, a=nn.Conv2d(1, 2, 1), b=nn.Linear(2, 2))
    report = audit(model, randn(3, 1, 1300, 1300))
    assert report.trace is not None
    spoiled = next(op for op in report.trace.ops if op.stats and op.stats.count > 10_000_000 and op.stats.nonfinite)
    assert spoiled.name.strip("_") == "add"
    assert "IA106" in codes(report)
    assert report.verdict == "fail"


def test_huge_but_finite_values_are_not_called_infinite() -> None:
    model = nn.Sequential(nn.Linear(512, 512, bias=False))
    nn.init.constant_(model[0].weight, 1e35)
    report = audit(model, torch.ones(128, 512))
    stats = report.layers[0].calls[0].pre_activation
    assert stats is not None
    assert stats.nonfinite == 0
    assert stats.rms == pytest.approx(512e35, rel=1e-3)


def test_overflow_in_half_precision_is_found_where_it_starts() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)).to(torch.float16)
    with torch.no_grad():
        model[1].weight.mul_(60000)
    report = audit(model, randn(16, 64).half() * 100)
    first = next(f for f in report.findings if f.code == "IA106")
    assert first.fqn == "1"
    assert report.verdict == "fail"


def test_not_a_number_on_the_way_back_only() -> None:
    model = Call(lambda m, x: m.b(torch.sqrt(0 * m.a(x))), a=nn.Linear(16, 16), b=nn.Linear(16, 4))
    report = audit(model, randn(8, 16))  # the slope of sqrt at zero is infinite, times zero
    layer = by_fqn(report)["a"]
    assert layer.weight.grad_nonfinite > 0
    assert "IA106" in codes(report)
    report.to_json()


def test_nan_in_the_input_is_said() -> None:
    x = randn(8, 16)
    x[0, 0] = float("nan")
    report = audit(nn.Sequential(nn.Linear(16, 4)), x)
    assert "IA106" in codes(report)


def test_infinite_buffer_as_a_mask_is_no_fault() -> None:
    def attend(m: Call, x: Tensor) -> Tensor:
        return m.b((m.a(x) @ m.a(x).transpose(-1, -2) + m.mask).softmax(-1) @ x)

    model = Call(attend, a=nn.Linear(16, 16), b=nn.Linear(16, 4))
    model.register_buffer("mask", torch.full((6, 6), float("-inf")).triu(1))
    report = audit(model, randn(4, 6, 16))
    assert report.verdict == "pass"
    assert "IA106" not in codes(report)
