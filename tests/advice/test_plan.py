"""Plans from real traces: what is set at which reach, with which gain, and what is left alone."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from initaudit import audit
from initaudit.advice.apply import apply_
from initaudit.advice.facts import facts_of
from initaudit.advice.plan import Planner, Reach
from initaudit.advice.settings import Setting
from initaudit.advice.snippet import init_function
from initaudit.curing import run
from initaudit.records import Finding, Severity
from tests.advice.models import Residual, Stack, vectors


def plan(model: nn.Module, inputs: Tensor, *findings: Finding, reach: Reach = Reach.ALL) -> dict[str, Setting]:
    trace = audit(model, inputs).trace
    assert trace is not None
    return {s.parameter: s for s in Planner(trace, findings).plan(reach) if s.rows is None}


def alarm(fqn: str, *affected: str) -> Finding:
    return Finding("IA101", "x", Severity.ERROR, fqn, "", affected=affected)


@pytest.mark.parametrize(
    ("phi", "gains"),
    [
        (F.relu, (2**0.5, 2**0.5, 1.0)),
        (F.gelu, (1.0, 1.5335, 1.0)),
        (F.elu, (1.0, 1.2452, 1.0)),
        (torch.tanh, (1.5925, 1.5925, 1.0)),
        (torch.sigmoid, (1.0, 4.7226, 1.0)),
    ],
)
def test_gains_of_the_first_the_inner_and_the_last_layer(phi: object, gains: tuple[float, float, float]) -> None:
    torch.manual_seed(0)
    model = Stack(phi, depth=4)  # type: ignore[arg-type]
    nn.init.zeros_(model.head.bias)
    for layer in (*model.layers, model.head):
        nn.init.normal_(layer.weight, std=3.0)
    found = plan(model, vectors())
    for name, gain in zip(("layers.0", "layers.2", "head"), gains, strict=True):
        assert found[f"{name}.weight"].value * 8 == pytest.approx(gain, rel=1e-3)


@pytest.mark.parametrize("phi", [torch.sign, lambda x: F.relu(x - 1e3)], ids=["no slope", "nothing but zeros"])
def test_a_function_that_no_weight_outweighs_asks_for_no_infinite_one(phi: Callable[[Tensor], Tensor]) -> None:
    report = audit(Stack(phi, depth=4), vectors())
    for reach in Reach:
        settings = Planner(report.trace, report.findings).plan(reach)
        assert all(math.isfinite(s.value) for s in settings)
    assert all(f.advice is None or f.advice.std is None or math.isfinite(f.advice.std) for f in report.findings)


class OneTable(nn.Module):
    """A table that is looked up and multiplied by the one module that owns it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 64)
        nn.init.normal_(self.embed.weight, std=5.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.embed(x), self.embed.weight)


def test_a_table_that_is_multiplied_too_has_the_std_of_a_head() -> None:
    found = plan(OneTable(), torch.randint(50, (4, 9)))
    assert found["embed.weight"].value == pytest.approx(1 / 8)


def test_a_named_layer_is_set_and_its_neighbours_are_not() -> None:
    model = Stack(F.relu, depth=6)
    found = plan(model, vectors(), alarm("layers.2", "layers.4"), reach=Reach.NAMED)
    assert set(found) == {"layers.2.weight", "layers.2.bias", "layers.4.weight", "layers.4.bias"}


def test_notes_name_nothing() -> None:
    note = replace(alarm("layers.2"), severity=Severity.NOTE)
    assert plan(Stack(F.relu), vectors(), note, reach=Reach.NAMED) == {}


def test_offsets_are_only_biases_that_outweigh_and_norms() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    nn.init.constant_(model[0].bias, 9.0)
    nn.init.constant_(model[1].weight, 0.1)
    found = plan(model, vectors(), alarm("0", "3"), reach=Reach.OFFSETS)
    assert {name: s.scheme for name, s in found.items()} == {"0.bias": "zeros_", "1.weight": "ones_"}


def test_what_depth_asks_for_is_orthogonal_with_slope_one() -> None:
    found = plan(Stack(torch.tanh, depth=4), vectors(), reach=Reach.DEEP)
    assert {s.scheme for name, s in found.items() if "weight" in name} == {"orthogonal_"}
    assert found["layers.1.weight"].value == pytest.approx(1 / 8)


def test_residual_branches_end_smaller_and_their_beginnings_do_not() -> None:
    found = plan(Residual(blocks=8), vectors())
    assert found["down.3.weight"].value == pytest.approx(1 / 8 / math.sqrt(2 * 8))
    assert found["up.3.weight"].value == pytest.approx(2**0.5 / 8)


class PreNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(4))
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        return x


def test_normalized_branches_are_not_scaled() -> None:
    found = plan(PreNorm(), vectors())
    assert found["layers.1.weight"].value == pytest.approx(1 / 8)


def test_zeros_on_purpose_and_frozen_weights_stay() -> None:
    model = Stack(F.relu, depth=3)
    nn.init.zeros_(model.head.weight)
    model.layers[0].weight.requires_grad_(False)
    found = plan(model, vectors())
    assert "head.weight" not in found
    assert "layers.0.weight" not in found
    assert "layers.1.weight" in found


def test_gains_of_zero_that_are_meant_stay_but_not_where_all_are() -> None:
    model = PreNorm()
    nn.init.zeros_(model.norms[3].weight)
    meant = Finding("IA304", "symmetric-units", Severity.NOTE, "norms.3", "")
    assert "norms.3.weight" not in plan(model, vectors(), meant)
    for norm in model.norms:
        nn.init.zeros_(norm.weight)
    assert "norms.3.weight" in plan(model, vectors(), meant)


NORMED = {
    "old": nn.utils.weight_norm,
    "new": nn.utils.parametrizations.weight_norm,
    "whole": lambda layer: nn.utils.parametrizations.weight_norm(layer, dim=None),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("kind", NORMED)
def test_under_weight_norm_the_direction_is_drawn_and_its_length_follows(kind: str) -> None:
    model = nn.Sequential(*[part for _ in range(3) for part in (NORMED[kind](nn.Linear(64, 64)), nn.ReLU())])
    found = plan(model, vectors())
    (direction, length), *others = [
        [name for name in found if name.startswith(f"{i}.") and "bias" not in name] for i in (0, 2, 4)
    ]
    assert len(others) == 2
    assert (found[direction].scheme, found[direction].value) == ("kaiming_normal_", pytest.approx(2**0.5 / 8))
    assert (found[length].scheme, found[length].of) == ("length", direction)
    apply_(model, found.values())
    assert model[2].weight.std().item() == pytest.approx(2**0.5 / 8, rel=0.05) or kind == "old"
    model(vectors())
    assert model[2].weight.std().item() == pytest.approx(2**0.5 / 8, rel=0.05)


@pytest.mark.parametrize("normed", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_what_spectral_norm_scales_away_is_no_gain(normed: Callable[[nn.Module], nn.Module]) -> None:
    """With singular values that are all one nothing is lost but what the activation takes."""
    model = nn.Sequential(*[part for _ in range(3) for part in (normed(nn.Linear(64, 64)), nn.ReLU())])
    found = plan(model, vectors())
    assert [s.scheme for name, s in found.items() if "bias" not in name] == ["orthogonal_"] * 3
    apply_(model, found.values())
    model(vectors())
    assert model[2].weight.square().mean().sqrt().item() == pytest.approx(1 / 8, rel=1e-3)


def test_weights_of_another_parametrization_are_left_alone() -> None:
    class Symmetric(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.triu() + x.triu(1).transpose(-1, -2)

    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(3)])
    for layer in model:
        nn.utils.parametrize.register_parametrization(layer, "weight", Symmetric())
    assert not any("weight" in name for name in plan(model, vectors()))


def test_what_is_as_it_should_be_stays() -> None:
    torch.manual_seed(0)
    model = Stack(F.relu, depth=5)
    for layer in model.layers:
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    nn.init.kaiming_normal_(model.head.weight, nonlinearity="linear")
    nn.init.zeros_(model.head.bias)
    assert plan(model, vectors()) == {}


class Product(nn.Module):
    """``x @ w + b`` or ``x @ w.t() + b`` after a sigmoid of a linear layer."""

    def __init__(self, *, turned: bool, added: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.w, self.b = nn.Parameter(torch.randn(64, 64)), nn.Parameter(torch.ones(64))
        self.turned, self.added = turned, added

    def second(self, x: Tensor) -> Tensor:
        weight = self.w.t() if self.turned else self.w
        return torch.addmm(self.b, x, weight) if self.added else x @ weight + self.b

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.sigmoid(self.first(x)))


class Maps(nn.Module):
    """A convolution of maps that have passed a sigmoid."""

    def __init__(self, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(8, 8, 3), second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.sigmoid(self.first(x)))


@pytest.mark.parametrize("as_code", [True, False])
@pytest.mark.parametrize(
    ("model", "inputs", "name"),
    [
        (Product(turned=False), (32, 64), "b"),
        (Product(turned=True), (32, 64), "b"),
        (Product(turned=False, added=True), (32, 64), "b"),
        (Maps(nn.Conv1d(8, 8, 3)), (16, 8, 12), "second.bias"),
        (Maps(nn.Conv1d(8, 4, 3, groups=2)), (16, 8, 12), "second.bias"),
        (Maps(nn.ConvTranspose1d(8, 8, 3)), (16, 8, 12), "second.bias"),
        (Maps(nn.ConvTranspose1d(8, 4, 3)), (16, 8, 12), "second.bias"),
    ],
)
def test_the_mean_is_taken_off_along_the_inputs(
    model: nn.Module, inputs: tuple[int, ...], name: str, as_code: bool
) -> None:
    settings = plan(model, torch.randn(inputs), reach=Reach.EVERY)
    assert settings[name].scheme == "centre"
    if as_code:
        run(init_function(tuple(settings.values()), facts_of(model), {}, title="x"), model)
    else:
        apply_(model, settings.values())
    mean = torch.full((1, *inputs[1:]), 0.5)
    out = model.second(mean)  # type: ignore[operator]
    inner = out if out.ndim == 2 else out[..., 2:-2]  # a transposed convolution adds up less at the ends
    assert inner.abs().max().item() == pytest.approx(0, abs=1e-4)


def test_what_cannot_be_centred_gets_no_gain_for_it() -> None:
    # A last layer's gain is 1 either way; one before a sigmoid has that of the slope where the mean is taken off.
    open_, frozen = (Maps(nn.Sequential(nn.Conv1d(8, 8, 3), nn.Sigmoid())) for _ in range(2))
    frozen.second[0].bias.requires_grad_(False)  # type: ignore[index]
    gains = []
    for model in (open_, frozen):
        found = plan(model, torch.randn(16, 8, 12), reach=Reach.EVERY)
        gains.append(found["second.0.weight"].value * math.sqrt(24))
    assert gains == [pytest.approx(4.7226, rel=1e-3), pytest.approx(1.0)]
    strided = plan(Maps(nn.ConvTranspose1d(8, 8, 3, stride=2)), torch.randn(16, 8, 12), reach=Reach.EVERY)
    assert strided["second.bias"].scheme == "zeros_"
