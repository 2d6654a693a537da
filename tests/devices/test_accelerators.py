"""The same audits on an accelerator, where there is one: the host's figures, also under autocast, and no waiting."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import initaudit
from initaudit.records import Report, Stats
from tests.devices.test_no_waiting import HANDFUL, LAYERS, Cased
from tests.probe.probing import randn

PRESENT = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


@pytest.fixture(params=list(PRESENT))
def device(request: pytest.FixtureRequest) -> str:
    if not PRESENT[request.param]:
        pytest.skip(f"no {request.param} device is present")
    return str(request.param)


def deep(kind: str, layers: int = 6) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    return nn.Sequential(*(make() for _ in range(layers))), randn(*shape)


def close(one: Stats | None, other: Stats | None, rel: float) -> bool:
    if one is None or other is None:
        return one is other
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("rms", "std")]
    return all(math.isclose(a, b, rel_tol=rel, abs_tol=1e-6) for a, b in pairs)


def same_figures(here: Report, there: Report, rel: float) -> None:
    assert [f.code for f in here.findings] == [f.code for f in there.findings]
    for a, b in zip(here.layers, there.layers, strict=True):
        assert (a.fqn, a.weight.init) == (b.fqn, b.weight.init)
        for x, y in zip(a.calls, b.calls, strict=True):
            for name in ("input", "pre_activation", "activation", "gradient"):
                assert close(getattr(x, name), getattr(y, name), rel), (a.fqn, name)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_figures_are_those_of_the_host(kind: str, device: str) -> None:
    model, x = deep(kind)
    here = initaudit.audit(model, x)
    there = initaudit.audit(model.to(device), x.to(device))
    assert there.trace is not None
    assert there.trace.environment.device.startswith(device)
    same_figures(here, there, rel=2e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype, device: str) -> None:
    class Half(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast(device, dtype):
                return self.body(x)

    model, x = deep("transformer")
    exact = initaudit.audit(model, x)
    halved = initaudit.audit(Half(model).to(device), x.to(device))
    assert halved.verdict == exact.verdict
    for a, b in zip(exact.layers, halved.layers, strict=True):
        assert close(a.calls[0].pre_activation, b.calls[0].pre_activation, rel=0.05)


def test_the_model_stays_where_it_was(device: str) -> None:
    model, x = deep("batch norm")
    model = model.to(device)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    initaudit.audit(model, x.to(device))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def waited(action: Callable[[], object]) -> int:
    """How often torch itself says that ``action`` waited for the device."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            action()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchroniz" in str(w.message) for w in caught)


@pytest.mark.skipif(not PRESENT["cuda"], reason="no cuda device is present, and only cuda tells when it waits")
@pytest.mark.parametrize("cased", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("kind", LAYERS)
def test_how_often_it_waits_does_not_grow_with_layers(kind: str, cased: bool) -> None:
    counts = []
    for layers in (10, 50):
        model, x = deep(kind, layers)
        model, x = (Cased(model, "cuda") if cased else model).cuda(), x.cuda()
        initaudit.audit(model, x)  # what is set up once
        counts.append(waited(lambda model=model, x=x: initaudit.audit(model, x)))
    assert counts[0] == counts[1]
    assert counts[1] <= 2 * HANDFUL
