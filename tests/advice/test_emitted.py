"""Plans for whole models, forced, written as code and run: what is in the plan is as it says, all else is as it was."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from initaudit import audit
from initaudit.advice.plan import Planner, Reach
from initaudit.curing import run
from tests.advice.models import FAULTY, Stack, vectors

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What the benchmark of emitted code compares with."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("_emitted")


class Encoder(nn.Module):
    """torch's own attention, whose query, key and value are rows of one parameter, between several norms."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32, padding_idx=0)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(32, 50, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(x)))


class Gated(nn.Sequential):
    """A container of a kind of its own that owns a parameter, beside plain ones that own none."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 64), nn.Tanh())
        self.gain = nn.Parameter(torch.full((64,), 3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.gain


MODELS = {
    **FAULTY,
    "encoder": (Encoder, lambda: torch.randint(1, 50, (4, 9))),
    "gated": (lambda: nn.Sequential(*[nn.Sequential(Gated(), nn.LayerNorm(64)) for _ in range(4)]), vectors),
    "normed": (
        lambda: nn.Sequential(
            *[p for _ in range(5) for p in (nn.utils.parametrizations.weight_norm(nn.Linear(64, 64)), nn.Sigmoid())],
            nn.Linear(64, 4),
        ),
        vectors,
    ),
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.SiLU(), nn.Conv2d(16, 8, 1),
            nn.ConvTranspose2d(8, 8, 4, 2), nn.PReLU(8), nn.GroupNorm(2, 8), nn.Flatten(), nn.LazyLinear(7),
        ),
        lambda: torch.randn(4, 3, 9, 9),
    ),
}  # fmt: skip


@pytest.mark.parametrize("reach", [Reach.EVERY, Reach.DEEP])
@pytest.mark.parametrize("name", MODELS)
def test_a_whole_plan_does_what_it_says_and_nothing_else(name: str, reach: Reach, emitted: ModuleType) -> None:
    make, draw = MODELS[name]
    torch.manual_seed(0)
    model, other, inputs = make(), make(), draw()
    for built in (model, other):
        built(inputs)
    trace = audit(model, inputs).trace
    assert trace is not None
    settings = Planner(trace, ()).plan(reach)
    assert any(setting.draws for setting in settings)
    code = emitted.code_of(model, settings)
    before = emitted.values_of(other)
    run(code, other)
    assert list(emitted.differences(other, before, settings)) == []
    assert emitted.foreign_calls(code) == []
    assert len(code.splitlines()) <= 8 + 2 * len({setting.parameter for setting in settings})


def test_what_is_not_as_planned_is_seen(emitted: ModuleType) -> None:
    torch.manual_seed(0)
    model = Stack(torch.tanh, depth=6)
    trace = audit(model, vectors()).trace
    assert trace is not None
    settings = Planner(trace, ()).plan(Reach.EVERY)
    before = emitted.values_of(model)
    run(emitted.code_of(model, settings), model)
    assert list(emitted.differences(model, before, settings)) == []
    with torch.no_grad():
        model.layers[2].weight *= 1.1
        model.layers[3].bias[0] = 0.1
    assert len(list(emitted.differences(model, before, settings))) == 2
    fewer = [setting for setting in settings if setting.parameter != "head.weight"]
    (extra,) = set(emitted.differences(model, before, fewer)) - set(emitted.differences(model, before, settings))
    assert extra == "head.weight is not in the plan and was changed"
    assert emitted.foreign_calls("import os\nos.remove('x')\nnn.init.zeros_(a)") == ["os.remove"]


def test_old_weight_norm_is_set_through_direction_and_length(emitted: ModuleType) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        layers = [nn.utils.weight_norm(nn.ConvTranspose2d(4, 4, 3), dim=1) for _ in range(4)]
    model = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())])
    trace = audit(model, torch.randn(4, 4, 8, 8)).trace
    assert trace is not None
    settings = Planner(trace, ()).plan(Reach.EVERY)
    assert {s.parameter.rpartition(".")[2] for s in settings} >= {"weight_v", "weight_g"}
    before = emitted.values_of(model)
    run(emitted.code_of(model, settings), model)
    assert list(emitted.differences(model, before, settings)) == []
    model(torch.randn(4, 4, 8, 8))
    assert torch.allclose(model[2].weight, model[2].weight_v, atol=1e-6)
