"""An audit waits for a device a handful of times in all, however deep the model is.

There need not be one: see :mod:`tests.devices.waiting`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import initaudit
from initaudit.probe import run
from tests.devices.waiting import Waits, waits
from tests.probe.probing import randn

HANDFUL = 12


class Residual(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-2, -3)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(-2, -3).flatten(-2))


class Cased(nn.Module):
    """Runs its body under autocast, as training scripts do."""

    def __init__(self, body: nn.Module, device: str = "cpu") -> None:
        super().__init__()
        self.body, self.device = body, device

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16):
            return self.body(x)


def orthogonal(width: int) -> nn.Linear:
    layer = nn.Linear(width, width)
    nn.init.orthogonal_(layer.weight)
    return layer


def silent(width: int) -> nn.Linear:
    layer = nn.Linear(width, width)
    nn.init.zeros_(layer.weight)
    return layer


def frozen(width: int) -> nn.Linear:
    return nn.Linear(width, width).requires_grad_(False)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu": (lambda: nn.Sequential(nn.Linear(24, 24), nn.ReLU()), (16, 24)),
    "large relu": (lambda: nn.Sequential(nn.Linear(300, 300), nn.ReLU()), (150, 300)),
    "prelu": (lambda: nn.Sequential(nn.Linear(24, 24), nn.PReLU()), (16, 24)),
    "orthogonal": (lambda: nn.Sequential(orthogonal(24), nn.Tanh()), (16, 24)),
    "zeros": (lambda: Residual(nn.Linear(24, 24), nn.GELU(), silent(24)), (16, 24)),
    "frozen": (lambda: Residual(frozen(24), nn.GELU(), nn.Linear(24, 24)), (16, 24)),
    "batch norm": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        (4, 4, 8, 8),
    ),
    "transformer": (
        lambda: nn.Sequential(
            Residual(nn.LayerNorm(16), Attention(16)), Residual(nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU())
        ),
        (4, 6, 16),
    ),
    "torch's transformer": (lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (4, 6, 16)),
}


def counted(model: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[Waits, Waits]:
    """What waited in the whole audit, and in the part of it in which the model runs."""
    running = Waits()
    forward, backward = run._forward, torch.autograd.backward

    def marked_forward(*args: Any) -> Any:
        running.reads, running.uploads = list(seen.reads), list(seen.uploads)
        return forward(*args)

    def marked_backward(*args: Any) -> None:
        backward(*args)
        running.reads, running.uploads = seen.reads[len(running.reads) :], seen.uploads[len(running.uploads) :]

    monkeypatch.setattr(run, "_forward", marked_forward)
    monkeypatch.setattr(torch.autograd, "backward", marked_backward)
    with waits(model, x) as seen:
        report = initaudit.audit(model, x)
    assert report.trace is not None
    assert len(report.layers) > 1
    monkeypatch.undo()
    return seen, running


@pytest.mark.parametrize(
    ("kind", "cased"),
    [*((kind, False) for kind in LAYERS), *((kind, True) for kind in ("relu", "transformer", "prelu"))],
)
def test_how_often_an_audit_waits_does_not_grow_with_layers(
    kind: str, cased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, shape = LAYERS[kind]
    few, many = (10, 50) if kind in ("relu", "large relu") else (3, 9)
    found = []
    for layers in (few, many):
        torch.manual_seed(0)
        model = nn.Sequential(*(make() for _ in range(layers)))
        found.append(counted(Cased(model) if cased else model, randn(*shape), monkeypatch))
    (all_few, running_few), (all_many, running_many) = found
    assert running_few.reads == running_many.reads == []
    assert all_few.reads == all_many.reads
    assert len(all_many.reads) <= HANDFUL
    assert len(running_many.uploads) == len(running_few.uploads)


def test_waiting_at_each_layer_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reading(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / x.abs().max().item()

    model = nn.Sequential(*(m for _ in range(5) for m in (nn.Linear(24, 24), Reading())))
    _, running = counted(model, randn(16, 24), monkeypatch)
    assert len(running.reads) == 5


@pytest.mark.parametrize("layers", [4, 12])
def test_what_is_found_is_the_same_as_on_the_host(layers: int) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(*(LAYERS["batch norm"][0]() for _ in range(layers))), randn(4, 4, 8, 8)
    here = initaudit.audit(model, x)
    with waits(model, x):
        there = initaudit.audit(model, x)
    assert [f.message for f in here.findings] == [f.message for f in there.findings]
    for a, b in zip(here.layers, there.layers, strict=True):
        assert a.weight.init == b.weight.init
        for name in ("mean", "std", "rms", "min", "max", "kurtosis", "zero_fraction", "grad_rms"):
            expected = pytest.approx(getattr(b.weight, name), rel=1e-5, abs=1e-6 * b.weight.rms)
            assert getattr(a.weight, name) == expected, name
        for one, other in zip(a.calls, b.calls, strict=True):
            assert one.pre_activation.rms == pytest.approx(other.pre_activation.rms, rel=1e-6)  # type: ignore
            assert one.gradient.rms == pytest.approx(other.gradient.rms, rel=1e-6)  # type: ignore
